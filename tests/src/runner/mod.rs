//! `cargo lab test`: checks, unit tests, and the stories, each in a sandbox of its own.

mod checks;
mod durations;
mod staged;
mod stories;
mod suites;
mod tally;
pub mod units;

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use nix::unistd::geteuid;

pub use staged::{RUN_PLAN, run_plan};

use crate::package;
use crate::staging;
use crate::tools::{self, Cargo, PackageError, Profile, Program, Progress, Workspace};
use stories::Plan;
use tally::Tally;

/// The suite that `--quick` runs: the main job, end to end.
const QUICK_SUITE: &str = "join";

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Only the checks, the unit tests and the suite `join`.
    pub quick: bool,
    /// Only stories with this in `suite::story`; neither checks nor unit tests.
    pub filter: Option<String>,
    /// Only the stories, and those as this user.
    pub as_user: Option<u32>,
    /// The agent's package for machines that boot; built when there is none.
    pub package: Option<PathBuf>,
    /// Stories at a time.
    pub jobs: Option<usize>,
    /// Time for one story.
    pub limit: Duration,
}

impl Options {
    fn only_stories(&self) -> bool {
        self.filter.is_some() || self.as_user.is_some()
    }

    fn wants(&self, story: &suites::Story) -> bool {
        let named = self.filter.as_ref().is_none_or(|filter| story.id().contains(filter.as_str()));
        named && (!self.quick || story.suite == QUICK_SUITE)
    }

    /// Three, or one a core: a story waits more than it computes.
    fn jobs(&self) -> usize {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        self.jobs.unwrap_or_else(|| cores.max(3))
    }
}

/// Runs the tests and prints the results; the last line is `N passed, N failed`.
pub fn test(options: &Options) -> anyhow::Result<ExitCode> {
    options.as_user.map_or(Ok(()), staging::check_may_become)?;
    let (workspace, progress) = (Workspace::find(), Progress::new());
    let mut tally = Tally::default();
    // The Go programs take minutes the first time, so cargo works beside them.
    let mut plan = thread::scope(|scope| {
        let programs = scope.spawn(|| tools::prepare_programs(&workspace, &progress, &Program::USUAL));
        if !options.only_stories() {
            checks::run(&workspace, &progress, &mut tally)?;
            units::run(&workspace, &progress, &mut tally)?;
        }
        let plan = plan(&workspace, &progress, options)?;
        match programs.join() {
            Ok(prepared) => prepared?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        anyhow::Ok(plan)
    })?;
    prepare_boots(&workspace, &progress, options, &mut plan)?;
    prepare_exec(&progress, &mut plan)?;
    if let Some(uid) = options.as_user {
        return staged::run_as(&plan, uid);
    }
    stories::run(&plan, &progress, &mut tally)?;
    Ok(tally.close())
}

/// Makes images for the stories whose machines boot; or takes these stories out, and says so, when they are not run by root.
fn prepare_boots(workspace: &Workspace, progress: &Progress, options: &Options, plan: &mut Plan) -> anyhow::Result<()> {
    let mut suites: Vec<&str> =
        plan.stories.iter().filter(|story| story.boots()).map(|story| story.suite.as_str()).collect();
    suites.dedup();
    if suites.is_empty() {
        return Ok(());
    }
    if options.as_user.is_none() && geteuid().is_root() {
        plan.layout.images = Some(package::images(workspace, progress, options.package.clone())?);
        return Ok(());
    }
    for suite in suites {
        println!("{suite}: skipped: needs root");
    }
    plan.stories.retain(|story| !story.boots());
    Ok(())
}

/// Installs programs for the stories of `exec`; or takes these stories out, and says so, when nobody who may has installed them.
fn prepare_exec(progress: &Progress, plan: &mut Plan) -> anyhow::Result<()> {
    if !plan.stories.iter().any(suites::Story::execs) {
        return Ok(());
    }
    match tools::prepare_exec(progress) {
        Err(error @ PackageError::Missing(_)) => {
            println!("exec: skipped: {error}");
            plan.stories.retain(|story| !story.execs());
            Ok(())
        }
        installed => Ok(installed?),
    }
}

/// Builds agent and suites and says which stories are to run.
fn plan(workspace: &Workspace, progress: &Progress, options: &Options) -> anyhow::Result<Plan> {
    let cargo = Cargo::new(workspace, progress);
    let agent = cargo.agent(Profile::Dev)?;
    let mut stories = Vec::new();
    for suite in cargo.suites()? {
        stories.extend(suites::list(&suite)?.into_iter().filter(|story| options.wants(story)));
    }
    Ok(Plan {
        layout: workspace.layout(agent, "").context("failed to find the lab's own program")?,
        stories,
        durations: workspace.lab().join("durations.json"),
        jobs: options.jobs(),
        limit: options.limit,
    })
}
