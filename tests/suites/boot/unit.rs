//! tailscaled's unit and package in everybody's hands: whatever becomes of them, systemd and the agent do not fight, the reason is named, and
//! the same node comes back by itself.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_lab::devbox::{AGENT, Installed, LIMIT, Package, TAILSCALED};
use devbox_lab::machine::story;
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::routes::{EXCHANGE, INSTANCE, KEYS, TOKEN};
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;

const PROGRAM: &str = "/usr/sbin/tailscaled";

/// What stays the same whatever happens to tailscaled: the agent's process, and the node.
async fn constant(devbox: &Installed<'_>) -> Result<(u32, devbox_lab::devbox::Identity, usize)> {
    Ok((devbox.main_pid(AGENT).await?, devbox.identity().await?, devbox.minted()))
}

#[test]
fn a_tailscaled_that_dies_or_freezes_is_replaced_and_the_node_is_the_same() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Installed::joined(&scene, "web").await?;
        let before = constant(&devbox).await?;

        let killed = Instant::now();
        devbox.signal(TAILSCALED, "KILL").await?;
        devbox.online_after_restarts(1).await?;
        tracing::info!(took = ?killed.elapsed(), "killed, and online again");
        // Started once, by systemd itself: the agent did not race it.
        assert_eq!(devbox.machine.show(TAILSCALED, "NRestarts").await?, "1");

        let frozen = Instant::now();
        devbox.signal(TAILSCALED, "STOP").await?;
        devbox.until_phase(Phase::Degraded, Code::TailscaledHung).await?;
        devbox.expect(&["status", "--check", "online"], 1).await.context("status answers all the while")?;
        devbox.online_after_restarts(2).await?;
        tracing::info!(took = ?frozen.elapsed(), "frozen, and online again");
        assert_eq!(constant(&devbox).await?, before);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_unit_that_cannot_start_says_why_and_heals_as_soon_as_it_can() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Installed::joined(&scene, "web").await?;
        let before = constant(&devbox).await?;

        devbox.drop_in(TAILSCALED, "[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo no such luck; exit 1'\n")?;
        devbox.systemctl(&["daemon-reload"]).await?;
        devbox.signal(TAILSCALED, "KILL").await?;
        let crashing = devbox.until_phase(Phase::Degraded, Code::TailscaledCrashloop).await?;
        let detail = crashing.reason.context("it has a reason")?.detail;
        ensure!(detail.contains("no such luck"), "its last words are not told: {detail}");
        // Five starts are systemd's own; the agent's next come seconds apart.
        ensure!(starts(&devbox).await? <= 12, "it was started {} times", starts(&devbox).await?);
        devbox.without_drop_in(TAILSCALED)?;
        devbox.systemctl(&["daemon-reload"]).await?;
        devbox.online().await?;

        let (there, away) = (devbox.machine.path(PROGRAM), devbox.machine.path("/root/tailscaled"));
        fs::rename(&there, &away).context("failed to move tailscaled away")?;
        devbox.signal(TAILSCALED, "KILL").await?;
        devbox.until_phase(Phase::Blocked, Code::TailscaledMissing).await?;
        fs::rename(&away, &there).context("failed to move tailscaled back")?;
        devbox.systemctl(&["daemon-reload"]).await?;
        devbox.online().await?;

        devbox.systemctl(&["mask", "--now", TAILSCALED]).await?;
        devbox.until_phase(Phase::Blocked, Code::TailscaledMasked).await?;
        devbox.expect(&["refresh"], 0).await.context("a refresh tries at once")?;
        devbox.until_phase(Phase::Blocked, Code::TailscaledMasked).await?;
        assert_eq!(devbox.machine.show(TAILSCALED, "LoadState").await?, "masked", "the agent never unmasks");
        devbox.systemctl(&["unmask", TAILSCALED]).await?;
        devbox.online().await?;
        assert_eq!(constant(&devbox).await?, before);
        devbox.close(Left::OneNode).await
    });
}

/// How often PID 1 has tried to start tailscaled in this boot, but for the first time.
async fn starts(devbox: &Installed<'_>) -> Result<usize> {
    let said = devbox.machine.journal(&["_PID=1", &format!("UNIT={TAILSCALED}")]).await?;
    Ok(said.iter().filter(|entry| entry.message().starts_with("Starting ")).count().saturating_sub(1))
}

