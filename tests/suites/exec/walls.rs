//! What a command does not reach, what does not reach it, and what it cannot change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use devbox_lab::devbox::Said;
use devbox_lab::machine::{METADATA as LINK_LOCAL, Machine, PLATFORM, eventually, story};
use devbox_lab::scene::Scene;
use devbox_lab::web::{Site, get, reach};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::net::UnixListener;

use crate::arrivals::{Arrivals, expected, sending};
use crate::job::{Job, LIMIT};
use crate::peer::Peer;
use crate::public::{GATEWAY6, METADATA, NAME, Public, V4, V6, on, url};
use crate::tree::{Tree, sees_closed_processes};

/// Addresses of the host besides its main ones: a container bridge's, and those of a tailnet of its own.
const BRIDGE: [&str; 4] = ["172.17.0.1", "fd00:db9::1", "100.99.0.1", "fd7a:115c:a1e0:99::1"];

/// Gives a machine those addresses, and a website at every one that it has.
async fn furnish(machine: &Machine) -> Result<Site> {
    on(machine, "link add docker0 type bridge").await?;
    on(machine, "link set docker0 up").await?;
    for address in BRIDGE {
        let (prefix, nodad) = if address.contains(':') { (128, "nodad") } else { (32, "") };
        on(machine, &format!("addr add {address}/{prefix} dev docker0 {nodad}")).await?;
    }
    Site::open(machine, 80, "the host").await
}

/// Prints what comes of each URL, by a plain socket and by one that is bound to the way out: `PLAIN SECONDS BOUND SECONDS URL`.
fn tried(urls: &[String]) -> String {
    let list = urls.join(" ");
    format!(
        "try() {{ curl -gs -o /dev/null --max-time 5 -w '%{{http_code}} %{{time_total}} ' \"$@\"; }}; \
         for url in {list}; do (echo \"$(try $url)$(try --interface eth0 $url)$url\") & done; wait"
    )
}

/// Reads what [`tried`] printed: whether each answered, plain and bound.
fn answered(text: &str) -> BTreeMap<String, (bool, bool)> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[4].to_owned(), (words[0] != "000", words[2] != "000"))
    };
    text.lines().map(line).collect()
}

/// Everything that is the host's or meant for it.
fn forbidden(scene: &Scene, machine: &Machine, own6: IpAddr) -> Vec<String> {
    let mut urls: Vec<String> = [url("127.0.0.1"), url("::1"), url(machine.address()), url(own6)].into();
    urls.extend(BRIDGE.map(url));
    urls.push(url(GATEWAY6));
    urls.extend(METADATA.map(url));
    urls.extend([scene.platform.control_url(), scene.platform.metadata_url()]);
    urls
}

/// Whether the user reaches all of this without exec.
async fn reaches(job: &Job<'_>, urls: &[String]) -> Result<Option<()>> {
    let seen = answered(&job.shell(&tried(urls)).await?.answer);
    Ok(seen.values().all(|(plain, _)| *plain).then_some(()))
}

#[test]
fn what_is_the_hosts_is_out_of_reach_and_the_ordinary_network_is_not() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (job, peer, public) = (Job::new(&scene, "ci").await?, Peer::join(&scene).await?, Public::open().await?);
        let own6 = public.connect(&job.machine).await?;
        let _host = furnish(&job.machine).await?;
        let forbidden = forbidden(&scene, &job.machine, own6);
        let allowed = [url(V4), url(V6), url(NAME)];
        let tailnet = [url(peer.v4), url(peer.v6)];
        let all = [&forbidden[..], &allowed, &tailnet].concat();

        let there = [&forbidden[..], &allowed].concat();
        // Some addresses of IPv6 take a moment before they are used.
        eventually("the host to reach all of it", LIMIT, || reaches(&job, &there)).await?;

        let inside = answered(&job.script(&["--wait-for", "peer:80"], &tried(&all), 0).await?);
        for url in &forbidden {
            assert_eq!(inside[url], (false, false), "{url} from inside, plain and bound to the interface");
        }
        for url in &allowed {
            assert_eq!(inside[url], (true, true), "{url} from inside");
        }
        for url in &tailnet {
            ensure!(inside[url].0, "{url}, the peer, from inside");
        }
        let alone = answered(&job.script(&["--tailnet-only", "--wait-for", "peer:80"], &tried(&all), 0).await?);
        for url in forbidden.iter().chain(&allowed) {
            assert_eq!(alone[url], (false, false), "{url} with the tailnet only");
        }
        for url in &tailnet {
            ensure!(alone[url].0, "{url}, the peer, with the tailnet only");
        }
        job.close().await
    });
}

fn sent(said: &Said) -> Result<()> {
    ensure!(said.code == 0 && said.answer == "sent\n" && said.talk.is_empty(), "{said:?}");
    Ok(())
}

