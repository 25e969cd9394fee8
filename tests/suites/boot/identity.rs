//! Whose node tailscaled's state has: what is held back at boot, what is let through, and what is taken over.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_agent::privilege::helper::GATE;
use devbox_lab::devbox::{AGENT, Identity, Installed, LIMIT, TAILSCALED};
use devbox_lab::machine::{Entry, Link, eventually, story};
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;

/// Has the agent start once PID 1 has looked whether tailscaled may, which is otherwise a race.
const AFTER_TAILSCALED: &str = "[Service]\nExecStartPre=/bin/sh -c 'until [ \"$(systemctl show --property=ConditionTimestampMonotonic --value \
                                tailscaled.service)\" != 0 ]; do sleep 0.05; done'\n";

/// Has the agent be there and do nothing.
const IDLE: &str = "[Service]\nType=exec\nWatchdogSec=0\nExecStart=\nExecStart=sleep infinity\n";

const TYPO: &str = "/etc/devbox-agent/config.d/90-typo.toml";

/// A machine that was somebody's before it had the agent: switched off, with the state of a node that it did not make.
async fn somebodys<'a>(scene: &'a Scene) -> Result<(Installed<'a>, Identity)> {
    let mut devbox = Installed::devbox(scene, "web")?;
    devbox.boot_with(&["devbox-agent=off"], Link::Up).await?;
    scene.up_by_hand(&devbox.machine, &scene.platform.user_key("ada").await?).await?;
    let theirs = somebodys_node(scene).await?;
    devbox.machine.run("rm", &["/run/key"]).await?;
    devbox.machine.power_off().await?;
    Ok((devbox, theirs))
}

/// Whether the helper speaks of a request for a verb.
fn is_of(entry: &Entry, verb: &str) -> bool {
    entry.field("VERB") == Some(verb)
}

async fn somebodys_node(scene: &Scene) -> Result<Identity> {
    let nodes = scene.platform.nodes().await?;
    let online = || nodes.iter().filter(|node| node.tags.is_empty());
    ensure!(online().count() == 1, "control has {} nodes of a person", online().count());
    online().next().map(Identity::from).context("there is one")
}

