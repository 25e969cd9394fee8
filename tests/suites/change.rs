//! What changes after a machine has joined: the spec, the configuration, and what a person asks for.

use std::time::Duration;

use anyhow::{Context, ensure};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_agent::socket::document::{Document, NodeStatus};
use devbox_lab::devbox::{Devbox, WORKSPACE};
use devbox_lab::machine::{eventually, story};
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::headscale::api::Node;
use devbox_lab::platform::routes::{INSTANCE, KEYS, TOKEN};
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Far more than any request is late by.
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_changed_hostname_and_routes_are_followed_without_a_login() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;
        let before = devbox.node().await?;
        devbox.change(|tailnet| {
            tailnet.hostname = Some("api".to_owned());
            tailnet.accept_routes = Some(true);
        })?;
        let node = devbox.until_node("its new name", |node| node.given_name == "api").await?;
        assert_eq!((&node.id, &node.node_key), (&before.id, &before.node_key));
        let prefs: Value = serde_json::from_str(&devbox.tailscale(&["debug", "prefs"]).await?)?;
        assert_eq!(prefs["RouteAll"], json!(true));
        let named = |it: &Document| it.node.as_ref().is_some_and(|it| it.name == "api");
        devbox.until("the new name", named).await?;
        assert_eq!(devbox.minted(), 1);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn changed_tags_and_a_grown_epoch_authenticate_again_and_keep_the_node() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;
        let (before, key) = (devbox.identity().await?, devbox.node().await?.node_key);
        devbox.change(|tailnet| {
            tailnet.tags = vec!["tag:web".to_owned()];
            tailnet.epoch = Some(1);
        })?;
        // tailscaled first shows the key to control with the old node key, and then with another.
        devbox.until_node("its new tags", |node| node.tags == ["tag:web"] && node.node_key != key).await?;
        devbox
            .until("the new tags", |it| it.phase == Phase::Online && it.node.as_ref().is_some_and(has_tag_web))
            .await?;
        assert_eq!(devbox.identity().await?, before);
        assert_eq!(devbox.minted(), 2, "one login for both");
        devbox.close(Left::OneNode).await
    });
}

fn has_tag_web(node: &NodeStatus) -> bool {
    node.tags == ["tag:web"]
}

#[test]
fn a_devbox_that_becomes_a_runner_is_another_node() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Devbox::joined(&scene, "web").await?;
        devbox.change(|tailnet| tailnet.lifecycle = Some("ephemeral".to_owned()))?;
        let ephemeral = |node: &Node| node.pre_auth_key.as_ref().is_some_and(|key| key.ephemeral);
        devbox.until_node("an ephemeral key", |node| ephemeral(node) && node.online).await?;
        devbox.online().await?;
        devbox.stop_agent().await?;
        devbox.close(Left::Nothing).await
    });
}

