//! Running the stories as another user, from copies.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use super::stories::{self, Plan};
use super::suites::Story;
use super::tally::Tally;
use crate::staging::Staging;
use crate::tools::Progress;

/// The hidden verb that runs a plan.
pub const RUN_PLAN: &str = "run-plan";

/// Copies what the plan names and carries it out as `uid`.
pub fn run_as(plan: &Plan, uid: u32) -> anyhow::Result<ExitCode> {
    let staging = Staging::new(&plan.layout, uid)?;
    let copy = stage(plan, &staging).context("failed to copy the suites")?;
    let file = staging.folder().join("plan.json");
    serde_json::to_writer(File::create(&file)?, &copy)?;
    fs::set_permissions(&file, Permissions::from_mode(0o644))?;
    staging.run(&[OsStr::new(RUN_PLAN), file.as_os_str()])
}

/// Runs the plan in `file` and prints the results.
pub fn run_plan(file: &Path) -> anyhow::Result<ExitCode> {
    let text = fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
    let plan: Plan = serde_json::from_str(&text).with_context(|| format!("failed to parse {}", file.display()))?;
    let mut tally = Tally::default();
    stories::run(&plan, &Progress::new(), &mut tally)?;
    Ok(tally.close())
}

/// Copies the suites and says where they are now. The record of durations belongs to the user.
fn stage(plan: &Plan, staging: &Staging) -> anyhow::Result<Plan> {
    let durations = staging.own_folder("own")?.join("durations.json");
    if plan.durations.exists() {
        fs::copy(&plan.durations, &durations)?;
        staging.give(&durations)?;
    }
    let mut stories = Vec::with_capacity(plan.stories.len());
    for story in &plan.stories {
        stories.push(Story { binary: staging.copy(&story.binary)?, ..story.clone() });
    }
    Ok(Plan { layout: staging.layout().clone(), stories, durations, ..plan.clone() })
}