#[test]
fn nothing_is_sent_to_what_is_the_hosts_not_even_what_is_never_answered() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (job, public) = (Job::new(&scene, "ci").await?, Public::open().await?);
        let own6 = public.connect(&job.machine).await?;
        let _host = furnish(&job.machine).await?;
        let (host, platform) = (Arrivals::at(&job.machine).await?, Arrivals::at_platform()?);
        let text = |addresses: &[&str]| addresses.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
        let mut hosts = text(&["127.0.0.1", "127.0.0.53", "::1", "224.0.0.1", "255.255.255.255", "ff02::1%eth0"]);
        hosts.extend([job.machine.address().to_string(), own6.to_string()]);
        hosts.extend(text(&BRIDGE));
        let mut platforms = text(&METADATA);
        platforms.extend([GATEWAY6.to_owned(), PLATFORM.to_string(), LINK_LOCAL.to_string()]);
        let allowed = text(&[V6, V4]);
        let command = ["bash", "-c", &sending(&[&hosts[..], &platforms, &allowed].concat())];

        // Without exec it arrives, and is counted; some addresses of IPv6 take a moment before they are used.
        let beyond = [&platforms[..], &allowed].concat();
        let counted = || async {
            let mut outside = job.command(command[0]);
            outside.args(&command[1..]);
            let said = job.say(outside).await?;
            let (at_host, at_platform) = (host.take().await?, platform.take().await?);
            let all = expected(&["plain"], &hosts).is_subset(&at_host)
                && expected(&["plain"], &beyond).is_subset(&at_platform);
            Ok((said.code == 0 && all).then_some(()))
        };
        eventually("all of it to arrive without exec", LIMIT, counted).await?;

        for run in [job.exec(&[], &command), job.exec_by_root(&[], &command)] {
            sent(&job.say(run).await?)?;
            let arrived = (host.take().await?, platform.take().await?);
            assert_eq!(arrived, (BTreeSet::new(), expected(&["plain", "bound"], &allowed)));
        }
        job.close().await
    });
}

#[test]
fn the_hosts_resolver_and_abstract_sockets_are_not_there_but_public_names_are() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (job, _public) = (Job::new(&scene, "ci").await?, Public::open().await?);
        let _abstract = job.machine.visit(|| async {
            axum::serve(UnixListener::bind("\0hosts")?, Router::new().fallback(|| async { "the host" })).await
        })?;
        let script = format!(
            "dig +short +time=2 +tries=1 @{} {NAME} | grep -q {V4}; echo $?; \
             curl -s --max-time 5 --abstract-unix-socket hosts http://host/; echo; dig +short {NAME}; getent ahostsv6 {NAME} | head -1",
            devbox_lab::machine::PLATFORM
        );
        let seen = job.shell(&script).await?.answer;
        ensure!(seen.starts_with(&format!("0\nthe host\n{V4}\n")), "not even the host has them: {seen}");
        for options in [&[][..], &["--tailnet-only"]] {
            let seen = job.script(options, &script, 0).await?;
            ensure!(seen.starts_with(&format!("1\n\n{V4}\n{V6} ")), "{options:?}: {seen}");
        }
        // The first of these is nobody's.
        let servers = format!("nameserver 192.0.2.53\nnameserver {}\n", devbox_lab::machine::PLATFORM);
        job.machine.root().write("/etc/resolv.conf", servers)?;
        for options in [&[][..], &["--tailnet-only"]] {
            assert_eq!(job.script(options, &format!("dig +short {NAME}"), 0).await?, format!("{V4}\n"), "{options:?}");
        }
        job.close().await
    });
}

/// What root of the sandbox's namespaces can do, in this order, and its command must not.
const ATTEMPTS: [&str; 7] = [
    "ip addr add 192.0.2.1/32 dev lo",
    "ip route add 192.0.2.0/24 dev tailscale0",
    "ip rule add pref 1 lookup main",
    "nft add table inet mine",
    "nft flush ruleset",
    "ip link set tailscale0 down",
    "umount /etc/resolv.conf",
];

/// The same of what meets a process that is closed to tracing.
const AT_INIT: [&str; 3] = ["cat /proc/1/environ", "ls /proc/1/root/", "nsenter -t 1 -m true"];

/// The same with what the command may do in namespaces of its own.
const OF_ITS_OWN: [(&str, &str); 2] = [
    ("unshare -Ur nft flush ruleset", "unshare -Urn nft flush ruleset"),
    ("unshare -Ur ip link set tailscale0 down", "unshare -Urn ip link set lo down"),
];

/// Asks tailscaled for its status, wherever its socket may be.
const LOCAL_API: &str = r#"for socket in $(ss -xlH | awk '/tailscaled/ {print $5}'); do for root in / /proc/[0-9]*/root/; do
    curl -fs --unix-socket "$root$socket" http://local-tailscaled.sock/localapi/v0/status; done; done | grep -o BackendState"#;