#[test]
fn a_package_that_is_removed_and_installed_again_heals_without_anybody() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Installed::joined(&scene, "web").await?;
        let before = constant(&devbox).await?;
        // An upgrade first: the package's own scripts restart the unit.
        devbox.install(Package::Tailscale).await?;
        devbox.online_after_restarts(1).await?;
        assert_eq!(constant(&devbox).await?, before);

        devbox.machine.run("dpkg", &["--remove", "tailscale"]).await?;
        devbox.until_phase(Phase::Blocked, Code::TailscaledMissing).await?;
        assert_eq!(devbox.main_pid(TAILSCALED).await?, 0, "nobody started what is being removed");
        devbox.install(Package::Tailscale).await?;
        devbox.online().await?;
        assert_eq!(constant(&devbox).await?, before);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_unit_that_is_slow_and_not_enabled_is_started_all_the_same() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::devbox(&scene, "web")?;
        devbox.machine.enable(TAILSCALED, false)?;
        devbox.drop_in(TAILSCALED, "[Service]\nExecStartPre=/bin/sleep 4\n")?;
        devbox.machine.boot().await?;
        devbox.until_unit(AGENT, "active").await?;
        devbox.until_unit(TAILSCALED, "activating").await?;
        devbox.until_phase(Phase::StartingDaemon, Code::TailscaledStarting).await?;
        devbox.online().await?;
        assert_eq!(devbox.minted(), 1);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_machine_without_a_tun_device_says_so_and_joins_when_it_has_one() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::devbox(&scene, "web")?;
        devbox.drop_in(AGENT, "[Service]\nExecStartPre=+/bin/sh -c 'while [ ! -e /run/go ]; do sleep 0.05; done'\n")?;
        devbox.machine.enable(TAILSCALED, false)?;
        devbox.machine.boot().await?;
        devbox.until_unit(AGENT, "activating").await?;
        // The device is mounted into the machine: put aside, it is as if it had never been there.
        let aside =
            "touch /dev/aside && mount --bind /dev/net/tun /dev/aside && umount /dev/net/tun && rm /dev/net/tun";
        devbox.machine.run("sh", &["-c", aside]).await?;
        devbox.machine.write("/run/go", "")?;
        let without = devbox.until("no_tun", |it| code(it) == Some(Code::NoTun)).await?;
        assert_eq!(without.phase, Phase::StartingDaemon);

        devbox.machine.run("sh", &["-c", "touch /dev/net/tun && mount --bind /dev/aside /dev/net/tun"]).await?;
        devbox.expect(&["refresh"], 0).await?;
        devbox.online().await?;
        devbox.close(Left::OneNode).await
    });
}

fn code(document: &devbox_agent::socket::document::Document) -> Option<Code> {
    document.reason.as_ref().map(|reason| reason.code)
}

/// Restarts tailscaled, once there is one, as an upgrade of its package would.
async fn restart(devbox: &Installed<'_>) -> Result<()> {
    devbox.until_unit(TAILSCALED, "active").await?;
    devbox.systemctl(&["restart", TAILSCALED]).await
}

#[test]
fn a_tailscaled_that_restarts_at_every_step_of_the_join_makes_one_node() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::devbox(&scene, "web")?;
        let (metadata, api) = (&scene.platform.metadata.server, &scene.platform.api.server);
        // More restarts within ten seconds than systemd lets pass.
        devbox.drop_in(TAILSCALED, "[Unit]\nStartLimitIntervalSec=0\n")?;
        let mut held = Vec::new();
        for (server, route) in [(metadata, INSTANCE), (metadata, TOKEN), (api, EXCHANGE), (api, KEYS)] {
            let (fault, hold) = Fault::hold();
            server.faults.next(route, fault.late());
            held.push((server, route, hold));
        }
        devbox.machine.boot().await?;
        for (server, route, hold) in held {
            server.log.wait_for(route, 1, LIMIT).await.with_context(|| route.to_owned())?;
            restart(&devbox).await.with_context(|| route.to_owned())?;
            if route == KEYS {
                scene.platform.control_relay.freeze(devbox.scope());
            }
            hold.release();
        }
        devbox.until_phase(Phase::Joining, Code::JoinPending).await?;
        restart(&devbox).await.context("while control is silent")?;
        scene.platform.control_relay.restore(devbox.scope());
        devbox.online().await?;
        ensure!(devbox.minted() <= 2, "{} keys", devbox.minted());
        devbox.close(Left::OneNode).await
    });
}
