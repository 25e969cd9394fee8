//! `cargo lab bench`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use devbox_lab::bench::{self, Bench as Name, Options};
use devbox_lab::machine::{Lab, inside};
use devbox_lab::package;
use devbox_lab::tools::{Layout, Profile, Program, Progress, Workspace, prepare};

/// Measure the agent as it is shipped, beside its peers on the same parts, and write tests/bench/NAME.json
#[derive(Debug, clap::Args)]
pub struct Bench {
    /// What to measure [default: all, one after the other]
    #[arg(value_enum, value_name = "NAME")]
    names: Vec<Name>,
    /// Runs of each series
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=30))]
    runs: u16,
    /// How long `idle` and `soak` last [default: idle 10, soak 5]
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u16).range(1..))]
    minutes: Option<u16>,
}

impl Bench {
    /// Exits with 0 when everything was measured: a budget that is missed is shown, not a failure.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let names = if self.names.is_empty() { Name::ALL.to_vec() } else { self.names };
        let minutes = self.minutes.map(|minutes| Duration::from_secs(60 * u64::from(minutes)));
        let options = Options { names, runs: usize::from(self.runs), time: minutes };
        let boots = options.names.contains(&Name::Boot);
        inside(
            || layout(boots),
            |_, _| Ok(()),
            |lab: Lab| async move {
                bench::run(lab, &Workspace::find(), &options).await?;
                Ok(ExitCode::SUCCESS)
            },
        )
    }
}

fn layout(boots: bool) -> anyhow::Result<Layout> {
    let (workspace, progress) = (Workspace::find(), Progress::new());
    let agent = prepare(&workspace, &progress, &Program::ALL, Profile::Release)?;
    let layout = workspace.layout(agent, "bench").context("failed to find the lab's own program")?;
    let images = boots.then(|| package::images(&workspace, &progress, None)).transpose()?;
    Ok(Layout { images, ..layout })
}
