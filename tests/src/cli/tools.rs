//! `cargo lab tools`.

use std::process::ExitCode;

use devbox_lab::tools::{Profile, Program, Progress, Workspace, prepare};

/// Build or find what the lab runs: tailscaled, tailscale, containerboot, headscale and the agent
#[derive(Debug, clap::Args)]
pub struct Tools {
    /// Build the agent as it is shipped
    #[arg(long)]
    release: bool,
}

impl Tools {
    /// Prints where everything is.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let workspace = Workspace::find();
        let profile = if self.release { Profile::Release } else { Profile::Dev };
        let agent = prepare(&workspace, &Progress::new(), &Program::ALL, profile)?;
        for program in Program::ALL {
            println!("{}", workspace.programs().join(program.name()).display());
        }
        println!("{}", agent.display());
        Ok(ExitCode::SUCCESS)
    }
}
