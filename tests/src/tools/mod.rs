//! What the lab needs from outside: the real Tailscale and Headscale programs, the agent, Debian packages; and where all
//! of it is.

mod cargo;
mod go;
mod image;
mod layout;
mod packages;
pub mod programs;
mod progress;

pub use cargo::{Artifact, Cargo, CargoError, Profile, Ran};
pub use go::{GoError, Program};
pub use image::{ImageError, Images};
pub use layout::{Layout, LayoutError, Workspace};
pub use packages::{EXEC, Needs, PackageError, install_missing};
pub use progress::{Progress, Step};

use std::path::{Path, PathBuf};
use std::thread;

/// Why something the lab needs is not there.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Debian packages.
    #[error("failed to prepare the system")]
    Packages(#[from] PackageError),
    /// Go programs.
    #[error("failed to prepare the real tailscaled and headscale")]
    Go(#[from] GoError),
    /// The agent.
    #[error("failed to build the agent")]
    Cargo(#[from] CargoError),
    /// What machines boot from.
    #[error("failed to prepare an image")]
    Image(#[from] ImageError),
}

/// Installs, builds and finds everything that a story or the demo runs: packages first, then `programs` and the agent at the same
/// time. Returns the agent's path; the programs are in [`Workspace::programs`].
pub fn prepare(
    workspace: &Workspace,
    progress: &Progress,
    programs: &[Program],
    profile: Profile,
) -> Result<PathBuf, PrepareError> {
    install_missing(progress, packages::USUAL)?;
    thread::scope(|scope| {
        let go = scope.spawn(|| go::ensure(workspace, progress, programs));
        let agent = Cargo::new(workspace, progress).agent(profile);
        match go.join() {
            Ok(ensured) => ensured?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        Ok(agent?)
    })
}

/// Installs and builds what [`prepare`] does, but for the agent.
pub fn prepare_programs(workspace: &Workspace, progress: &Progress, programs: &[Program]) -> Result<(), PrepareError> {
    install_missing(progress, packages::USUAL)?;
    Ok(go::ensure(workspace, progress, programs)?)
}

/// Installs what the stories of `exec` run.
pub fn prepare_exec(progress: &Progress) -> Result<(), PackageError> {
    install_missing(progress, packages::FOR_EXEC)
}

/// Makes what machines boot from, with the programs of [`prepare_programs`] in it and the agent's package. Needs root.
pub fn prepare_images(workspace: &Workspace, progress: &Progress, agent: &Path) -> Result<Images, PrepareError> {
    install_missing(progress, packages::TO_BOOT)?;
    Ok(image::ensure(workspace, progress, agent)?)
}
