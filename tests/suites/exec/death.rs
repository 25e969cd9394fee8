//! SIGKILL of each process of a run: nothing is left of any of them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use devbox_lab::machine::story;
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;
use nix::sys::signal::{Signal, kill};

use crate::job::{Job, code_of};
use crate::tree::Tree;

/// A command with children that would outlive it: one in a session of its own that ignores its end, two in the background.
const FAMILY: &str = "(trap '' TERM HUP; setsid bash -c 'while :; do sleep 0.1; done' &) ; sleep 1001 & sleep 1002 & echo ready; exec sleep 1003";

/// Kills one part of a run; returns what exec said and ended with.
async fn kill_part(job: &Job<'_>, part: &str) -> Result<(u8, String)> {
    let run = job.start(&["--hostname", part], FAMILY).await?;
    let victim = Tree::of(run.pid()).await?.part(part)?;
    let killed = Instant::now();
    kill(victim, Signal::SIGKILL).with_context(|| format!("failed to kill the {part}"))?;
    let code = code_of(&run).await?;
    let ended = killed.elapsed();
    job.is_clean().await.with_context(|| format!("the {part} was killed"))?;
    tracing::info!(part, ?ended, all = ?killed.elapsed(), "killed");
    Ok((code, run.log()?.replace("ready\n", "")))
}

#[test]
fn the_death_of_a_part_is_the_end_of_all_and_is_named() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        for (part, words) in
            [("pasta", "pasta"), ("tailscaled", "tailscaled"), ("broker", "socket broker"), ("init", "PID 1")]
        {
            let (code, said) = kill_part(&job, part).await?;
            ensure!(code == 125 && said.lines().count() == 1, "the {part}: {code} {said:?}");
            ensure!(said.contains(words) && said.contains("killed by signal 9"), "the {part}: {said:?}");
        }
        delete_nodes(&job).await?;
        job.close().await
    });
}

#[test]
fn the_death_of_the_sandbox_the_session_or_the_command_is_the_end_of_all() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let (code, said) = kill_part(&job, "sandbox").await?;
        ensure!(code == 125 && said.lines().count() == 1, "the sandbox: {code} {said:?}");
        assert_eq!(kill_part(&job, "session").await?, (137, String::new()));
        delete_nodes(&job).await?;
        assert_eq!(kill_part(&job, "command").await?, (137, String::new()));
        job.close().await
    });
}

/// Deletes the nodes that nobody was left to log out, as control does with ephemeral ones after a while.
async fn delete_nodes(job: &Job<'_>) -> Result<()> {
    for node in job.nodes().await? {
        ensure!(node.pre_auth_key.as_ref().is_some_and(|key| key.ephemeral), "{} would stay", node.given_name);
        job.scene.platform.headscale.api.delete_node(&node.id).await?;
    }
    Ok(())
}

#[test]
fn a_tailscaled_that_dies_before_the_command_begins_is_named() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        // Nobody has this name, so that the command never begins.
        let run = job.machine.spawn(job.exec(&["--wait-for", "nobody"], &["echo", "it runs"]))?;
        job.until_nodes(1).await?;
        let tailscaled = Tree::named("tailscaled")?;
        kill(tailscaled, Signal::SIGKILL)?;
        assert_eq!(code_of(&run).await?, 125);
        let log = run.log()?;
        ensure!(log.lines().count() == 1 && log.contains("tailscaled was killed by signal 9"), "{log:?}");
        job.is_clean().await?;
        job.close_with(Left::OneNode).await
    });
}

#[test]
fn a_command_that_takes_too_long_is_ended() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let begun = Instant::now();
        let said = job.run(&["--timeout", "500ms"], &["sleep", "1000"]).await?;
        ensure!(said.code == 124 && begun.elapsed() > Duration::from_millis(500), "{said:?}");
        job.close().await
    });
}
