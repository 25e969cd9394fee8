//! `cargo lab demo`.

use std::process::ExitCode;

use anyhow::Context;
use devbox_lab::demo;
use devbox_lab::machine::inside;
use devbox_lab::tools::{Layout, Profile, Program, Progress, Workspace, prepare};

/// Show the main job on real parts, each step checked: join, restart, pause, a CI runner, a changed spec
#[derive(Debug, clap::Args)]
pub struct Demo {}

impl Demo {
    /// Exits with 0 when every act was seen to succeed.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        inside(layout, |_, _| Ok(()), demo::play)
    }
}

fn layout() -> anyhow::Result<Layout> {
    let workspace = Workspace::find();
    let agent = prepare(&workspace, &Progress::new(), &Program::USUAL, Profile::Dev)?;
    let layout = workspace.layout(agent, "demo").context("failed to find the lab's own program")?;
    layout.clear_logs().with_context(|| format!("failed to prepare {}", layout.logs.display()))?;
    Ok(layout)
}
