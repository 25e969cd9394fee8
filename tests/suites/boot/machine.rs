//! The booted machine itself, without the agent: the real systemd, resolver and tailscaled.service.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devbox_lab::devbox::{Identity, LIMIT};
use devbox_lab::machine::{Booted, Link, METADATA, eventually, story};
use devbox_lab::scene::Scene;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

const UNIT: &str = "tailscaled.service";

/// The one node of the tailnet that has this name.
async fn node(scene: &Scene, name: &str) -> Result<Identity> {
    let nodes = scene.platform.nodes().await?;
    let found: Vec<_> = nodes.iter().filter(|node| node.given_name == name).collect();
    ensure!(found.len() == 1, "control has {} nodes named {name}", found.len());
    Ok(Identity::from(found[0]))
}

/// Waits until tailscaled says that it is connected.
async fn running(machine: &Booted) -> Result<()> {
    let look = || async {
        let status = machine.run("tailscale", &["status", "--json", "--peers=false"]).await;
        let status: serde_json::Value = serde_json::from_str(&status.unwrap_or_default()).unwrap_or_default();
        Ok((status["BackendState"] == "Running" && status["Self"]["Online"] == true).then_some(()))
    };
    eventually("tailscaled to be online", LIMIT, look).await
}

#[test]
fn a_machine_boots_with_no_failed_unit_and_is_somebody_of_its_own() {
    story(|lab| async move {
        let (mut one, mut two) = (lab.booted("one")?, lab.booted("two")?);
        tokio::try_join!(one.boot(), two.boot())?;
        tokio::try_join!(one.settle(), two.settle())?;
        for machine in [&one, &two] {
            assert_eq!(machine.failed_units().await?, Vec::<String>::new());
            assert_eq!(machine.run("cat", &["/proc/1/comm"]).await?, "systemd\n");
            assert_eq!(machine.run("hostname", &[]).await?, "debian\n", "the image's");
            assert_eq!(machine.show("", "Virtualization").await?, "systemd-nspawn");
        }
        for file in ["/etc/machine-id", "/proc/sys/kernel/random/boot_id"] {
            assert_ne!(one.run("cat", &[file]).await?, two.run("cat", &[file]).await?, "{file}");
        }
        let (began, finished) = (one.started().await?, one.moment("", "FinishTimestamp").await?);
        tracing::info!(boot = ?finished.context("the boot has finished")?.saturating_sub(began), "booted");

        one.write("/root/mark", "ours")?;
        assert_eq!(one.run("cat", &["/root/mark"]).await?, "ours");
        ensure!(!two.path("/root/mark").exists(), "the other machine has a disk of its own");
        Ok(())
    });
}

#[test]
fn a_machine_reaches_the_platform_and_the_other_way_round() {
    story(|lab| async move {
        let mut machine = lab.booted("box")?;
        machine.boot_with(&[], Link::Down).await?;
        machine.settle().await?;
        let call = || machine.visit(|| async { TcpStream::connect((METADATA, 80)).await.map(drop) });
        let refused = call()?.join().await?;
        assert!(refused.is_err_and(|error| error.kind() == std::io::ErrorKind::NetworkUnreachable));

        machine.link_up()?;
        let listener = TcpListener::bind((METADATA, 80)).await?;
        let accepted = tokio::spawn(async move { listener.accept().await.map(|(_, from)| from) });
        call()?.join().await??;
        assert_eq!(accepted.await??.ip(), machine.address());

        let (tell, told) = tokio::sync::oneshot::channel();
        let served = machine.visit(move || async move {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).await?;
            tell.send(()).map_err(|()| std::io::ErrorKind::BrokenPipe)?;
            listener.accept().await
        })?;
        told.await.context("the server did not listen")?;
        TcpStream::connect((machine.address(), 80)).await?;
        served.join().await??;
        Ok(())
    });
}

