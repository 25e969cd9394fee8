//! How a machine comes onto the tailnet, and what keeps it waiting.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_lab::devbox::{CLIENT, Devbox, WORKSPACE, give_token};
use devbox_lab::machine::story;
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::instance::{Tailnet, TailnetWish};
use devbox_lab::platform::relay::Scope;
use devbox_lab::platform::routes::{EXCHANGE, INSTANCE, KEYS, TOKEN};
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;
use serde_json::{Value, json};

/// The phases of a machine's reports, in their order.
fn reported(scene: &Scene, id: &str) -> Result<Vec<Phase>> {
    let phases = scene.platform.reports.all(id).into_iter().map(|report| json!(report.phase()));
    Ok(phases.map(serde_json::from_value).collect::<Result<_, _>>()?)
}

#[test]
fn a_devbox_joins_with_one_token_one_exchange_and_one_key() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;

        let stages: Vec<String> = devbox.online().await?.boot.stages.into_iter().map(|stage| stage.name).collect();
        for stage in ["spec", "daemon", "connect", "token", "exchange", "mint", "login", "join"] {
            ensure!(stages.iter().any(|name| name == stage), "{stage} is missing of {stages:?}");
        }
        let (metadata, api) = (&scene.platform.metadata.server.log, &scene.platform.api.server.log);
        assert_eq!((metadata.count(TOKEN), api.count(EXCHANGE), api.count(KEYS)), (1, 1, 1));
        let asked: Value = serde_json::from_str(&api.of(KEYS)[0].body)?;
        let wanted = json!({ "reusable": false, "ephemeral": false, "preauthorized": true, "tags": ["tag:devbox"] });
        assert_eq!(asked["capabilities"]["devices"]["create"], wanted);
        assert_eq!(asked["expirySeconds"], 300);

        let node = devbox.node().await?;
        assert_eq!((node.given_name.as_str(), node.tags.as_slice()), ("web", &["tag:devbox".to_owned()][..]));
        let online = |report: &devbox_lab::platform::report::Report| report.phase() == "online";
        scene.platform.reports.wait_for(&devbox.id, Duration::from_secs(20), online).await?;
        let phases = reported(&scene, &devbox.id)?;
        ensure!(phases.is_sorted(), "phases are told out of order: {phases:?}");
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_runner_is_gone_from_the_tailnet_when_it_stops() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut runner = Devbox::runner(&scene, "job")?;
        runner.start()?;
        runner.online().await?;
        let node = runner.node().await?;
        ensure!(node.pre_auth_key.as_ref().is_some_and(|key| key.ephemeral), "the key is not ephemeral");
        assert_eq!(node.tags, ["tag:ci"]);

        // The agent gives the removal a second, so that once it has ended there is nothing more to wait for.
        runner.stop_agent().await?;
        ensure!(runner.nodes().await?.is_empty(), "the runner's node outlives it");
        let last = scene.platform.reports.latest(&runner.id).context("there is no report")?;
        assert_eq!(last.phase(), "left");
        runner.close(Left::Nothing).await
    });
}

/// The configuration of a machine whose platform serves no metadata, but for where the token is.
const NO_METADATA: &str = "[tailnet]\nclient_id = \"lab-client\"\ntags = [\"tag:devbox\"]\n\
                           [metadata]\nprovider = \"file\"\n";

/// Joins by the provider `file`, with a line that says where the token is.
async fn join_by_file(devbox: &mut Devbox<'_>, source: &str) -> Result<()> {
    let scene = devbox.scene;
    let token = scene.platform.issuer.issue(&devbox.subject(), &format!("api.tailscale.com/{CLIENT}"))?;
    give_token(devbox, "jwt", &token.jwt)?;
    let id = devbox.id.clone();
    devbox.configure("20-file.toml", &format!("{NO_METADATA}instance = \"{id}\"\n{source}\n"))?;
    devbox.start()?;
    devbox.online().await?;
    assert_eq!(devbox.node().await?.given_name, id, "the name comes from the instance id");
    assert_eq!(scene.platform.metadata.server.log.all().len(), 0, "nobody asks the metadata endpoint");
    Ok(())
}

