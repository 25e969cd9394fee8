//! `cargo lab sh`.

use std::process::ExitCode;

use devbox_lab::machine::{enter_running, sandbox};
use devbox_lab::tools::Workspace;

use super::running::Running;

/// Run a shell, or a command, in a machine of the lab that `cargo lab up` started
#[derive(Debug, clap::Args)]
pub struct Sh {
    /// The machine
    machine: String,
    /// The command and its arguments [default: sh]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Sh {
    /// Exits with the command's code.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let lab = Running::load(&Workspace::find())?;
        let status = enter_running(lab.leader, &lab.layout, &self.machine, &self.command)?;
        Ok(ExitCode::from(sandbox::exit_code(status)))
    }
}
