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

/// Within what nothing may be left of a run when one of its processes is killed, on a machine that does nothing else.
const NOTHING_LEFT: Duration = Duration::from_millis(500);

/// What came of the death of one part.
struct Death {
    code: u8,
    said: String,
    /// Until nothing was left, as if the machine did nothing else.
    took: Duration,
}

async fn kill_part(job: &Job<'_>, options: &[&str], part: &str) -> Result<Death> {
    let run = job.start(&[&["--hostname", part], options].concat(), FAMILY).await?;
    let victim = Tree::of(run.pid()).await?.part(part)?;
    let killed = Instant::now();
    kill(victim, Signal::SIGKILL).with_context(|| format!("failed to kill the {part}"))?;
    let code = code_of(&run).await?;
    job.is_clean().await.with_context(|| format!("the {part} was killed"))?;
    let (took, busyness) = (killed.elapsed(), job.busyness().await?);
    tracing::info!(part, ?took, busyness, "everything is gone");
    let took = took.div_f64(busyness);
    Ok(Death { code, said: run.log()?.replace("ready\n", ""), took })
}

#[test]
fn the_death_of_any_part_is_the_end_of_all_and_is_named() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let parts = [
            ("session", 137, ""),
            ("sandbox", 125, "the sandbox"),
            ("pasta", 125, "pasta was killed by signal 9"),
            ("tailscaled", 125, "tailscaled was killed by signal 9"),
            ("broker", 125, "the socket broker was killed by signal 9"),
            ("relay", 125, "the resolver's relay was killed by signal 9"),
            ("init", 125, "PID 1 was killed by signal 9"),
            ("command", 137, ""),
        ];
        let mut times = Vec::new();
        for (part, code, words) in parts {
            let death = kill_part(&job, &[], part).await?;
            let lines = usize::from(!words.is_empty());
            let told = death.said.lines().count() == lines && death.said.contains(words);
            ensure!(death.code == code && told, "the {part}: {} {:?}", death.code, death.said);
            times.push(death.took);
        }
        // One of them may have met a busy machine all the same.
        times.sort();
        ensure!(
            times[times.len() / 2] <= NOTHING_LEFT,
            "as on an idle machine it took {times:?} until nothing was left"
        );
        delete_nodes(&job).await?;
        job.close().await
    });
}

#[test]
fn what_stands_for_pasta_is_watched_as_well() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        for (part, words) in [("broker", "the socket broker was killed"), ("relay", "the resolver's relay was killed")]
        {
            let death = kill_part(&job, &["--tailnet-only"], part).await?;
            ensure!(death.code == 125 && death.said.contains(words), "the {part}: {} {:?}", death.code, death.said);
        }
        delete_nodes(&job).await?;
        job.close().await
    });
}

/// Deletes the nodes that nobody was left to log out, as control does with ephemeral ones after a while.
pub async fn delete_nodes(job: &Job<'_>) -> Result<()> {
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
        // Its children are asked too, or a shell would wait for them.
        let family = ["bash", "-c", "trap 'echo over' TERM; sleep 1000; echo slept"];
        let said = job.run(&["--timeout", "500ms"], &family).await?;
        ensure!(said.code == 124 && said.answer == "over\nslept\n", "{said:?}");
        job.close().await
    });
}