#[test]
fn another_credential_makes_the_node_anew_under_the_same_name() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;
        let (before, key) = (devbox.identity().await?, devbox.node().await?.node_key);
        scene.platform.add_credential("other-client", WORKSPACE, &["tag:devbox"]);
        devbox.change(|tailnet| tailnet.client_id = "other-client".to_owned())?;
        devbox.until_node("another login", |node| node.node_key != key && !node.expired()).await?;
        devbox.online().await?;
        assert_eq!(devbox.identity().await?.name, before.name);
        assert_eq!(devbox.minted(), 2);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn tags_that_change_while_a_key_is_made_are_the_ones_that_count() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Devbox::new(&scene, "web")?;
        let (fault, hold) = Fault::hold();
        scene.platform.api.server.faults.next(KEYS, fault);
        devbox.start()?;
        scene.platform.api.server.log.wait_for(KEYS, 1, LIMIT).await?;
        devbox.change(|tailnet| tailnet.tags = vec!["tag:web".to_owned()])?;
        devbox.until_read().await?;
        hold.release();
        devbox.online().await?;
        let node = devbox.node().await?;
        assert_eq!(node.tags, ["tag:web"]);
        let keys = scene.platform.minter.minted();
        let used = keys.get(node.key_id().context("the node has no key")?).context("the key is not known")?;
        assert_eq!(used.request.tags, ["tag:web"], "no login was made with the old key");
        assert_eq!(devbox.minted(), 2);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_platform_that_changes_its_mind_every_second_does_not_make_the_node_flap() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;
        let before = devbox.identity().await?;
        for second in 0..10 {
            let (name, tag) = if second % 2 == 0 { ("api", "tag:web") } else { ("web", "tag:devbox") };
            devbox.change(|tailnet| {
                tailnet.hostname = Some(name.to_owned());
                tailnet.tags = vec![tag.to_owned()];
            })?;
            // The story is about time: this is how fast the platform changes its mind.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        devbox.until_read().await?;
        devbox.online().await?;
        // One at once; a second one only when a key took so long to make that the tags had changed again.
        ensure!(devbox.minted() <= 3, "{} keys", devbox.minted());
        let node = devbox.node().await?;
        assert_eq!((&node.id, &node.machine_key), (&before.id, &before.machine_key));
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_node_that_left_stays_away_over_a_restart_until_it_is_asked_back() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Devbox::joined(&scene, "web").await?;
        let before = devbox.identity().await?;
        devbox.expect(&["leave"], 0).await?;
        devbox.until_phase(Phase::Left, None).await?;
        ensure!(devbox.node().await?.expired(), "the node was not logged out");
        devbox.expect(&["wait-online", "--timeout", "30s"], 1).await?;

        devbox.kill_agent().await?;
        devbox.start()?;
        devbox.until_phase(Phase::Left, None).await?;
        devbox.until_read().await?;
        assert_eq!(devbox.minted(), 1);

        devbox.expect(&["rejoin"], 0).await?;
        devbox.online().await?;
        assert_eq!(devbox.identity().await?.name, before.name);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn metadata_that_suddenly_speaks_of_another_machine_is_not_believed() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;
        let (tokens, own) = (scene.platform.metadata.server.log.count(TOKEN), scene.platform.instances.get(&devbox.id));
        let mut other = (*own.context("there is no instance")?.body).clone();
        other["instance"]["id"] = json!("i-stranger");
        other["tailnet"]["tags"] = json!(["tag:db"]);
        scene.platform.instances.override_document(&devbox.id, Some(other))?;
        let noticed = |it: &Document| it.notices.iter().any(|notice| notice.code == Code::MetadataUntrusted);
        assert_eq!(devbox.until("the notice", noticed).await?.phase, Phase::Online);
        // Even asked to authenticate again, it does not: the token would be the stranger's.
        devbox.expect(&["rejoin"], 0).await?;
        let log = &scene.platform.metadata.server.log;
        let reads = log.count(INSTANCE);
        devbox.expect(&["refresh"], 0).await?;
        log.wait_for(INSTANCE, reads + 1, LIMIT).await?;
        devbox.until("the notice", noticed).await?;
        assert_eq!(log.count(TOKEN), tokens);

        scene.platform.instances.override_document(&devbox.id, None)?;
        devbox.until("the trust back", |it| !noticed(it) && it.phase == Phase::Online).await?;
        assert_eq!(devbox.node().await?.tags, ["tag:devbox"]);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_reload_uses_the_new_configuration_when_it_is_right() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;
        devbox.configure("50-site.toml", "[tailnet]\nhostname = \"site\"\n[log]\nlevel = \"debug\"\n")?;
        devbox.agent()?.signal(Signal::SIGHUP)?;
        devbox.until_node("the configured name", |node| node.given_name == "site").await?;
        ensure!(devbox.agent()?.log()?.contains("DEBUG"), "the log's level did not change");

        devbox.configure("50-site.toml", "[tailnet]\nhostname = 7\n")?;
        devbox.agent()?.signal(Signal::SIGHUP)?;
        let refused =
            || async { Ok(devbox.agent()?.log()?.contains("the new configuration is not used").then_some(())) };
        eventually("the refusal", LIMIT, refused).await?;
        devbox.online().await?;
        // Whoever mends it is told how the node is all the same.
        let said = devbox.expect(&["status", "--check", "online"], 0).await?;
        ensure!(said.answer.contains("on the tailnet as site") && said.talk.contains("tailnet.hostname"), "{said:?}");
        assert_eq!(devbox.node().await?.given_name, "site");
        devbox.close(Left::OneNode).await
    });
}
