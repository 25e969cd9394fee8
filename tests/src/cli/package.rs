//! `cargo lab package`.

use std::process::ExitCode;

use devbox_lab::package::{self, Architecture};
use devbox_lab::tools::{Progress, Workspace};

/// Build the Debian package: the agent as it is shipped, for old systems too, with units, manual and completions
#[derive(Debug, clap::Args)]
pub struct Package {
    /// What for; another than this machine's needs Rust's standard library for it (`rustup target add`)
    #[arg(long, value_enum, default_value_t = Architecture::OWN)]
    architecture: Architecture,
}

impl Package {
    /// Prints where the package is, and what was found out about its binary.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let package = package::build(&Workspace::find(), &Progress::new(), self.architecture)?;
        println!("{}", package.file.display());
        println!("devbox-agent: {} bytes, asks for glibc {}", package.size, package.glibc);
        Ok(ExitCode::SUCCESS)
    }
}
