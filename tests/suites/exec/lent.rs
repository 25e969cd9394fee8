//! A devbox whose metadata only its agent can ask: a person's commands get onto the tailnet by what the agent lends.

use std::process::Command;

use anyhow::{Result, ensure};
use devbox_lab::devbox::{Devbox, Said, give_token};
use devbox_lab::machine::{eventually, story};
use devbox_lab::platform::ledger::SecretKind;
use devbox_lab::platform::routes::TOKEN;
use devbox_lab::scene::Scene;
use devbox_lab::witness::{Left, TOKENS};

use crate::job::{LIMIT, told, with_exec};
use crate::peer::{PAGE, Peer};

/// Runs a command of a person's, who is not the agent and has nothing to show to the metadata.
async fn run(devbox: &Devbox<'_>, options: &[&str], command: &[&str]) -> Result<Said> {
    let agent: Command = devbox.machine.ordinary("devbox-agent");
    devbox.say(with_exec(agent, options, command)).await
}

#[test]
fn a_command_joins_by_what_the_running_agent_lends_when_configuration_lets_it() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (platform, secret) = (&scene.platform, "canary-bearer-7c41d2");
        let metadata = platform.serve_metadata_over_tls(8443).await?;
        let (peer, mut devbox) = (Peer::join(&scene).await?, Devbox::new(&scene, "web")?);
        let endpoint = format!("https://{}", metadata.server.address());
        let site = format!("[metadata]\nendpoint = \"{endpoint}\"\nbearer = \"credential:metadata\"\n");
        devbox.configure("50-site.toml", &site)?;
        platform.ledger.note(SecretKind::Bearer, secret);
        give_token(&devbox, "metadata", secret)?;
        // Without the configuration of its log, which would be that of its commands too.
        devbox.start_by(&format!("env CREDENTIALS_DIRECTORY={TOKENS} devbox-agent run"))?;
        devbox.online().await?;
        let agents = metadata.server.log.count(TOKEN);

        let own = run(&devbox, &["--join-timeout", "3s"], &["echo", "it runs"]).await?;
        told(&own, 125, &["metadata_secret", "[metadata] bearer"])?;
        let borrowed = ["--provider", "agent", "--tag", "tag:ci", "--join-timeout", "1m"];
        let refused = run(&devbox, &borrowed, &["echo", "it runs"]).await?;
        told(&refused, 125, &["token_denied", "[exec] lend_credential = true", "the group devbox-agent"])?;
        assert_eq!(metadata.server.log.count(TOKEN), agents, "a token was fetched for who may not have it");

        devbox.configure("60-lend.toml", "[exec]\nlend_credential = true\n")?;
        devbox.expect(&["refresh"], 0).await?;
        let claims = ["token", "--set", "metadata.provider=agent"];
        let lends = || async { Ok((devbox.ask(&claims).await?.code == 0).then_some(())) };
        eventually("an agent that lends its credential", LIMIT, lends).await?;
        let (lent, url) = (metadata.server.log.count(TOKEN), format!("http://{}/", peer.v4));
        let said = run(&devbox, &borrowed, &["curl", "-fsS", &url]).await?;
        ensure!(said.code == 0 && said.answer.contains(PAGE) && said.talk.is_empty(), "{said:?}");
        assert_eq!(metadata.server.log.count(TOKEN), lent + 1);
        let log = devbox.agent()?.log()?;
        assert_eq!(log.matches("is lent to user 0").count(), lent + 1 - agents, "{log}");

        let shown = format!("Bearer {secret}");
        let all = metadata.server.log.all();
        ensure!(all.iter().all(|request| request.header("authorization") == Some(&shown)), "one shows nothing");
        let keys = platform.minter.minted();
        let tags: Vec<_> = keys.values().map(|minted| minted.request.tags.concat()).collect();
        ensure!(tags.contains(&"tag:ci".to_owned()), "the command's node is not its own: {tags:?}");
        devbox.close(Left::OneNode).await
    });
}
