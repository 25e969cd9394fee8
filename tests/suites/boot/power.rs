//! How the agent and the machine end, and what becomes of the node: a runner's goes with the machine, nothing else takes one away.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devbox_agent::core::phase::Phase;
use devbox_lab::devbox::{AGENT, Installed, LIMIT, Package, TAILSCALED};
use devbox_lab::machine::story;
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::routes::{EXCHANGE, INSTANCE, KEYS, SESSION, TOKEN};
use devbox_lab::platform::server::Server;
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;

/// The removal of a node may hold up a stop for a second (design §5); the rest is for a machine that does other things too.
const STOP_BOUND: Duration = Duration::from_millis(2_500);

/// How long the agent's unit took to stop at the end of the boot before this one, as PID 1 tells it.
async fn last_stop(machine: &Installed<'_>) -> Result<Duration> {
    let told = machine.machine.journal(&["-b", "-1", "_PID=1", &format!("UNIT={AGENT}")]).await?;
    let last = |start: &str| told.iter().rev().find(|entry| entry.message().starts_with(start))?.at();
    let (stopping, stopped) = (last("Stopping ").context("it stopped")?, last("Stopped ").context("it was stopped")?);
    Ok(stopped.saturating_sub(stopping))
}

/// That at the end of the boot before this one the agent had stopped before tailscaled was told to.
async fn left_first(machine: &Installed<'_>) -> Result<()> {
    let told = machine.machine.journal(&["-b", "-1", "_PID=1"]).await?;
    let last = |start: String| told.iter().rev().find(|entry| entry.message().starts_with(&start))?.at();
    let agent = last(format!("Stopped {AGENT}")).context("the agent was stopped")?;
    let tailscaled = last(format!("Stopping {TAILSCALED}")).context("tailscaled was to stop")?;
    ensure!(agent <= tailscaled, "tailscaled was told to stop {:?} before the agent had", agent - tailscaled);
    Ok(())
}

#[test]
fn a_runners_node_goes_with_the_machine() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut runner = Installed::runner(&scene, "job")?;
        runner.boot().await?;
        runner.online().await?;
        let first = runner.node().await?.node_key;
        runner.machine.power_off().await?;
        assert_eq!(runner.nodes().await?.len(), 0, "a poweroff removes it");

        runner.boot().await?;
        tracing::info!(took = ?last_stop(&runner).await?, "the agent stopped at poweroff");
        left_first(&runner).await?;
        runner.online().await?;
        ensure!(runner.node().await?.node_key != first, "it is another node");
        let second = runner.node().await?.node_key;
        runner.reboot().await?;
        ensure!(
            last_stop(&runner).await? < STOP_BOUND,
            "the agent held up the reboot: {:?}",
            last_stop(&runner).await?
        );
        runner.online().await?;
        ensure!(runner.node().await?.node_key != second, "a reboot makes another node too");
        assert_eq!(runner.minted(), 3);

        runner.signal(TAILSCALED, "STOP").await?;
        runner.machine.power_off().await?;
        runner.machine.boot().await?;
        runner.machine.settle().await?;
        let stuck = last_stop(&runner).await?;
        ensure!(stuck < STOP_BOUND, "a tailscaled that does not answer held up the poweroff: {stuck:?}");
        runner.online().await?;
        runner.close(Left::OneNode).await
    });
}

#[test]
fn a_runners_node_goes_with_the_agents_stop_and_stays_over_its_restart_and_upgrade() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut runner = Installed::runner(&scene, "job")?;
        runner.boot().await?;
        runner.online().await?;
        let (before, tunnel) = (runner.node().await?.node_key, runner.main_pid(TAILSCALED).await?);

        for _ in 0..2 {
            let agent = runner.main_pid(AGENT).await?;
            runner.systemctl(&["restart", AGENT]).await?;
            online_again(&runner, agent).await?;
        }
        let agent = runner.main_pid(AGENT).await?;
        runner.install(Package::Agent).await?;
        online_again(&runner, agent).await?;
        let now = (runner.node().await?.node_key, runner.main_pid(TAILSCALED).await?);
        assert_eq!((now, runner.minted()), ((before, tunnel), 1));

        runner.systemctl(&["stop", AGENT]).await?;
        assert_eq!(runner.nodes().await?.len(), 0, "a stop removes it");
        runner.systemctl(&["start", AGENT]).await?;
        runner.online().await?;
        runner.systemctl(&["stop", AGENT]).await?;
        runner.close(Left::Nothing).await
    });
}

