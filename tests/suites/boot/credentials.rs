//! Secrets that systemd hands to the agent: a workload token for the provider `file`, and what a metadata endpoint wants to see.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_lab::devbox::{AGENT, CLIENT, Installed};
use devbox_lab::machine::story;
use devbox_lab::platform::ledger::SecretKind;
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;

/// Where systemd finds credentials that ImportCredential= may take (systemd.exec(5)).
const STORE: &str = "/etc/credstore";
const SITE: &str = "/etc/devbox-agent/config.d/50-site.toml";

/// Puts a credential where only root can read it.
fn give(devbox: &Installed<'_>, name: &str, secret: &str) -> Result<()> {
    let path = format!("{STORE}/{name}");
    devbox.machine.write(&path, secret)?;
    fs::set_permissions(devbox.machine.path(&path), Permissions::from_mode(0o600)).context("failed to close a file")
}

/// Takes it away again, also from the agent: a new process has none.
async fn take(devbox: &Installed<'_>, name: &str) -> Result<()> {
    fs::remove_file(devbox.machine.path(format!("{STORE}/{name}"))).context("failed to remove a credential")?;
    devbox.machine.run("systemctl", &["restart", AGENT]).await.map(drop)
}

/// A credential is for the agent, not for who asks systemd what the unit has.
async fn is_kept_from_others(devbox: &Installed<'_>, name: &str) -> Result<()> {
    let passed = format!("/run/credentials/{AGENT}/{name}");
    ensure!(devbox.machine.path(&passed).exists(), "systemd passes {name} to the agent");
    devbox.refuses("nobody", &["cat", &passed], &["Permission denied"]).await
}

#[test]
fn a_workload_token_may_be_a_credential_of_the_system() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::devbox(&scene, "web")?;
        let audience = format!("api.tailscale.com/{CLIENT}");
        let token = scene.platform.issuer.issue(&devbox.subject(), &audience)?;
        give(&devbox, "devbox-agent.token", &format!("{}\n", token.jwt))?;
        let site = format!(
            "[metadata]\nprovider = \"file\"\ntoken = \"credential:devbox-agent.token\"\ninstance = \"{}\"\n\
             [tailnet]\nclient_id = \"{CLIENT}\"\ntags = [\"tag:devbox\"]\nhostname = \"web\"\n",
            devbox.id
        );
        devbox.machine.write(SITE, site)?;
        devbox.boot().await?;
        devbox.online().await?;
        assert_eq!((devbox.node().await?.given_name.as_str(), devbox.minted()), ("web", 1));
        is_kept_from_others(&devbox, "devbox-agent.token").await?;

        take(&devbox, "devbox-agent.token").await?;
        // A node that is there needs no token.
        devbox.online().await?;
        assert_eq!(devbox.minted(), 1);
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_metadata_endpoint_over_tls_is_shown_a_credential() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let platform = &scene.platform;
        let metadata = platform.serve_metadata_over_tls(8443).await?;
        let mut devbox = Installed::devbox(&scene, "web")?;
        let endpoint = format!("https://{}", metadata.server.address());
        let site = format!("[metadata]\nendpoint = \"{endpoint}\"\nbearer = \"credential:devbox-agent.metadata\"\n");
        devbox.machine.write(SITE, site)?;
        // A machine that has nothing to show asks nothing.
        devbox.boot().await?;
        let document = devbox.until_phase(Phase::WaitingForMetadata, Code::MetadataSecret).await?;
        let detail = document.reason.map(|reason| reason.detail).unwrap_or_default();
        ensure!(detail.contains("[metadata] bearer"), "{detail}");
        assert_eq!(metadata.server.log.all().len(), 0);

        let secret = "canary-bearer-3f9a51";
        platform.ledger.note(SecretKind::Bearer, secret);
        give(&devbox, "devbox-agent.metadata", secret)?;
        devbox.machine.run("systemctl", &["restart", AGENT]).await?;
        devbox.online().await?;
        is_kept_from_others(&devbox, "devbox-agent.metadata").await?;
        let shown = format!("Bearer {secret}");
        let requests = metadata.server.log.all();
        ensure!(requests.iter().all(|request| request.header("authorization") == Some(&shown)), "one shows nothing");
        ensure!(requests.iter().any(|request| request.route == "PUT /devbox/v1/report"), "reports show it too");
        for other in [&platform.metadata.server.log, &platform.api.server.log] {
            ensure!(other.containing(secret).is_empty(), "somebody else was shown the secret");
        }
        take(&devbox, "devbox-agent.metadata").await?;
        devbox.close(Left::OneNode).await
    });
}
