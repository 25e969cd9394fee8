//! `cargo lab demo`.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use devbox_lab::demo;
use devbox_lab::machine::{inside, sandbox};
use devbox_lab::package;
use devbox_lab::staging::{self, NOBODY, Staging};
use devbox_lab::tools::{EXEC, Layout, LayoutError, Profile, Program, Progress, Workspace, install_missing, prepare};
use nix::unistd::geteuid;

/// The folder of the logs, under that of the lab's.
const LOGS: &str = "demo";

/// Show the main job on real parts, each step checked: join, restart, pause, a CI runner, a changed spec
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// From copies of the built programs, as another user [default: nobody]; needs root
    #[arg(long, value_name = "UID", num_args = 0..=1, default_missing_value = NOBODY, require_equals = true)]
    as_user: Option<u32>,
    /// The devbox's part on a machine that boots, with the agent's package in it, and when what happened since PID 1; needs root
    #[arg(long, conflicts_with = "as_user")]
    booted: bool,
    /// A job of CI, without root, that migrates a private PostgreSQL with `devbox-agent exec`
    #[arg(long, conflicts_with = "booted")]
    exec: bool,
    /// Boot with this package of the agent instead of building one
    #[arg(long, value_name = "FILE.deb", requires = "booted")]
    package: Option<PathBuf>,
}

impl Demo {
    /// Exits with 0 when every act was seen to succeed.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.as_user {
            Some(uid) if !sandbox::is_inside() => {
                staging::check_may_become(uid)?;
                install_missing(&Progress::new(), EXEC)?;
                let arguments = [OsStr::new("demo"), OsStr::new("--exec")];
                Staging::new(&built()?, uid)?.run(&arguments[..1 + usize::from(self.exec)])
            }
            _ if self.booted => inside(|| with_images(self.package), |_, _| Ok(()), demo::booted::play),
            _ if self.exec => inside(with_programs, |_, _| Ok(()), demo::exec::play),
            _ => inside(layout, |_, _| Ok(()), demo::play),
        }
    }
}

/// The layout that another user's run was given, or else that of what is built here; with an empty folder for logs.
fn layout() -> anyhow::Result<Layout> {
    let mut layout = match Layout::from_environment() {
        Err(LayoutError::Unset) => built()?,
        given => given?,
    };
    layout.logs.push(LOGS);
    layout.clear_logs().with_context(|| format!("failed to prepare {}", layout.logs.display()))?;
    Ok(layout)
}

fn with_images(package: Option<PathBuf>) -> anyhow::Result<Layout> {
    ensure!(geteuid().is_root(), "failed to boot machines: --booted needs root");
    let layout = layout()?;
    let images = package::images(&Workspace::find(), &Progress::new(), package)?;
    Ok(Layout { images: Some(images), ..layout })
}

fn with_programs() -> anyhow::Result<Layout> {
    install_missing(&Progress::new(), EXEC)?;
    layout()
}

fn built() -> anyhow::Result<Layout> {
    let workspace = Workspace::find();
    let agent = prepare(&workspace, &Progress::new(), &Program::USUAL, Profile::Dev)?;
    workspace.layout(agent, "").context("failed to find the lab's own program")
}
