//! Secrets that systemd hands to the agent: a workload token for the provider `file`, and what a metadata endpoint wants to see.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_lab::devbox::{AGENT, CLIENT, Installed, LIMIT, Said};
use devbox_lab::machine::{eventually, story};
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

/// What a user is told of the agent's own token.
async fn borrow(devbox: &Installed<'_>, user: &str) -> Result<Said> {
    devbox.as_user(user, &["devbox-agent", "token", "--set", "metadata.provider=agent"]).await
}

#[test]
fn the_agents_credential_is_lent_to_its_group_and_only_when_configuration_lets_it() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let platform = &scene.platform;
        let metadata = platform.serve_metadata_over_tls(8443).await?;
        let mut devbox = Installed::devbox(&scene, "web")?;
        let (endpoint, secret) = (format!("https://{}", metadata.server.address()), "canary-bearer-91be07");
        let site = format!("[metadata]\nendpoint = \"{endpoint}\"\nbearer = \"credential:devbox-agent.metadata\"\n");
        devbox.machine.write(SITE, site)?;
        platform.ledger.note(SecretKind::Bearer, secret);
        give(&devbox, "devbox-agent.metadata", secret)?;
        devbox.boot().await?;
        devbox.online().await?;
        devbox.machine.run("useradd", &["--groups", "devbox-agent", "ada"]).await?;
        devbox.refuses("ada", &["devbox-agent", "token"], &["metadata_secret"]).await?;
        for user in ["ada", "root"] {
            let said = borrow(&devbox, user).await?;
            ensure!(said.code == 1 && said.talk.contains("[exec] lend_credential = true"), "{user}: {said:?}");
        }

        devbox.machine.write("/etc/devbox-agent/config.d/60-lend.toml", "[exec]\nlend_credential = true\n")?;
        devbox.machine.run("systemctl", &["reload", AGENT]).await?;
        let lends = || async { Ok(Some(borrow(&devbox, "ada").await?).filter(|said| said.code == 0)) };
        let said = eventually("a token for a member of the group", LIMIT, lends).await?;
        let claims: serde_json::Value = serde_json::from_str(&said.answer)?;
        assert_eq!(claims["sub"], devbox.subject());
        assert_eq!(claims["aud"], serde_json::json!([format!("api.tailscale.com/{CLIENT}")]));
        let said = borrow(&devbox, "nobody").await?;
        ensure!(said.code == 1 && said.talk.contains("token_denied"), "{said:?}");
        ensure!(said.talk.contains("to root, its own user and the group devbox-agent alone"), "{said:?}");
        for (method, path) in [("GET", "spec"), ("POST", "token?client_id=k1")] {
            let url = format!("http://localhost/v1/{path}");
            let mut curl = vec!["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", method];
            curl.extend(["--unix-socket", "/run/devbox-agent/api/agent.sock", &url]);
            assert_eq!(devbox.as_user("nobody", &curl).await?.answer, "403", "{method} {path}");
        }
        let ada = devbox.machine.run("id", &["-u", "ada"]).await?;
        let journal = devbox.machine.journal(&["-u", AGENT]).await?;
        let lent: Vec<_> = journal.iter().filter_map(|entry| entry.field("UID")).collect();
        assert_eq!(lent, [ada.trim()], "the journal does not tell of each token and of whom it was lent to");
        take(&devbox, "devbox-agent.metadata").await?;
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
