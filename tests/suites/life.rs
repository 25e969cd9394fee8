//! What a machine lives through after, and while, it joins: the same node comes out of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_lab::devbox::Devbox;
use devbox_lab::machine::story;
use devbox_lab::platform::facade::Facade;
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::server::Server;
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;
use nix::sys::signal::Signal;

const SESSION: &str = "PUT /devbox/v1/session";
const INSTANCE: &str = "GET /devbox/v1/instance";
const TOKEN: &str = "GET /devbox/v1/token";

/// Far more than any request is late by.
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn an_agent_that_is_killed_comes_back_to_the_same_node() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Devbox::joined(&scene, "web").await?;
        let (before, key) = (devbox.identity().await?, devbox.node().await?.node_key);
        devbox.kill_agent().await?;
        devbox.start()?;
        devbox.online().await?;
        assert_eq!(devbox.identity().await?, before);
        assert_eq!(devbox.node().await?.node_key, key, "it did not authenticate again");
        assert_eq!(devbox.minted(), 1);
        assert_eq!(scene.platform.metadata.server.log.count(TOKEN), 1);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_reboot_keeps_the_node() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Devbox::joined(&scene, "web").await?;
        let (before, key) = (devbox.identity().await?, devbox.node().await?.node_key);
        devbox.reboot()?;
        devbox.online().await?;
        assert_eq!(devbox.identity().await?, before);
        assert_eq!(devbox.node().await?.node_key, key, "it did not authenticate again");
        assert_eq!(devbox.minted(), 1);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_resumed_devbox_is_degraded_until_control_answers_and_then_the_same() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;
        let before = devbox.identity().await?;
        devbox.pause_and_resume()?;
        let degraded = devbox.until_phase(Phase::Degraded, Code::Unproven).await?;
        ensure!(degraded.node.is_some_and(|node| !node.online), "the node counts as online before it is proven");
        devbox.expect(&["status", "--check", "online"], 1).await?;
        let told = |report: &devbox_lab::platform::report::Report| report.reason() == Some("unproven");
        scene.platform.reports.wait_for(&devbox.id, LIMIT, told).await?;

        devbox.reconnect();
        let online = devbox.online().await?;
        ensure!(online.node.is_some_and(|node| node.online && node.proven_at.is_some()), "the node is not proven");
        assert_eq!(devbox.identity().await?, before);
        assert_eq!(devbox.minted(), 1);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_killed_tailscaled_is_started_again_by_the_same_agent() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;
        let before = devbox.identity().await?;
        devbox.signal_tailscaled(Signal::SIGKILL).await?;
        devbox.until("another tailscaled", |it| it.phase == Phase::Online && it.daemon.restarts == 1).await?;
        ensure!(devbox.agent()?.exit_status().is_none(), "the agent ended with its tailscaled");
        assert_eq!(devbox.identity().await?, before);
        assert_eq!(devbox.minted(), 1);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_frozen_tailscaled_is_restarted() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;
        let before = devbox.identity().await?;
        devbox.signal_tailscaled(Signal::SIGSTOP).await?;
        devbox.until_phase(Phase::Degraded, Code::TailscaledHung).await?;
        devbox.expect(&["status", "--check", "online"], 1).await.context("status answers all the while")?;
        devbox.until("another tailscaled", |it| it.phase == Phase::Online && it.daemon.restarts == 1).await?;
        assert_eq!(devbox.identity().await?, before);
        assert_eq!(devbox.minted(), 1);
        devbox.close(Left::OneNode).await
    });
}

/// Who is killed while a request is held.
#[derive(Clone, Copy, PartialEq)]
enum Victim {
    Agent,
    Tailscaled,
}

impl Victim {
    async fn die(self, devbox: &mut Devbox<'_>) -> Result<()> {
        match self {
            Self::Agent => {
                devbox.kill_agent().await?;
                devbox.start()
            }
            Self::Tailscaled => devbox.signal_tailscaled(Signal::SIGKILL).await,
        }
    }
}

/// Kills somebody while a request of a joining machine is held, either before or `late`, after the server has acted; then lets all go on.
async fn killed_at(scene: &Scene, server: &Server, (name, route, late): (&str, &str, bool), who: Victim) -> Result<()> {
    let mut devbox = Devbox::new(scene, name)?;
    let (fault, hold) = Fault::hold();
    let asked = server.log.count(route);
    server.faults.next(route, if late { fault.late() } else { fault });
    devbox.start()?;
    server.log.wait_for(route, asked + 1, LIMIT).await.with_context(|| name.to_owned())?;
    who.die(&mut devbox).await?;
    hold.release();
    devbox.online().await?;
    ensure!(devbox.minted() <= 2, "{name}: {} keys", devbox.minted());
    devbox.close(Left::OneNode).await.with_context(|| name.to_owned())
}

#[test]
fn an_agent_killed_while_it_asks_for_metadata_joins_once() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let server = &scene.platform.metadata.server;
        scene.platform.metadata.sessions.require(true);
        let steps = [("session", SESSION, true), ("instance", INSTANCE, true), ("token", TOKEN, true)];
        for step in steps {
            killed_at(&scene, server, step, Victim::Agent).await?;
        }
        Ok(())
    });
}

#[test]
fn an_agent_killed_while_it_trades_its_token_joins_once() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let server = &scene.platform.api.server;
        let steps =
            [("exchange", Facade::EXCHANGE, true), ("mint", Facade::KEYS, false), ("minted", Facade::KEYS, true)];
        for step in steps {
            killed_at(&scene, server, step, Victim::Agent).await?;
        }
        Ok(())
    });
}

#[test]
fn a_tailscaled_killed_while_a_token_is_traded_joins_once() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (metadata, api) = (&scene.platform.metadata.server, &scene.platform.api.server);
        killed_at(&scene, metadata, ("spec", INSTANCE, true), Victim::Tailscaled).await?;
        killed_at(&scene, metadata, ("token", TOKEN, true), Victim::Tailscaled).await?;
        killed_at(&scene, api, ("exchange", Facade::EXCHANGE, true), Victim::Tailscaled).await?;
        killed_at(&scene, api, ("minted", Facade::KEYS, true), Victim::Tailscaled).await
    });
}

/// Kills somebody while tailscaled has the key and control does not answer.
async fn killed_while_joining(scene: &Scene, name: &str, who: Victim) -> Result<()> {
    let mut devbox = Devbox::new(scene, name)?;
    scene.platform.control_relay.freeze(devbox.scope());
    devbox.start()?;
    devbox.until_phase(Phase::Joining, Code::JoinPending).await?;
    who.die(&mut devbox).await?;
    devbox.reconnect();
    devbox.online().await?;
    ensure!(devbox.minted() <= 2, "{} keys", devbox.minted());
    devbox.close(Left::OneNode).await
}

#[test]
fn an_agent_killed_while_control_is_silent_joins_once() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        killed_while_joining(&scene, "web", Victim::Agent).await
    });
}

#[test]
fn a_tailscaled_killed_while_control_is_silent_joins_once() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        killed_while_joining(&scene, "web", Victim::Tailscaled).await
    });
}
