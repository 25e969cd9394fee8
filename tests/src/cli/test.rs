//! `cargo lab test`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use devbox_lab::runner::{self, Options};
use devbox_lab::staging::NOBODY;

/// Run formatting, lints, unit, property and process tests, and the stories on real parts
#[derive(Debug, clap::Args)]
pub struct Test {
    /// Of the stories, only those of the suite `join`
    #[arg(long)]
    quick: bool,
    /// Only the stories, from copies of the built programs, as another user [default: nobody]; needs root
    #[arg(long, value_name = "UID", num_args = 0..=1, default_missing_value = NOBODY, require_equals = true)]
    as_user: Option<u32>,
    /// Only stories with NAME in `suite::story`
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Boot machines with this package of the agent instead of building one
    #[arg(long, value_name = "FILE.deb")]
    package: Option<PathBuf>,
    /// Stories at a time [default: one a core, at least 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Time for one story
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = humantime::parse_duration)]
    limit: Duration,
}

impl Test {
    /// Exits with 0 when everything passed.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        runner::test(&Options {
            quick: self.quick,
            filter: self.filter,
            as_user: self.as_user,
            package: self.package,
            jobs: self.jobs.map(usize::from),
            limit: self.limit,
        })
    }
}