/// Waits until another process of the agent than `before` is online.
async fn online_again(devbox: &Installed<'_>, before: u32) -> Result<()> {
    let other = |pid: u32| pid != before;
    devbox.until("another agent", |it| other(it.agent.pid) && it.phase == Phase::Online).await.map(drop)
}

/// That an agent which has stopped leaves nothing else behind than that the node is there: its status, its report and its unit's.
async fn says_online(devbox: &Installed<'_>) -> Result<()> {
    let status = devbox.machine.run("cat", &["/run/devbox-agent/api/status.json"]).await?;
    let status: serde_json::Value = serde_json::from_str(&status).context("status.json is no JSON")?;
    let report = devbox.scene.platform.reports.latest(&devbox.id).context("there is a report")?;
    let text = devbox.machine.show(AGENT, "StatusText").await?;
    ensure!(
        status["phase"] == "online" && report.phase() == "online" && text.starts_with("online as web"),
        "the last words were {}, {} and {text:?}",
        status["phase"],
        report.phase()
    );
    Ok(())
}

#[test]
fn a_devboxs_node_stays_whoever_ends_and_the_tunnel_outlives_the_agent() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::devbox(&scene, "web")?;
        // Above the agent's tick of 10 s, at which it tells that it is alive.
        devbox.drop_in(AGENT, "[Service]\nWatchdogSec=12s\nRestartSec=100ms\n")?;
        devbox.boot().await?;
        devbox.online().await?;
        let before = (devbox.identity().await?, devbox.main_pid(TAILSCALED).await?);
        for _ in 0..5 {
            let agent = devbox.main_pid(AGENT).await?;
            devbox.signal(AGENT, "KILL").await?;
            online_again(&devbox, agent).await?;
        }
        devbox.systemctl(&["stop", AGENT]).await?;
        assert_eq!((devbox.identity().await?, devbox.main_pid(TAILSCALED).await?), before);
        says_online(&devbox).await?;
        devbox.systemctl(&["start", AGENT]).await?;
        devbox.online().await?;

        let agent = devbox.main_pid(AGENT).await?;
        devbox.signal(AGENT, "STOP").await?;
        online_again(&devbox, agent).await.context("the watchdog ends a frozen agent")?;
        assert_eq!(
            (devbox.identity().await?, devbox.main_pid(TAILSCALED).await?, devbox.minted()),
            (before.0, before.1, 1)
        );
        devbox.close(Left::OneNode).await
    });
}

/// Kills the agent while a request of it is held, before or after the server has acted.
async fn killed_at(devbox: &Installed<'_>, server: &Server, route: &str, late: bool) -> Result<()> {
    let (fault, hold) = Fault::hold();
    let asked = server.log.count(route);
    server.faults.next(route, if late { fault.late() } else { fault });
    devbox.systemctl(&["restart", AGENT]).await?;
    server.log.wait_for(route, asked + 1, LIMIT).await.with_context(|| route.to_owned())?;
    devbox.signal(AGENT, "KILL").await?;
    hold.release();
    Ok(())
}

#[test]
fn an_agent_that_is_killed_over_and_over_while_it_joins_makes_one_node() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::devbox(&scene, "web")?;
        let (metadata, api) = (&scene.platform.metadata.server, &scene.platform.api.server);
        scene.platform.metadata.sessions.require(true);
        // Nothing gets as far as a key while it is being killed, but the last time: what is not used is one key at most.
        api.faults.always(KEYS, Fault::status(503));
        devbox.drop_in(AGENT, "[Service]\nRestartSec=50ms\n")?;
        devbox.boot().await?;
        for late in [false, true, false, true, false, true] {
            for (server, route) in [(metadata, SESSION), (metadata, INSTANCE), (metadata, TOKEN)] {
                killed_at(&devbox, server, route, late).await?;
            }
        }
        for late in [false, true] {
            killed_at(&devbox, api, EXCHANGE, late).await?;
        }
        api.faults.clear(KEYS);
        killed_at(&devbox, api, KEYS, true).await?;
        let state = devbox.machine.path("/var/lib/devbox-agent/state.json");
        let text = std::fs::read(&state).context("the record is there after every kill")?;
        serde_json::from_slice::<serde_json::Value>(&text).context("the record is whole")?;
        devbox.online().await?;
        // The one that was used, and that of the last kill if it was made.
        ensure!((1..=2).contains(&devbox.minted()), "{} keys", devbox.minted());
        devbox.close(Left::OneNode).await
    });
}
