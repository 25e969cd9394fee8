//! The provider `file` with a token that whoever starts the agent leaves in a descriptor.

use std::fs;

use anyhow::{Result, ensure};
use devbox_lab::devbox::{CLIENT, Devbox, give_token};
use devbox_lab::machine::story;
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;

const SUBJECT: &str = "pipeline/42";

fn devbox<'a>(scene: &'a Scene) -> Result<Devbox<'a>> {
    let toml = format!(
        "[tailnet]\nclient_id = \"{CLIENT}\"\ntags = [\"tag:ci\"]\n\
         [metadata]\nprovider = \"file\"\ntoken = \"fd:7\"\ninstance = \"job-42\"\n"
    );
    Devbox::elsewhere(scene, "job", SUBJECT, &toml)
}

#[test]
fn a_token_in_a_descriptor_is_enough_to_join_and_tailscaled_does_not_get_it() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = devbox(&scene)?;
        let token = scene.platform.issuer.issue(SUBJECT, &format!("api.tailscale.com/{CLIENT}"))?;
        give_token(&devbox, "jwt", &token.jwt)?;
        devbox.start_by("devbox-agent run 7< /run/workload/jwt")?;
        devbox.online().await?;
        assert_eq!(devbox.node().await?.given_name, "job-42");
        for entry in fs::read_dir(format!("/proc/{}/fd", devbox.tailscaled().await?))? {
            let target = fs::read_link(entry?.path()).unwrap_or_default();
            ensure!(!target.ends_with("workload/jwt"), "tailscaled has the descriptor");
        }
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_descriptor_that_is_not_there_is_said_before_anything_is_started() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = devbox(&scene)?;
        let said = devbox.expect(&["run"], 1).await?.talk;
        ensure!(said.contains("failed to use the descriptor 7 of [metadata] token"), "{said}");
        devbox.close(Left::Nothing).await
    });
}