#[test]
fn a_token_in_a_file_is_enough_to_join() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Devbox::new(&scene, "bare")?;
        join_by_file(&mut devbox, "token = \"/run/workload/jwt\"").await?;
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_command_that_prints_a_token_is_enough_to_join() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Devbox::new(&scene, "bare")?;
        // It prints the token only for the audience that the agent must ask for.
        let script = format!("test \"$1\" = api.tailscale.com/{CLIENT} && cat /run/workload/jwt\n");
        devbox.machine.root().write("/etc/token-for", script)?;
        join_by_file(&mut devbox, "command = [\"/bin/sh\", \"/etc/token-for\"]").await?;
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn metadata_that_is_absent_for_ten_seconds_only_delays_the_join() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Devbox::new(&scene, "web")?;
        scene.platform.metadata_relay.drop_connections(Scope::All);
        let started = Instant::now();
        devbox.start()?;
        devbox.until_phase(Phase::WaitingForMetadata, Code::MetadataUnreachable).await?;
        devbox.tailscaled().await.context("tailscaled does not wait for metadata")?;
        devbox.expect(&["status", "--check", "online"], 1).await?;
        tokio::time::sleep(Duration::from_secs(10).saturating_sub(started.elapsed())).await;
        let waiting = devbox.document()?.context("there is no status")?;
        assert_eq!(waiting.phase, Phase::WaitingForMetadata);

        scene.platform.metadata_relay.restore(Scope::All);
        devbox.online().await?;
        assert_eq!(devbox.minted(), 1);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_network_that_comes_up_late_is_used_when_it_is_there() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Devbox::without_network(&scene, "late")?;
        devbox.start()?;
        devbox.until_phase(Phase::WaitingForMetadata, Code::MetadataUnreachable).await?;

        devbox.machine.link_up()?;
        devbox.online().await?;
        assert_eq!(devbox.minted(), 1);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_machine_that_is_not_provisioned_yet_waits_until_it_is() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Devbox::new(&scene, "web")?;
        scene.platform.set_spec(&devbox.id, |spec| spec.provisioned = false)?;
        devbox.start()?;
        devbox.until_phase(Phase::WaitingForMetadata, Code::NotProvisioned).await?;
        scene.platform.metadata.server.log.wait_for(INSTANCE, 2, Duration::from_secs(30)).await?;
        assert_eq!(scene.platform.metadata.server.log.count(TOKEN), 0);

        scene.platform.set_spec(&devbox.id, |spec| spec.provisioned = true)?;
        devbox.online().await?;
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_spec_without_a_tailnet_leaves_things_as_they_are() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Devbox::new(&scene, "web")?;
        scene.platform.set_spec(&devbox.id, |spec| spec.tailnet = TailnetWish::Unsaid)?;
        devbox.start()?;
        devbox.until_phase(Phase::Unassigned, None).await?;
        devbox.expect(&["wait-online", "--timeout", "30s"], 1).await?;
        assert_eq!(scene.platform.metadata.server.log.count(TOKEN), 0);

        let wanted = TailnetWish::Join(Tailnet::new(CLIENT, &["tag:devbox"]));
        scene.platform.set_spec(&devbox.id, |spec| spec.tailnet = wanted)?;
        devbox.online().await?;
        scene.platform.set_spec(&devbox.id, |spec| spec.tailnet = TailnetWish::Unsaid)?;
        assert_eq!(devbox.until_read().await?.phase, Phase::Online, "what is in force stays");
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_tailnet_that_is_null_is_left_only_when_it_is_read_twice() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;
        let before = devbox.identity().await?;
        let server = &scene.platform.metadata.server;
        let reads = server.log.count(INSTANCE);
        let (fault, hold) = Fault::hold();
        server.faults.next(INSTANCE, fault);
        let withdrawn = Instant::now();
        scene.platform.set_spec(&devbox.id, |spec| spec.tailnet = TailnetWish::Leave)?;
        let second = server.log.wait_for(INSTANCE, reads + 1, Duration::from_secs(40)).await?[reads].at.into_std();
        assert_eq!(devbox.document()?.context("there is no status")?.phase, Phase::Online, "one read is not enough");
        let gap = second.duration_since(withdrawn);
        ensure!(gap >= Duration::from_secs(10), "the second read came after {gap:?}");
        hold.release();
        devbox.until_phase(Phase::Unassigned, None).await?;
        ensure!(devbox.node().await?.expired(), "the node was not logged out");

        let wanted = TailnetWish::Join(Tailnet::new(CLIENT, &["tag:devbox"]));
        scene.platform.set_spec(&devbox.id, |spec| spec.tailnet = wanted)?;
        devbox.online().await?;
        assert_eq!(devbox.identity().await?.name, before.name);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn the_command_line_tells_scripts_by_its_exit_codes() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Devbox::new(&scene, "web")?;
        devbox.expect(&["status"], 69).await?;
        devbox.expect(&["refresh"], 69).await?;
        devbox.expect(&["wait-online", "--timeout", "100ms"], 75).await?;
        devbox.expect(&["wait-on-line"], 64).await?;
        devbox.expect(&["config", "check"], 0).await?;

        devbox.start()?;
        devbox.expect(&["wait-online", "--timeout", "45s"], 0).await?;
        devbox.expect(&["status", "--check", "online"], 0).await?;
        let page = devbox.expect(&["status"], 0).await?.answer;
        ensure!(page.contains("web.lab.ts.test"), "a person does not see the node's name: {page}");
        let document: Value = serde_json::from_str(&devbox.expect(&["status", "--json"], 0).await?.answer)?;
        assert_eq!((&document["version"], &document["phase"]), (&json!(1), &json!("online")));
        let reads = scene.platform.metadata.server.log.count(INSTANCE);
        devbox.expect(&["refresh"], 0).await?;
        scene.platform.metadata.server.log.wait_for(INSTANCE, reads + 1, Duration::from_secs(20)).await?;
        let claims = devbox.expect(&["token"], 0).await?.answer;
        ensure!(claims.contains(&format!("{WORKSPACE}/{}", devbox.id)), "the claims lack the subject: {claims}");

        devbox.stop_agent().await?;
        let down = devbox.expect(&["status"], 69).await?.answer;
        ensure!(down.contains("web"), "status forgets the node when the agent is down: {down}");
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_second_agent_on_the_same_state_is_refused_and_disturbs_nothing() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::joined(&scene, "web").await?;
        let pid = devbox.agent()?.pid();
        let refused = devbox.expect(&["run", "--set", "paths.runtime=/run/second"], 1).await?;
        let named = format!("another devbox-agent (pid {pid}) uses this state directory");
        ensure!(refused.talk.contains(&named), "the refusal is unclear: {}", refused.talk);
        assert_eq!(devbox.document()?.context("there is no status")?.phase, Phase::Online);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_file_where_the_socket_should_be_is_left_alone_and_named() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::new(&scene, "web")?;
        let socket = "/run/devbox-agent/api/agent.sock";
        devbox.machine.root().write(socket, "precious")?;
        let refused = devbox.expect(&["run"], 1).await?;
        let said = format!("failed to listen on {socket}: it is not a socket");
        ensure!(refused.talk.contains(&said), "the refusal is unclear: {}", refused.talk);
        assert_eq!(std::fs::read_to_string(devbox.machine.root().path(socket))?, "precious");
        devbox.close(Left::Nothing).await
    });
}

#[test]
fn a_wrong_configuration_is_refused_with_file_and_key() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Devbox::new(&scene, "web")?;
        let wrong = [
            ("[tailnet]\nhostnmae = \"web\"\n", "tailnet.hostnmae"),
            ("[tailnet]\nhostname = \"Not_A_Label\"\n", "tailnet.hostname"),
            ("[tailnet]\ntags = [\"devbox\"]\n", "tailnet.tags"),
            ("[tailnet\n", "50-site.toml:1: unclosed table"),
        ];
        for (toml, key) in wrong {
            devbox.configure("50-site.toml", toml)?;
            // status would tell of an agent all the same, if one ran.
            for (verb, code) in [(&["run"][..], 78), (&["config", "check"], 78), (&["status"], 69)] {
                let talk = devbox.expect(verb, code).await?.talk;
                ensure!(talk.contains("50-site.toml") && talk.contains(key), "{key} is not named: {talk}");
            }
        }
        devbox.configure("50-site.toml", "")?;
        devbox.close(Left::Nothing).await
    });
}
