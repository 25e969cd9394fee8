//! What a command reaches through other nodes.

use anyhow::{Result, ensure};
use devbox_lab::machine::{METADATA, story};
use devbox_lab::scene::{SOCKET, Scene};
use devbox_lab::web::{Site, reach};

use crate::job::{Job, LIMIT};
use crate::peer::{PAGE, Peer};
use crate::public::{Public, V4, V6, on, url};

/// A network behind the peer, of those for documentation (RFC 5737, RFC 3849), and hosts in it.
const SUBNETS: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
const HOSTS: [&str; 2] = ["198.51.100.7", "2001:db8:51::7"];

/// Opens pages one after the other; what does not answer is `none`.
fn pages(addresses: &[&str]) -> String {
    let open = |address: &&str| format!("curl -gs --max-time 10 '{}' || echo -n none; echo; ", url(address));
    addresses.iter().map(open).collect()
}

/// A peer with a network behind it, of which it tells the tailnet.
async fn with_network(scene: &Scene) -> Result<Peer> {
    let peer = Peer::join(scene).await?;
    for host in HOSTS {
        on(&peer.machine, &format!("addr add {host} dev lo")).await?;
    }
    peer.advertise(scene, &format!("--advertise-routes={}", SUBNETS.join(",")), &SUBNETS).await?;
    Ok(peer)
}

/// Lets a machine pass packets on.
async fn forwards(peer: &Peer) -> Result<()> {
    let mut shell = peer.machine.command("sh");
    shell.args(["-c", "echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"]);
    let output = peer.machine.exec(shell).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn routes_of_other_nodes_are_used_when_asked_for() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (job, _peer) = (Job::new(&scene, "ci").await?, with_network(&scene).await?);
        let opened = pages(&HOSTS);
        let without = job.script(&["--wait-for", "peer:80"], &opened, 0).await?;
        assert_eq!(without, "none\nnone\n");
        let with = job.script(&["--accept-routes", "--wait-for", "198.51.100.7:80"], &opened, 0).await?;
        let lines: Vec<&str> = with.lines().collect();
        ensure!(lines.len() == 2 && lines.iter().all(|line| line.ends_with(PAGE)), "{with}");
        job.close().await
    });
}

#[test]
fn what_the_machine_reaches_through_its_own_tailnet_is_out_of_reach() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (job, _peer) = (Job::new(&scene, "ci").await?, with_network(&scene).await?);
        let own = scene.join_by_hand(&job.machine, &scene.platform.tagged_key(&["tag:ci"], true).await?).await?;
        let mut accept = job.machine.command("tailscale");
        accept.arg(format!("--socket={SOCKET}")).args(["set", "--accept-routes"]);
        ensure!(job.machine.exec(accept).await?.status.success(), "it does not accept routes");
        for host in HOSTS {
            reach(&job.machine, &url(host), LIMIT).await?;
        }
        let opened = pages(&HOSTS);
        assert_eq!(job.script(&["--wait-for", "peer:80"], &opened, 0).await?, "none\nnone\n");
        let with = job.script(&["--accept-routes", "--wait-for", "198.51.100.7:80"], &opened, 0).await?;
        ensure!(with.lines().all(|line| line.ends_with(PAGE)), "not by the command's own node: {with}");
        own.stop(LIMIT).await?;
        Ok(())
    });
}

#[test]
fn the_ordinary_network_is_reached_through_an_exit_node_and_the_host_is_not() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (job, peer, public) = (Job::new(&scene, "ci").await?, Peer::join(&scene).await?, Public::open().await?);
        let (job6, peer6) = (public.connect(&job.machine).await?, public.connect(&peer.machine).await?);
        forwards(&peer).await?;
        peer.advertise(&scene, "--advertise-exit-node", &["0.0.0.0/0", "::/0"]).await?;
        for address in [V4, V6] {
            reach(&peer.machine, &url(address), LIMIT).await?;
        }
        let from = |v4: String, v6: String| format!("hello {v4}, this is public\nhello {v6}, this is public\n");
        let opened = pages(&[V4, V6]);
        let without = job.script(&["--wait-for", "peer:80"], &opened, 0).await?;
        assert_eq!(without, from(job.machine.address().to_string(), job6.to_string()));

        let _site = Site::open(&job.machine, 80, "the host").await?;
        let hosts = [job.machine.address().to_string(), job6.to_string(), METADATA.to_string(), "127.0.0.1".to_owned()];
        let all = pages(&[&[V4, V6], &hosts.each_ref().map(String::as_str)[..]].concat());
        let there = job.shell(&all).await?.answer;
        ensure!(!there.contains("none"), "not even the host has them: {there}");
        let through = from(peer.machine.address().to_string(), peer6.to_string()) + &"none\n".repeat(hosts.len());
        for exit in [&peer.v4.to_string(), "peer"] {
            let with = job.script(&["--exit-node", exit, "--wait-for", "peer:80"], &all, 0).await?;
            assert_eq!(with, through, "{exit}");
        }
        job.close().await
    });
}

#[test]
fn a_command_is_not_begun_with_an_exit_node_that_is_none() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (job, peer) = (Job::new(&scene, "ci").await?, Peer::join(&scene).await?);
        for (exit, words) in
            [("peer", "peer is no exit node"), ("gone", "called gone"), ("192.0.2.1", "called 192.0.2.1")]
        {
            job.fails(&["--exit-node", exit], &["failed to use the exit node", words]).await?;
        }
        ensure!(scene.platform.nodes().await?.len() == 1, "a node of a command that was not begun is left");
        drop(peer);
        job.close().await
    });
}