#[test]
fn a_node_that_is_somebody_s_is_let_through_and_left_alone() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (mut devbox, theirs) = somebodys(&scene).await?;
        devbox.drop_in(AGENT, AFTER_TAILSCALED)?;
        devbox.boot().await?;
        devbox.until_phase(Phase::Blocked, Code::ForeignNode).await?;
        devbox.until_unit(TAILSCALED, "active").await?;
        ensure!(!devbox.machine.path(GATE).exists(), "the gate is open");
        // It was closed until the agent had looked. The helper writes its line once it has answered.
        let answer = || async {
            let said = devbox.machine.journal(&["-u", "devbox-agent-helper.service"]).await?;
            Ok(said.iter().find(|entry| is_of(entry, "admit")).and_then(Entry::at))
        };
        let answered = eventually("the helper's line", LIMIT, answer).await?;
        let told = devbox.machine.journal(&["_PID=1", &format!("UNIT={TAILSCALED}")]).await?;
        let unmet = format!("unmet condition check ConditionPathExists=!{GATE}");
        let skipped = told.iter().find(|entry| entry.message().contains(&unmet));
        let skipped = skipped.and_then(Entry::at).context("tailscaled was not held back")?;
        ensure!(skipped < answered, "tailscaled was held back at {skipped:?}, and admitted by {answered:?}");

        let online = || async { Ok(scene.platform.nodes().await?.iter().any(|node| node.online).then_some(())) };
        eventually("the person's node", LIMIT, online).await?;
        assert_eq!(somebodys_node(&scene).await?, theirs);
        let writes = devbox.machine.journal(&["-u", "devbox-agent-helper.service"]).await?;
        for verb in ["login", "apply", "logout", "up", "prove", "withdraw", "hostname"] {
            ensure!(!writes.iter().any(|entry| is_of(entry, verb)), "the helper was asked for {verb}");
        }
        assert_eq!(devbox.minted(), 0);

        // Until somebody who may says that it is this machine's.
        assert_eq!(devbox.as_user("root", &["devbox-agent", "rejoin"]).await?.code, 0);
        let ours = || async { Ok(devbox.nodes().await?.pop().filter(|node| node.online)) };
        let node = eventually("this machine's own node", LIMIT, ours).await?;
        assert_eq!((node.machine_key, node.tags), (theirs.machine_key, vec!["tag:devbox".to_owned()]));
        devbox.online().await?;
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_node_that_is_somebody_s_is_taken_over_where_configuration_says_so() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (mut devbox, theirs) = somebodys(&scene).await?;
        devbox.machine.write("/etc/devbox-agent/config.d/50-site.toml", "[identity]\nforeign = \"adopt\"\n")?;
        devbox.boot().await?;
        devbox.online().await?;
        let node = devbox.node().await?;
        assert_eq!((node.tags.as_slice(), &node.machine_key), (&["tag:devbox".to_owned()][..], &theirs.machine_key));
        // tailscaled registers twice when a node is to change hands, and Headscale may have spent the key by the second time.
        ensure!(devbox.minted() <= 3, "{} keys were made", devbox.minted());

        let (ours, key) = (Identity::from(&node), node.node_key);
        devbox.reboot().await?;
        devbox.online().await?;
        assert_eq!((devbox.identity().await?, devbox.node().await?.node_key), (ours, key));
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn tailscaled_contacts_nobody_before_it_is_admitted_and_is_without_metadata() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::joined(&scene, "web").await?;
        let before = (devbox.identity().await?, devbox.node().await?.node_key);
        devbox.drop_in(AGENT, IDLE)?;
        let (relay, api) = (&scene.platform.control_relay, &scene.platform.api.server.log);
        devbox.machine.power_off().await?;
        let (control, exchanged) = (relay.accepted(), api.all().len());
        devbox.boot().await?;
        // However it is started.
        devbox.machine.run("systemctl", &["start", TAILSCALED]).await?;
        assert_eq!(devbox.machine.show(TAILSCALED, "ActiveState").await?, "inactive");
        assert_eq!(devbox.machine.show(TAILSCALED, "ConditionResult").await?, "no");
        // Ten times what tailscaled takes to call control once it runs.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(relay.accepted(), control, "control heard of the machine");

        // What is local is enough to know one's own: the metadata is away all the while.
        scene.platform.metadata_relay.drop_connections(devbox.scope());
        devbox.without_drop_in(AGENT)?;
        devbox.systemctl(&["daemon-reload"]).await?;
        devbox.systemctl(&["restart", AGENT]).await?;
        // Control may not have noticed yet that the machine was off.
        let back = || async { Ok((relay.accepted() > control && devbox.node().await?.online).then_some(())) };
        eventually("the node", LIMIT, back).await?;
        ensure!(!devbox.machine.path(GATE).exists(), "the gate is open");
        assert_eq!((devbox.identity().await?, devbox.node().await?.node_key), before);
        assert_eq!(api.all().len(), exchanged, "no token was exchanged");
        scene.platform.metadata_relay.restore(devbox.scope());
        devbox.online().await?;
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn without_an_agent_that_can_work_nobody_holds_tailscaled_back() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::joined(&scene, "web").await?;
        let before = devbox.identity().await?;
        devbox.systemctl(&["mask", AGENT]).await?;
        devbox.reboot().await?;
        devbox.until_unit(TAILSCALED, "active").await?;
        devbox.systemctl(&["unmask", AGENT]).await?;

        devbox.machine.write(TYPO, "[tailnet]\nssh = maybe\n")?;
        devbox.reboot().await?;
        devbox.until_unit(TAILSCALED, "active").await?;
        // What an agent hears that had another configuration in force before.
        let said = devbox.ask_helper("devbox-agent", r#"{"verb":"inspect"}"#).await?;
        for words in [r#""code":"helper_denied""#, TYPO] {
            ensure!(said.answer.contains(words), "{said:?}");
        }
        devbox.machine.run("rm", &[TYPO]).await?;
        devbox.online().await?;
        assert_eq!(devbox.identity().await?, before);
        devbox.close(Left::OneNode).await
    });
}
