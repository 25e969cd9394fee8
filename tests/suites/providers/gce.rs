//! VMs of Google Compute Engine.

use anyhow::{Result, ensure};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_lab::devbox::{CLIENT, Devbox, LIMIT};
use devbox_lab::machine::story;
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::gce::Gce;
use devbox_lab::platform::routes::EXCHANGE;
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;
use serde_json::json;

/// The unique id of a service account, as the subject of its tokens has it.
const SUBJECT: &str = "112233445566778899001";

/// What a VM is given in its attribute.
fn wish(tag: &str) -> String {
    json!({ "client_id": CLIENT, "tags": [tag] }).to_string()
}

/// A VM, and its metadata server.
fn vm<'a>(scene: &'a Scene, toml: &str) -> Result<(Gce, Devbox<'a>)> {
    let gce = scene.platform.gce("web-api")?;
    let toml = format!("[metadata]\nprovider = \"gce\"\nendpoint = \"{}\"\n{toml}", gce.url());
    Ok((gce, Devbox::elsewhere(scene, "vm", SUBJECT, &toml)?))
}

#[test]
fn a_vm_joins_as_its_attribute_says_and_follows_it_at_once() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (gce, mut vm) = vm(&scene, "")?;
        gce.attach("default", SUBJECT);
        gce.set("devbox-agent", &wish("tag:devbox"));
        vm.start()?;
        let document = vm.online().await?;
        assert_eq!(document.instance.map(|instance| instance.id).as_deref(), Some(Gce::ID));
        let node = vm.node().await?;
        assert_eq!((node.given_name.as_str(), node.tags.as_slice()), ("web-api", &["tag:devbox".to_owned()][..]));
        let log = &gce.server.log;
        assert_eq!(log.count(Gce::TOKEN), 1);

        // The read that waits for a change is answered by it, long before its own time is over.
        let held = log.wait_for(Gce::ATTRIBUTE, 2, LIMIT).await?;
        ensure!(held[1].query.contains("wait_for_change=true"), "nobody waits: {}", held[1].query);
        gce.set("devbox-agent", &wish("tag:web"));
        vm.until_node("the attribute's new tag", |node| node.tags == ["tag:web"]).await?;
        let document = vm.online().await?;
        assert_eq!(document.metadata.etag.as_deref(), Some("0000000000000002"));
        ensure!(log.count(Gce::ATTRIBUTE) <= 4, "{} reads of the attribute", log.count(Gce::ATTRIBUTE));
        vm.close(Left::OneNode).await
    });
}

#[test]
fn a_vm_without_the_attribute_is_unassigned_until_it_has_one() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (gce, mut vm) = vm(&scene, "identity = \"ci@acme.iam.gserviceaccount.com\"\n")?;
        gce.attach("ci@acme.iam.gserviceaccount.com", SUBJECT);
        vm.start()?;
        vm.until_phase(Phase::Unassigned, None).await?;
        assert_eq!(gce.server.log.count(Gce::TOKEN), 0);
        gce.set("devbox-agent", &wish("tag:db"));
        vm.expect(&["refresh"], 0).await?;
        vm.online().await?;
        assert_eq!((vm.node().await?.tags.join(" ").as_str(), gce.server.log.count(Gce::TOKEN)), ("tag:db", 0));
        vm.close(Left::OneNode).await
    });
}

#[test]
fn what_the_metadata_server_refuses_and_what_it_does_not_answer_are_told_apart() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (gce, mut vm) = vm(&scene, "")?;
        gce.set("devbox-agent", &wish("tag:devbox"));
        for (fault, code, words) in [
            (Fault::drop_connection(), Code::MetadataUnreachable, "the connection broke"),
            (Fault::status(503), Code::MetadataUnavailable, "503"),
            (
                Fault::status(200).body("{}").without_header("metadata-flavor"),
                Code::MetadataUntrusted,
                "metadata-flavor is missing",
            ),
            (Fault::status(200).body(r#"{"tags":["web"]}"#), Code::MetadataValue, "tailnet.tags[0]"),
        ] {
            gce.server.faults.always(Gce::ATTRIBUTE, fault);
            vm.start()?;
            vm.gives(code, words).await?;
            vm.stop_agent().await?;
        }
        gce.server.faults.clear_all();
        vm.start()?;
        let denied = vm.gives(Code::TokenDenied, "no service account \"default\"").await?;
        assert_eq!((denied.phase, gce.server.log.count(Gce::TOKEN)), (Phase::Blocked, 1));
        gce.attach("default", SUBJECT);
        gce.server.faults.always(Gce::TOKEN, Fault::status(503).retry_after("1"));
        vm.expect(&["refresh"], 0).await?;
        vm.gives(Code::TokenUnavailable, "503").await?;
        assert_eq!(scene.platform.api.server.log.count(EXCHANGE), 0);
        gce.server.faults.clear_all();
        vm.online().await?;
        vm.close(Left::OneNode).await
    });
}
