//! `cargo lab fuzz`.

use std::process::ExitCode;
use std::time::Duration;

use devbox_lab::fuzz;
use devbox_lab::tools::{Progress, Workspace};

/// Feed the helper's decoder arbitrary bytes; needs a nightly toolchain
#[derive(Debug, clap::Args)]
pub struct Fuzz {
    /// How long
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

impl Fuzz {
    /// Exits with 0 when nothing was found; what was found is shown, and kept under `agent/fuzz/artifacts`.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let clean = fuzz::run(&Workspace::find(), &Progress::new(), Duration::from_secs(self.seconds.into()))?;
        Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
