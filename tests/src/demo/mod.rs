//! The main job as a play: one act after the other on one platform, each checked for real and told to a person.
//!
//! An act that ends well has seen what it says; the first that does not ends the play.

pub mod booted;
mod cast;
mod change;
pub mod exec;
mod join;
mod pause;
mod reach;
mod restart;
mod runner;
mod secrets;
mod teller;
mod told;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;

use self::teller::Teller;
use crate::machine::Lab;
use crate::scene;

/// How long anything may take: far more than it does, so that a loaded machine fails nothing.
const LIMIT: Duration = Duration::from_secs(30);

/// Plays all acts; succeeds when each saw what it should.
///
/// # Errors
/// When the logs of a failed play cannot be kept.
pub async fn play(lab: Lab) -> anyhow::Result<ExitCode> {
    let (mut teller, logs, start) = (Teller::new(), lab.layout().logs.clone(), Instant::now());
    let played = acts(&mut teller, lab).await;
    conclude(&teller, played, &logs, start)
}

/// Tells how a play ended that began at `start`, and keeps the logs of one that failed.
fn conclude(teller: &Teller, played: anyhow::Result<()>, logs: &Path, start: Instant) -> anyhow::Result<ExitCode> {
    let Err(error) = played else {
        teller.end("Each of these was checked.", start.elapsed());
        return Ok(ExitCode::SUCCESS);
    };
    teller.failed(&error);
    keep_platform_log(logs)?;
    eprintln!("logs: {}", logs.display());
    Ok(ExitCode::FAILURE)
}

async fn acts(teller: &mut Teller, lab: Lab) -> anyhow::Result<()> {
    teller.act("A devbox joins by itself");
    let mut cast = join::play(teller, lab).await?;
    teller.act("A teammate's laptop opens the devbox's web server by name");
    reach::play(teller, &mut cast).await?;
    teller.act("The devbox crashes and is started again");
    restart::play(teller, &mut cast).await?;
    teller.act("The devbox is paused and resumed, and the network forgot its connections");
    pause::play(teller, &cast).await?;
    teller.act("A CI runner joins for one job and goes");
    let runner = runner::play(teller, &cast).await?;
    teller.act("The platform changes the devbox's name and tags");
    change::play(teller, &cast).await?;
    teller.act("What a person on the devbox sees, and what the platform was told");
    told::play(teller, &cast).await?;
    teller.act("No secret is left anywhere");
    secrets::play(teller, &cast, &runner)
}

/// The platform's files go with the sandbox.
fn keep_platform_log(logs: &Path) -> anyhow::Result<()> {
    let log = Path::new(scene::FOLDER).join("headscale/headscale.log");
    if log.exists() {
        fs::copy(&log, logs.join("headscale.log")).with_context(|| format!("failed to keep {}", log.display()))?;
    }
    Ok(())
}
