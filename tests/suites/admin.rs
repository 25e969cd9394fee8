//! What an admin does to a node, on the machine or at the control server, and how far it holds.

use std::time::Duration;

use anyhow::{Result, ensure};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_lab::devbox::Devbox;
use devbox_lab::machine::{eventually, story};
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;

/// Far more than tailscaled takes to tell of a change.
const LIMIT: Duration = Duration::from_secs(30);

/// The hostname that tailscaled is told to use.
async fn hostname(devbox: &Devbox<'_>) -> Result<String> {
    let prefs: serde_json::Value = serde_json::from_str(&devbox.tailscale(&["debug", "prefs"]).await?)?;
    Ok(prefs["Hostname"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_node_taken_down_stays_down_until_up() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Devbox::joined(&scene, "web").await?;
        let before = devbox.identity().await?;
        devbox.tailscale(&["down"]).await?;
        devbox.until_phase(Phase::Stopped, Code::AdminDown).await?;
        devbox.expect(&["wait-online", "--timeout", "30s"], 1).await?;

        devbox.kill_agent().await?;
        devbox.start()?;
        devbox.until_phase(Phase::Stopped, Code::AdminDown).await?;

        devbox.tailscale(&["up"]).await?;
        devbox.online().await?;
        assert_eq!(devbox.identity().await?, before);
        assert_eq!(devbox.minted(), 1);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_node_taken_down_comes_up_by_rejoin_and_with_the_next_boot() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Devbox::joined(&scene, "web").await?;
        let before = devbox.identity().await?;
        devbox.tailscale(&["down"]).await?;
        devbox.until_phase(Phase::Stopped, Code::AdminDown).await?;
        devbox.expect(&["rejoin"], 0).await?;
        devbox.online().await?;

        devbox.tailscale(&["down"]).await?;
        devbox.until_phase(Phase::Stopped, Code::AdminDown).await?;
        // A power cut in these very milliseconds would take the memory of who took the node down with it.
        let record = devbox.machine.root().path("/var/lib/devbox-agent/state.json");
        let remembered = || async {
            let record: serde_json::Value = serde_json::from_slice(&std::fs::read(&record)?)?;
            Ok(record["down_in_boot"].is_string().then_some(()))
        };
        eventually("the record of who took the node down", LIMIT, remembered).await?;
        devbox.reboot()?;
        devbox.online().await?;
        assert_eq!(devbox.identity().await?, before);
        assert_eq!(devbox.minted(), 1);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_name_set_by_hand_is_corrected_but_not_in_a_quarrel() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;
        devbox.tailscale(&["set", "--hostname=mine"]).await?;
        let corrected = || async { Ok((hostname(&devbox).await? == "web").then_some(())) };
        eventually("the correction", LIMIT, corrected).await?;

        devbox.tailscale(&["set", "--hostname=mine"]).await?;
        devbox.until_node("the name set by hand", |node| node.name == "mine").await?;
        devbox.online().await?;
        assert_eq!(hostname(&devbox).await?, "mine", "a second correction waits a minute");
        assert_eq!(devbox.minted(), 1);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn what_is_the_users_own_survives_a_login() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;
        devbox.tailscale(&["set", "--shields-up"]).await?;
        devbox.change(|tailnet| tailnet.tags = vec!["tag:web".to_owned()])?;
        devbox.until_node("its new tags", |node| node.tags == ["tag:web"]).await?;
        devbox.online().await?;
        let prefs: serde_json::Value = serde_json::from_str(&devbox.tailscale(&["debug", "prefs"]).await?)?;
        assert_eq!(prefs["ShieldsUp"], true);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_node_that_an_admin_logged_out_joins_again() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;
        let (before, key) = (devbox.identity().await?, devbox.node().await?.node_key);
        devbox.tailscale(&["logout"]).await?;
        devbox.until_node("another login", |node| node.node_key != key && !node.expired()).await?;
        devbox.online().await?;
        assert_eq!(devbox.identity().await?.name, before.name);
        assert_eq!(devbox.minted(), 2);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_node_that_an_admin_logged_out_stays_out_when_so_configured() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Devbox::new(&scene, "web")?;
        devbox.configure("50-site.toml", "[tailnet]\nafter_logout = \"stay\"\n")?;
        devbox.start()?;
        devbox.online().await?;
        devbox.tailscale(&["logout"]).await?;
        devbox.until_phase(Phase::Blocked, Code::AdminLogout).await?;
        assert_eq!(devbox.minted(), 1);
        devbox.expect(&["rejoin"], 0).await?;
        devbox.online().await?;
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_logout_that_control_does_not_confirm_is_tried_until_it_does() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;
        scene.platform.control_relay.freeze(devbox.scope());
        devbox.expect(&["leave"], 0).await?;
        devbox.until_phase(Phase::Leaving, Code::LogoutFailed).await?;
        ensure!(!devbox.node().await?.expired(), "control heard of the logout");

        devbox.reconnect();
        devbox.until_phase(Phase::Left, None).await?;
        devbox.until_node("the logout", |node| node.expired()).await?;
        devbox.close(Left::LoggedOut).await
    });
}

#[test]
fn an_expired_node_authenticates_again_as_the_same_machine() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;
        let (before, key) = (devbox.identity().await?, devbox.node().await?.node_key);
        scene.platform.headscale.api.expire_node(&before.id).await?;
        devbox.until_node("another key", |node| node.node_key != key && !node.expired()).await?;
        devbox.online().await?;
        assert_eq!(devbox.identity().await?, before);
        assert_eq!(devbox.minted(), 2);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_node_that_an_admin_deleted_is_missed_and_comes_back_by_rejoin() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;
        let before = devbox.identity().await?;
        scene.platform.headscale.api.delete_node(&before.id).await?;
        // Headscale tells the node only when it asks anew.
        scene.platform.control_relay.drop_connections(devbox.scope());
        devbox.until_phase(Phase::Degraded, Code::ControlLost).await?;
        devbox.reconnect();
        devbox.expect(&["rejoin"], 0).await?;
        devbox.until_node("another node", |node| node.id != before.id).await?;
        devbox.online().await?;
        assert_eq!(devbox.identity().await?.name, before.name);
        devbox.close(Left::OneNode).await
    });
}
