//! The bus, hostnamed and the helper: each may be restarted, missing or broken, and the node is there all the same.

use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context, Result};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_lab::devbox::{AGENT, Installed, TAILSCALED};
use devbox_lab::machine::story;
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;

const HOSTNAMED: &str = "systemd-hostnamed.service";
const HELPER: &str = "devbox-agent-helper.service";
const HELPER_SOCKET: &str = "devbox-agent-helper.socket";

/// Within this time after a restart of the bus the agent listens to it again (faults F50).
const RESUBSCRIBED: Duration = Duration::from_secs(5);

/// Masks a unit of a machine that is off.
fn mask(devbox: &Installed<'_>, unit: &str) -> Result<()> {
    let link = devbox.machine.path(format!("/etc/systemd/system/{unit}"));
    symlink("/dev/null", link).with_context(|| format!("failed to mask {unit}"))
}

#[test]
fn a_bus_that_is_restarted_is_listened_to_again() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Installed::joined(&scene, "web").await?;
        let (before, agent) = (devbox.identity().await?, devbox.main_pid(AGENT).await?);
        // hostnamed, should it still run, would fail with the bus that it has.
        devbox.systemctl(&["stop", "systemd-hostnamed.service"]).await?;
        // logind does not find a new bus by itself, and systemctl asks it for the poweroff at the end.
        devbox.systemctl(&["restart", "dbus.service", "systemd-logind.service"]).await?;
        tokio::time::timeout(RESUBSCRIBED, devbox.online_with(&[])).await.context("the bus was not found again")??;
        // What the bus tells heals at once; by itself the agent would try only after seconds.
        devbox.systemctl(&["mask", "--now", TAILSCALED]).await?;
        devbox.until_phase(Phase::Blocked, Code::TailscaledMasked).await?;
        devbox.systemctl(&["unmask", TAILSCALED]).await?;
        devbox.online().await?;
        assert_eq!((devbox.identity().await?, devbox.main_pid(AGENT).await?), (before, agent));
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_machine_without_a_bus_joins_and_finds_the_bus_when_it_comes() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::devbox(&scene, "web")?;
        for unit in ["dbus.service", "dbus.socket"] {
            mask(&devbox, unit)?;
        }
        devbox.machine.boot().await?;
        devbox.until_unit(AGENT, "active").await?;
        devbox.online_with(&[Code::HostnameUnset, Code::DbusUnavailable]).await?;
        // Without the bus nobody tells that tailscaled ended; its socket does.
        devbox.signal(TAILSCALED, "KILL").await?;
        devbox.online_after_restarts(1).await?;

        devbox.systemctl(&["unmask", "dbus.service", "dbus.socket"]).await?;
        devbox.systemctl(&["reset-failed"]).await?;
        devbox.systemctl(&["start", "dbus.socket", "systemd-logind.service"]).await?;
        devbox.expect(&["refresh"], 0).await?;
        devbox.online_with(&[]).await?;
        devbox.named("web").await?;
        assert_eq!((devbox.minted(), devbox.machine.show(AGENT, "NRestarts").await?), (1, "0".to_owned()));
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_machine_that_cannot_be_named_says_so_and_its_node_has_the_name() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::devbox(&scene, "web")?;
        mask(&devbox, HOSTNAMED)?;
        devbox.boot().await?;
        devbox.online_with(&[Code::HostnameUnset]).await?;
        assert_eq!(devbox.node().await?.given_name, "web");
        devbox.named("debian").await?;
        devbox.systemctl(&["unmask", HOSTNAMED]).await?;
        devbox.expect(&["refresh"], 0).await?;
        devbox.online_with(&[]).await?;
        devbox.named("web").await?;
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_helper_that_is_away_dies_or_talks_nonsense_is_named_and_found_again() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::devbox(&scene, "web")?;
        // Somebody else's socket, which answers what is no answer.
        mask(&devbox, HELPER_SOCKET)?;
        let socket = "[Socket]\nListenStream=/run/devbox-agent/helper.sock\nSocketUser=devbox-agent\nSocketMode=0600\n\
                      Accept=yes\nRemoveOnStop=yes\n[Install]\nWantedBy=sockets.target\n";
        devbox.machine.write("/etc/systemd/system/nonsense.socket", socket)?;
        let service = "[Service]\nExecStart=/bin/echo nonsense\nStandardOutput=socket\n";
        devbox.machine.write("/etc/systemd/system/nonsense@.service", service)?;
        devbox.boot().await?;
        devbox.until_phase(Phase::CheckingIdentity, Code::HelperUnavailable).await?;
        devbox.systemctl(&["start", "nonsense.socket"]).await?;
        let garbled = |detail: &str| detail.contains("its answer is none");
        devbox.until("a garbled answer", |it| it.reason.as_ref().is_some_and(|it| garbled(&it.detail))).await?;
        devbox.until_phase(Phase::CheckingIdentity, Code::HelperUnavailable).await?;

        devbox.systemctl(&["stop", "nonsense.socket"]).await?;
        devbox.systemctl(&["unmask", HELPER_SOCKET]).await?;
        devbox.systemctl(&["start", HELPER_SOCKET]).await?;
        devbox.online().await?;

        devbox.signal(HELPER, "KILL").await?;
        devbox.change(|tailnet| tailnet.hostname = Some("other".to_owned()))?;
        devbox.until_node("its new name", |node| node.given_name == "other").await?;
        devbox.named("other").await?;
        assert_eq!((devbox.minted(), devbox.machine.show(AGENT, "NRestarts").await?), (1, "0".to_owned()));
        devbox.close(Left::OneNode).await
    });
}