/// Tries each, and prints those that succeed.
fn successes<'a>(attempts: impl Iterator<Item = &'a str>) -> String {
    attempts.map(|attempt| format!("{attempt} >/dev/null 2>&1 && echo \"{attempt}\"; ")).collect()
}

/// Runs a shell's script as root of the machine in namespaces of one of a run's processes; it must succeed.
async fn by_root(job: &Job<'_>, namespaces: &[&str], of: Pid, script: &str) -> Result<()> {
    let mut nsenter = job.machine.command("nsenter");
    nsenter.args(["--target", &of.to_string()]).args(namespaces).args(["--", "bash", "-c", script]);
    let said = job.say(nsenter).await?;
    ensure!(said.code == 0, "not even root can {script}: {said:?}");
    Ok(())
}

#[test]
fn a_command_cannot_change_its_network_or_reach_what_makes_it() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let attempts = successes(ATTEMPTS.into_iter().chain(AT_INIT).chain(OF_ITS_OWN.map(|(attempt, _)| attempt)));
        let possible = successes(OF_ITS_OWN.into_iter().map(|(_, possible)| possible));
        let own = "ls -d /proc/[0-9]* | wc -l; grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status | sort -u -k2";
        let script = format!("{possible}echo and; {attempts}{LOCAL_API}; {own}; echo ready; exec sleep 1000");
        let run = job.start(&[], &script).await?;
        let (log, can) = (run.log()?, OF_ITS_OWN.map(|(_, possible)| possible).join("\n"));
        let rest = log.strip_prefix(&format!("{can}\nand\n"));
        let lines: Vec<&str> = rest.with_context(|| format!("it cannot even {can}: {log}"))?.lines().collect();
        ensure!(lines.len() == 3, "a command can: {log}");
        // Its PID 1, itself, and what counts them.
        ensure!(lines[0].parse::<u8>()? <= 4, "it sees {} processes", lines[0]);
        ensure!(lines[1].ends_with("0000000000000000"), "it has capabilities: {log}");

        // Each can be done where there is the power to.
        let tree = Tree::of(run.pid()).await?;
        by_root(&job, &["--net", "--mount", "--pid"], tree.part("sandbox")?, LOCAL_API).await?;
        let at_init = if sees_closed_processes()? { &AT_INIT[..] } else { &[] };
        for attempt in ATTEMPTS.iter().chain(at_init) {
            by_root(&job, &["--net", "--mount", "--pid"], tree.part("init")?, attempt).await?;
        }
        run.signal(Signal::SIGKILL)?;
        run.wait().await?;
        job.is_clean().await
    });
}

/// Serves a page on two ports, and is ready when both are there, over either family.
const SERVERS: &str = "serve() { perl -e 'use IO::Socket::IP; \
    $s = IO::Socket::IP->new(LocalHost => \"::\", V6Only => 0, LocalPort => $ARGV[0], Listen => 9) or die \"$@\\n\"; print \"up\\n\"; $| = 1; \
    while ($c = $s->accept) { while (<$c>) { last if /^\\r?$/ } print $c \"HTTP/1.0 200 OK\\r\\n\\r\\nthe job\"; close $c }' $1 & }; \
    serve 8000; serve 8001; \
    for port in 8000 8001; do until curl -gfs -o /dev/null --max-time 5 http://127.0.0.1:$port/ http://[::1]:$port/; do sleep 0.1; done; done; \
    echo ready; wait";

#[test]
fn only_published_ports_are_open_to_peers() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (job, peer) = (Job::new(&scene, "ci").await?, Peer::join(&scene).await?);
        for published in [true, false] {
            // The way between the two is there, so that it is a wall when nothing comes through.
            let options = ["--wait-for", "peer:80", "--set", "tailnet.ssh=true", "--publish", "8000"];
            let run = job.start(if published { &options } else { &options[..4] }, SERVERS).await?;
            let node = job.nodes().await?;
            ensure!(node.len() == 1, "{} nodes", node.len());
            for address in &node[0].ip_addresses {
                let page = |port: u16| format!("{}:{port}/", url(address).trim_end_matches('/'));
                if published {
                    assert_eq!(reach(&peer.machine, &page(8000), LIMIT).await?, "the job");
                    assert_eq!(reach(&peer.machine, &page(8000), Duration::from_secs(5)).await?, "the job", "again");
                } else {
                    ensure!(get(&peer.machine, &page(8000)).await.is_err(), "an unpublished port is open");
                }
                ensure!(get(&peer.machine, &page(8001)).await.is_err(), "another port is open");
                let ssh =
                    format!("timeout 5 bash -c ': <>/dev/tcp/{address}/22' 2>/dev/null && echo open || echo closed");
                assert_eq!(peer.script(&ssh).await?, "closed\n", "Tailscale SSH");
            }
            run.signal(Signal::SIGTERM)?;
            run.wait().await?;
        }
        job.close().await
    });
}
