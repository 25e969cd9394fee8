//! VMs of Azure.

use anyhow::Result;
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_lab::devbox::{CLIENT, Devbox};
use devbox_lab::machine::story;
use devbox_lab::platform::azure::Azure;
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::routes::EXCHANGE;
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;

/// The object id of a managed identity, as the subject of its tokens has it.
const SUBJECT: &str = "1d2f0a3e-9c1b-4f8e-8a55-0b7f5f0c9d11";
/// Two client ids of managed identities.
const IDENTITY: &str = "5e29463d-71da-4fe0-8e69-999b57db23b0";
const OTHER: &str = "8f6a2a52-0a3f-4b8c-b7a1-0e0ab5f3c9aa";

/// A VM, and its metadata service.
fn vm<'a>(scene: &'a Scene, toml: &str) -> Result<(Azure, Devbox<'a>)> {
    let azure = scene.platform.azure("Web_API")?;
    let endpoint = azure.url();
    let toml = format!(
        "[tailnet]\nclient_id = \"{CLIENT}\"\ntags = [\"tag:devbox\"]\n\
         [metadata]\nprovider = \"azure\"\nendpoint = \"{endpoint}\"\n{toml}"
    );
    Ok((azure, Devbox::elsewhere(scene, "vm", SUBJECT, &toml)?))
}

#[test]
fn a_vm_joins_by_its_managed_identity() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (azure, mut vm) = vm(&scene, "")?;
        azure.assign(IDENTITY, SUBJECT);
        azure.register(&format!("api.tailscale.com/{CLIENT}"));
        vm.start()?;
        let document = vm.online().await?;
        assert_eq!(document.instance.map(|instance| instance.id).as_deref(), Some(Azure::ID));
        let node = vm.node().await?;
        assert_eq!((node.given_name.as_str(), node.tags.as_slice()), ("web-api", &["tag:devbox".to_owned()][..]));
        assert_eq!(azure.server.log.count(Azure::TOKEN), 1);
        assert_eq!(scene.platform.metadata.server.log.all().len(), 0, "nobody asks the platform's own endpoint");
        vm.close(Left::OneNode).await
    });
}

#[test]
fn a_refusal_is_told_by_azures_own_code_until_somebody_has_set_things_right() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (azure, mut vm) = vm(&scene, "")?;
        azure.server.faults.always(Azure::COMPUTE, Fault::status(404));
        vm.start()?;
        vm.gives(Code::NotProvisioned, "404").await?;
        vm.stop_agent().await?;
        azure.server.faults.clear_all();

        vm.start()?;
        let denied = vm.gives(Code::TokenDenied, "400: invalid_request: Identity not found").await?;
        assert_eq!(denied.phase, Phase::Blocked);
        azure.assign(OTHER, "somebody-else");
        azure.assign(IDENTITY, SUBJECT);
        vm.expect(&["refresh"], 0).await?;
        vm.gives(Code::TokenDenied, "Multiple user assigned identities").await?;
        vm.configure("30-identity.toml", &format!("[metadata]\nidentity = \"{IDENTITY}\"\n"))?;
        vm.expect(&["refresh"], 0).await?;
        vm.gives(Code::TokenDenied, "invalid_resource: AADSTS500011").await?;
        azure.register(&format!("api.tailscale.com/{CLIENT}"));
        for (fault, words) in [
            (Fault::drop_connection(), "the connection broke"),
            (Fault::status(429).retry_after("1"), "429"),
            (Fault::status(200).body("{}"), "line 1"),
        ] {
            azure.server.faults.always(Azure::TOKEN, fault);
            vm.expect(&["refresh"], 0).await?;
            vm.gives(Code::TokenUnavailable, words).await?;
        }
        assert_eq!(scene.platform.api.server.log.count(EXCHANGE), 0);
        azure.server.faults.clear_all();
        vm.online().await?;
        vm.close(Left::OneNode).await
    });
}
