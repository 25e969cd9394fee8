//! Namespace's devboxes and runners.

use std::fs;

use anyhow::Result;
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_lab::devbox::{CLIENT, Devbox};
use devbox_lab::machine::story;
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::namespace::{Integration, Namespace};
use devbox_lab::platform::routes::EXCHANGE;
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;

const WORKSPACE: &str = "tenant-acme";
const ID: &str = "k9m2p4";
const SUBJECT: &str = "tenant-acme/k9m2p4";
const SPEC_FILE: &str = "/var/run/nsc/token.spec";
const TOKEN_FILE: &str = "/var/run/nsc/token.json";

fn integration(tag: &str) -> Integration {
    Integration { client_id: CLIENT.to_owned(), tags: vec![tag.to_owned()], magic_dns: true }
}

/// Namespace, whose workspace has the integrations `default` and `staging`, and a machine of it without a credential.
async fn machine<'a>(scene: &'a Scene, toml: &str) -> Result<(Namespace, Devbox<'a>)> {
    let namespace = scene.platform.namespace(WORKSPACE, ID).await?;
    namespace.integrate("default", integration("tag:devbox"));
    namespace.integrate("staging", integration("tag:ci"));
    let toml = format!("[metadata]\nprovider = \"namespace\"\n{toml}");
    Ok((namespace, Devbox::elsewhere(scene, "box", SUBJECT, &toml)?))
}

/// Leaves a credential where Namespace does.
fn leave(devbox: &Devbox<'_>, file: &str, text: &str) -> Result<()> {
    Ok(devbox.machine.root().write(file.replace("/var/run", "/run"), text)?)
}

/// Takes it away again, for the search for secrets.
fn take(devbox: &Devbox<'_>) -> Result<()> {
    Ok(fs::remove_dir_all(devbox.machine.root().path("/run/nsc"))?)
}

#[test]
fn a_devbox_joins_by_its_metadata_service_as_the_default_integration_says() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (namespace, mut devbox) = machine(&scene, "").await?;
        leave(&devbox, SPEC_FILE, &namespace.spec())?;
        devbox.start_with(&[namespace.environment()])?;
        let document = devbox.online().await?;
        assert_eq!(document.instance.map(|instance| instance.id).as_deref(), Some(ID));
        let node = devbox.node().await?;
        assert_eq!((node.given_name.as_str(), node.tags.as_slice()), (ID, &["tag:devbox".to_owned()][..]));
        let (iam, metadata) = (&namespace.iam.log, &namespace.metadata.log);
        assert_eq!((iam.count(Namespace::INTEGRATIONS), iam.count(Namespace::TOKEN), iam.all().len()), (1, 1, 2));
        assert_eq!((metadata.count(Namespace::ID), metadata.count(Namespace::WORKLOAD)), (1, 2));
        assert_eq!(scene.platform.metadata.server.log.all().len(), 0, "nobody asks the platform's own endpoint");
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_session_is_traded_and_the_named_integration_is_used_and_followed() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (namespace, mut devbox) = machine(&scene, "integration = \"staging\"\ninstance = \"box-7\"\n").await?;
        leave(&devbox, TOKEN_FILE, &namespace.session_file()?)?;
        devbox.start_with(&[namespace.environment()])?;
        devbox.online().await?;
        let node = devbox.node().await?;
        assert_eq!((node.given_name.as_str(), node.tags.as_slice()), ("box-7", &["tag:ci".to_owned()][..]));
        assert_eq!((namespace.iam.log.count(Namespace::SESSION), namespace.metadata.log.all().len()), (2, 0));

        namespace.integrate("staging", integration("tag:web"));
        devbox.expect(&["refresh"], 0).await?;
        devbox.until_node("the integration's new tag", |node| node.tags == ["tag:web"]).await?;
        devbox.online().await?;
        take(&devbox)?;
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_credential_that_is_replaced_while_the_agent_waits_is_read_anew() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (namespace, mut devbox) = machine(&scene, "instance = \"box-8\"\n").await?;
        leave(&devbox, TOKEN_FILE, &namespace.bearer_file()?)?;
        namespace.revoke();
        devbox.start_with(&[namespace.environment()])?;
        devbox.gives(Code::MetadataDenied, "unauthenticated").await?;
        leave(&devbox, SPEC_FILE, &namespace.inline_spec()?)?;
        devbox.expect(&["refresh"], 0).await?;
        devbox.online().await?;
        assert_eq!((namespace.iam.log.count(Namespace::TOKEN), namespace.metadata.log.all().len()), (1, 0));
        take(&devbox)?;
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn what_namespace_refuses_and_what_it_does_not_answer_are_told_apart() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (namespace, mut devbox) = machine(&scene, "instance = \"box-9\"\nintegration = \"production\"\n").await?;
        devbox.start_with(&[namespace.environment()])?;
        devbox.gives(Code::MetadataSecret, "/var/run/nsc/token.spec nor /var/run/nsc/token.json").await?;
        assert_eq!(namespace.iam.log.all().len(), 0, "nobody is asked without a credential");

        leave(&devbox, TOKEN_FILE, &namespace.bearer_file()?)?;
        devbox.expect(&["refresh"], 0).await?;
        let missing = devbox.gives(Code::MetadataValue, "(it has: default, staging)").await?;
        assert_eq!(missing.phase, Phase::Blocked);
        for (fault, code, words) in [
            (Fault::drop_connection(), Code::MetadataUnreachable, "the connection broke"),
            (
                Fault::status(503).body(r#"{"code":14,"message":"later"}"#),
                Code::MetadataUnavailable,
                "unavailable: later",
            ),
            (Fault::status(200).body("<html>"), Code::MetadataInvalid, "line 1"),
            (Fault::status(403).body(r#"{"code":"permission_denied"}"#), Code::MetadataDenied, "permission_denied"),
        ] {
            namespace.iam.faults.always(Namespace::INTEGRATIONS, fault);
            // A fresh agent has no document of before to fall back on.
            devbox.stop_agent().await?;
            devbox.start_with(&[namespace.environment()])?;
            devbox.gives(code, words).await?;
        }
        namespace.iam.faults.clear_all();
        namespace.integrate("production", integration("tag:db"));
        namespace.iam.faults.always(Namespace::TOKEN, Fault::status(503));
        devbox.expect(&["refresh"], 0).await?;
        devbox.gives(Code::TokenUnavailable, "503").await?;
        namespace.iam.faults.clear_all();
        namespace.revoke();
        devbox.expect(&["refresh"], 0).await?;
        let denied = devbox.gives(Code::TokenDenied, "unauthenticated").await?;
        assert_eq!(denied.phase, Phase::Blocked);
        assert_eq!(scene.platform.api.server.log.count(EXCHANGE), 0);

        leave(&devbox, TOKEN_FILE, &namespace.bearer_file()?)?;
        devbox.expect(&["refresh"], 0).await?;
        devbox.online().await?;
        take(&devbox)?;
        devbox.close(Left::OneNode).await
    });
}
