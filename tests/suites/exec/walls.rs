//! What a command does not reach, what does not reach it, and what it cannot change.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use axum::Router;
use devbox_lab::machine::{Machine, story};
use devbox_lab::scene::Scene;
use devbox_lab::web::{Site, get, reach};
use tokio::net::UnixListener;

use crate::job::{Job, LIMIT};
use crate::peer::Peer;
use crate::public::{GATEWAY6, METADATA6, NAME, Public, V4, V6, on};

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

/// Prints what comes of each URL, by a plain socket and by one that is bound to the way out: `PLAIN BOUND URL`.
fn tried(urls: &[String]) -> String {
    let curl = "curl -gs -o /dev/null --max-time 5 -w '%{http_code} '";
    let list = urls.join(" ");
    format!("for url in {list}; do {curl} \"$url\"; {curl} --interface eth0 \"$url\"; echo \"$url\"; done")
}

/// Reads what [`tried`] printed: whether each answered, plain and bound.
fn answered(text: &str) -> BTreeMap<String, (bool, bool)> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[2].to_owned(), (words[0] != "000", words[1] != "000"))
    };
    text.lines().map(line).collect()
}

fn url(address: impl ToString) -> String {
    match address.to_string() {
        v6 if v6.contains(':') => format!("http://[{v6}]/"),
        v4 => format!("http://{v4}/"),
    }
}

/// Everything that is the host's or meant for it.
fn forbidden(scene: &Scene, machine: &Machine, own6: IpAddr) -> Vec<String> {
    let mut urls: Vec<String> = [url("127.0.0.1"), url("::1"), url(machine.address()), url(own6)].into();
    urls.extend(BRIDGE.map(url));
    urls.extend([url(GATEWAY6), url(METADATA6)]);
    urls.extend([scene.platform.control_url(), scene.platform.metadata_url()]);
    urls
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

        let mut outside = job.command("bash");
        outside.args(["-c", &tried(&[&forbidden[..], &allowed].concat())]);
        let seen = answered(&job.say(outside).await?.answer);
        let missing: Vec<_> = seen.iter().filter(|(_, (plain, _))| !plain).collect();
        ensure!(missing.is_empty(), "not even the host reaches {missing:?}");

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
        let mut outside = job.command("bash");
        outside.args(["-c", &script]);
        let seen = job.say(outside).await?.answer;
        ensure!(seen.starts_with(&format!("0\nthe host\n{V4}\n")), "not even the host has them: {seen}");
        for options in [&[][..], &["--tailnet-only"]] {
            let seen = job.script(options, &script, 0).await?;
            ensure!(seen.starts_with(&format!("1\n\n{V4}\n{V6} ")), "{options:?}: {seen}");
        }
        job.close().await
    });
}

/// Each of these must fail.
const ATTEMPTS: [&str; 13] = [
    "ip link set tailscale0 down",
    "ip addr add 192.0.2.1/32 dev lo",
    "ip route add 192.0.2.0/24 dev tailscale0",
    "ip rule add pref 1 lookup main",
    "nft flush ruleset",
    "nft add table inet mine",
    "unshare -Ur nft flush ruleset",
    "unshare -Ur ip link set tailscale0 down",
    "umount /etc/resolv.conf",
    "cat /proc/1/environ",
    "ls /proc/1/root/",
    "nsenter -t 1 -m true",
    "curl -s --unix-socket /run/devbox-agent-exec/tailscaled.sock http://local-tailscaled.sock/localapi/v0/status",
];

#[test]
fn a_command_cannot_change_its_network_or_reach_what_makes_it() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let attempts = ATTEMPTS.map(|attempt| format!("{attempt} >/dev/null 2>&1 && echo \"{attempt}\"")).join("; ");
        let own = "ls -d /proc/[0-9]* | wc -l; find / -xdev -name 'tailscaled.sock' 2>/dev/null; grep Cap /proc/self/status | sort -u -k2";
        let answer = job.script(&[], &format!("{attempts}; {own}"), 0).await?;
        let lines: Vec<&str> = answer.lines().collect();
        ensure!(lines.len() == 3, "a command can: {answer}");
        // Its PID 1, itself, and what counts them.
        ensure!(lines[0].parse::<u8>()? <= 4, "it sees {} processes", lines[0]);
        ensure!(lines[1].ends_with("0000000000000000"), "it has capabilities: {answer}");
        job.close().await
    });
}

/// Serves a page on two ports.
const SERVERS: &str = "serve() { perl -e 'use IO::Socket::IP; \
    $s = IO::Socket::IP->new(LocalHost => \"::\", V6Only => 0, LocalPort => $ARGV[0], Listen => 9) or die \"$@\\n\"; print \"up\\n\"; $| = 1; \
    while ($c = $s->accept) { while (<$c>) { last if /^\\r?$/ } print $c \"HTTP/1.0 200 OK\\r\\n\\r\\nthe job\"; close $c }' $1 & }; \
    serve 8000; serve 8001; sleep 0.5; echo ready; wait";

#[test]
fn only_published_ports_are_open_to_peers() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (job, peer) = (Job::new(&scene, "ci").await?, Peer::join(&scene).await?);
        for published in [true, false] {
            let options: &[&str] = if published { &["--publish", "8000"] } else { &[] };
            let run = job.start(options, SERVERS).await?;
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
            }
            run.signal(nix::sys::signal::Signal::SIGTERM)?;
            run.wait().await?;
        }
        job.close().await
    });
}
