//! Running stories: several at a time, each in a sandbox of its own, within a time limit.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::durations::Durations;
use super::suites::Story;
use super::tally::{Suite, Tally};
use crate::machine::cgroup::Branch;
use crate::machine::sandbox;
use crate::tools::{Layout, Progress};

/// Everything needed to run stories; free of cargo, so that another user can carry it out from a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Programs and agent; `logs` is the folder above the stories' own.
    pub layout: Layout,
    /// The stories.
    pub stories: Vec<Story>,
    /// The record of durations.
    pub durations: PathBuf,
    /// Stories at a time.
    pub jobs: usize,
    /// Time for one story.
    pub limit: Duration,
}

/// How a story ended.
#[derive(Debug)]
struct Outcome {
    story: Story,
    failure: Option<String>,
    took: Duration,
    logs: PathBuf,
}

/// The story's own output, in the folder of its logs.
const OUTPUT: &str = "output.log";

/// Runs all stories, printing each result and the output of those that fail, and counts them.
pub fn run(plan: &Plan, progress: &Progress, tally: &mut Tally) -> anyhow::Result<()> {
    // One thread: a sandbox dies with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut durations = Durations::load(&plan.durations);
    let mut stories = plan.stories.clone();
    durations.order(&mut stories);
    runtime.block_on(async {
        let mut running = start(plan, stories);
        while let Some(outcome) = running.join_next().await {
            let outcome = outcome.context("failed to run a story")??;
            durations.note(&outcome.story, outcome.took);
            tell(&outcome, progress);
            let failed = usize::from(outcome.failure.is_some());
            tally.add(Suite { name: outcome.story.suite, passed: 1 - failed, failed, took: outcome.took });
        }
        anyhow::Ok(())
    })?;
    durations.save(&plan.durations).with_context(|| format!("failed to write {}", plan.durations.display()))
}

fn start(plan: &Plan, stories: Vec<Story>) -> JoinSet<anyhow::Result<Outcome>> {
    let (plan, seats) = (Arc::new(plan.clone()), Arc::new(Semaphore::new(plan.jobs)));
    let mut running = JoinSet::new();
    for story in stories {
        let (plan, seats) = (Arc::clone(&plan), Arc::clone(&seats));
        running.spawn(async move {
            let _seat = seats.acquire().await?;
            run_one(&plan, story).await
        });
    }
    running
}

async fn run_one(plan: &Plan, story: Story) -> anyhow::Result<Outcome> {
    let logs = plan.layout.logs.join(story.folder());
    let layout = Layout { logs: logs.clone(), ..plan.layout.clone() };
    let output = layout
        .clear_logs()
        .and_then(|()| File::create(logs.join(OUTPUT)))
        .with_context(|| format!("failed to prepare {}", logs.display()))?;
    let (variable, layout) = layout.to_environment()?;
    // Dropped last, when the sandbox has ended: what a story that was killed leaves in it goes too.
    let branch = story.boots().then(new_branch).transpose()?;
    let command = match &branch {
        Some(branch) => sandbox::command_that_boots(&plan.layout.lab, branch.path(), &story.binary),
        None => sandbox::command(&plan.layout.lab, &story.binary),
    };
    let started = Instant::now();
    let mut child = Command::from(command)
        .args(["--exact", &story.name, "--nocapture"])
        .env(variable, layout)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("failed to start {}", story.id()))?;
    let failure = match tokio::time::timeout(plan.limit, child.wait()).await {
        Ok(status) => Some(status?).filter(|status| !status.success()).map(|status| status.to_string()),
        Err(_) => {
            child.kill().await?;
            Some(format!("killed after {}", humantime::format_duration(plan.limit)))
        }
    };
    Ok(Outcome { story, failure, took: started.elapsed(), logs })
}

/// A control group for one more sandbox.
fn new_branch() -> anyhow::Result<Branch> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let branch = Branch::for_sandbox(COUNT.fetch_add(1, Ordering::Relaxed));
    branch.context("failed to make a control group: booted machines need root, and control groups of version 2")
}

fn tell(outcome: &Outcome, progress: &Progress) {
    let (id, seconds) = (outcome.story.id(), outcome.took.as_secs_f64());
    let Some(failure) = &outcome.failure else {
        return progress.answer(format!("{id}: passed ({seconds:.1} s)"));
    };
    let path = outcome.logs.join(OUTPUT);
    let output =
        fs::read(&path).unwrap_or_else(|error| format!("failed to read {}: {error}", path.display()).into_bytes());
    let output = String::from_utf8_lossy(&output);
    progress.answer(format!(
        "{id}: FAILED, {failure} ({seconds:.1} s)\n--- {id}\n{}\n--- logs: {}",
        output.trim_end(),
        outcome.logs.display()
    ));
}
