//! Verbs the lab runs itself by; not for people.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use devbox_lab::machine::{run_init, sandbox};
use devbox_lab::{runner, staging, stand_in};

/// What the lab starts itself as.
#[derive(Debug, clap::Subcommand)]
pub enum Hidden {
    /// Enter a sandbox and run a program there
    #[command(name = sandbox::ENTER, hide = true)]
    Sandbox {
        /// Be root's, in this control group
        #[arg(long)]
        cgroup: Option<PathBuf>,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Be PID 1 of a sandbox
    #[command(name = sandbox::INIT, hide = true)]
    SandboxInit {
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Become another user and run the lab
    #[command(name = staging::BECOME, hide = true)]
    AsUser {
        /// The user
        uid: u32,
        /// A folder for a TUN device
        device: PathBuf,
        /// The lab's arguments
        #[arg(last = true, required = true)]
        arguments: Vec<OsString>,
    },
    /// Run a plan
    #[command(name = runner::RUN_PLAN, hide = true)]
    RunPlan {
        /// The plan's file
        plan: PathBuf,
    },
    /// Stand in for tailscaled
    #[command(name = stand_in::STAND_IN, hide = true)]
    StandIn {
        /// What tailscaled is given
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
}

impl Hidden {
    /// Does what the lab started itself for.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Sandbox { cgroup, command } => Ok(sandbox::enter(cgroup.as_deref(), &command)?),
            Self::SandboxInit { command } => Ok(run_init(&command)?),
            Self::AsUser { uid, device, arguments } => match staging::become_user(uid, &device, &arguments)? {},
            Self::RunPlan { plan } => runner::run_plan(&plan),
            Self::StandIn { arguments } => stand_in::run(&arguments),
        }
    }
}
