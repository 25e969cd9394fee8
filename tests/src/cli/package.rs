//! `cargo lab package`.

use std::process::ExitCode;

use devbox_lab::package;
use devbox_lab::tools::{Progress, Workspace};

/// Build the Debian package: the agent as it is shipped, for old systems too, with units, manual and completions
#[derive(Debug, clap::Args)]
pub struct Package {}

impl Package {
    /// Prints where the package is, and what was found out about its binary.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let package = package::build(&Workspace::find(), &Progress::new())?;
        println!("{}", package.file.display());
        println!("devbox-agent: {} bytes, asks for glibc {}", package.size, package.glibc);
        Ok(ExitCode::SUCCESS)
    }
}