#[test]
fn tailscaled_joins_and_its_names_are_resolved_and_reached() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (mut devbox, laptop) = (scene.booted("devbox")?, scene.machine("laptop")?);
        devbox.write("/etc/hostname", "devbox\n")?;
        devbox.boot().await?;
        devbox.settle().await?;
        assert_eq!(devbox.show(UNIT, "ActiveState").await?, "active", "the package enabled it");
        scene.up_by_hand(&devbox, &scene.platform.user_key("ada").await?).await?;
        scene.join_by_hand(&laptop, &scene.platform.user_key("ada").await?).await?;
        running(&devbox).await?;

        let address = node(&scene, "laptop").await?.addresses.first().context("a node has an address")?.clone();
        let resolve = || async {
            let said = devbox.run("resolvectl", &["query", "--type=A", "--legend=no", "laptop.lab.ts.test"]).await;
            Ok(said.ok().filter(|said| said.contains(&address)))
        };
        eventually("the name of the laptop", LIMIT, resolve).await?;

        let (tell, told) = tokio::sync::oneshot::channel();
        let served = laptop.visit(move || async move {
            let listener = TcpListener::bind("[::]:80").await?;
            tell.send(()).map_err(|()| std::io::ErrorKind::BrokenPipe)?;
            listener.accept().await.map(|(_, from)| from)
        })?;
        told.await.context("the server did not listen")?;
        let called = devbox.visit(|| async {
            let mut nothing = Vec::new();
            TcpStream::connect("laptop.lab.ts.test:80").await?.read_to_end(&mut nothing).await
        })?;
        called.join().await??;
        let from = served.join().await??.ip().to_canonical().to_string();
        assert!(node(&scene, "devbox").await?.addresses.contains(&from), "{from} is the devbox's in the tailnet");
        Ok(())
    });
}

#[test]
fn a_reboot_keeps_the_node_and_a_power_cut_too() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = scene.booted("devbox")?;
        devbox.boot().await?;
        devbox.settle().await?;
        scene.up_by_hand(&devbox, &scene.platform.user_key("ada").await?).await?;
        running(&devbox).await?;
        let (before, id) = (node(&scene, "debian").await?, fs::read_to_string(devbox.path("/etc/machine-id"))?);
        devbox.write("/run/mark", "lost")?;

        devbox.reboot().await?;
        devbox.settle().await?;
        running(&devbox).await?;
        assert_eq!(node(&scene, "debian").await?, before);
        assert_eq!(fs::read_to_string(devbox.path("/etc/machine-id"))?, id);
        ensure!(!devbox.path("/run/mark").exists(), "/run does not outlive a boot");

        devbox.cut_power().await?;
        devbox.boot().await?;
        devbox.settle().await?;
        running(&devbox).await?;
        assert_eq!(node(&scene, "debian").await?, before);
        let boots = devbox.run("journalctl", &["--list-boots", "--quiet", "--no-pager"]).await?;
        assert_eq!(boots.lines().count(), 3, "the journal is kept: {boots}");
        Ok(())
    });
}

#[test]
fn a_poweroff_stops_units_in_good_order() {
    story(|lab| async move {
        let mut machine = lab.booted("box")?;
        machine.boot_with(&["devbox.word=heard"], Link::Up).await?;
        machine.settle().await?;
        assert_eq!(machine.run("cat", &["/proc/1/cmdline"]).await?.matches("devbox.word=heard").count(), 1);
        let took = machine.power_off().await?;
        ensure!(took < Duration::from_secs(30), "a poweroff took {took:?}");
        tracing::info!(?took, "powered off");
        assert_eq!(machine.processes()?, []);

        machine.boot().await?;
        machine.settle().await?;
        let entries = machine.journal(&["-b", "-1", "_PID=1", &format!("UNIT={UNIT}")]).await?;
        let said = |what: &str| entries.iter().position(|entry| entry.message().contains(what));
        let (stopped, failed) = (said("Stopped tailscaled.service"), said("Failed with result"));
        assert!(stopped.is_some() && failed.is_none(), "{entries:?}");
        Ok(())
    });
}

#[test]
fn a_paused_machine_does_nothing_and_its_logs_tell_when() {
    story(|lab| async move {
        let mut machine = lab.booted("box")?;
        machine.boot().await?;
        machine.settle().await?;
        let mut echo = machine.command("sh");
        echo.args(["-c", "while :; do echo tick; sleep 0.01; done"]);
        let process = machine.spawn(echo)?;
        let ticks = || process.log().map(|log| log.lines().count());
        eventually("a tick", LIMIT, || async { Ok((ticks()? > 0).then_some(())) }).await?;

        machine.freeze()?;
        let before = ticks()?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(ticks()?, before, "what the story started is paused too");
        machine.thaw()?;
        eventually("another tick", LIMIT, || async { Ok((ticks()? > before).then_some(())) }).await?;

        machine.run("logger", &["--tag", "story", "said so"]).await?;
        let look = || async {
            let entries = machine.journal(&["SYSLOG_IDENTIFIER=story"]).await?;
            Ok(entries.into_iter().find(|entry| entry.message() == "said so"))
        };
        let entry = eventually("the entry", LIMIT, look).await?;
        assert!(entry.at() > Some(machine.started().await?), "{entry:?}");
        Ok(())
    });
}
