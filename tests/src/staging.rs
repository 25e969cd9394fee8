//! Running the lab as another user, who can neither run cargo out of this user's home nor, it may be, open /dev/net/tun: from copies
//! in a world-readable folder.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::machine::bind_own_node;
use crate::machine::sandbox::exit_code;
use crate::tools::Layout;

/// The hidden verb that becomes another user and runs the lab as that one.
pub const BECOME: &str = "as-user";
/// The uid that `--as-user` stands for: nobody.
pub const NOBODY: &str = "65534";

/// Copies of the lab's programs that another user can run.
#[derive(Debug)]
pub struct Staging {
    folder: TempDir,
    uid: u32,
    layout: Layout,
}

impl Staging {
    /// Copies the programs of a layout. Logs go to a new folder of the user's.
    ///
    /// # Errors
    /// When something cannot be copied.
    pub fn new(layout: &Layout, uid: u32) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("devbox-lab-").tempdir();
        let folder = folder.context("failed to create a folder for the copies")?;
        let copied = copy_layout(layout, folder.path(), uid)
            .with_context(|| format!("failed to copy the lab's programs to {}", folder.path().display()))?;
        Ok(Self { folder, uid, layout: copied })
    }

    /// Where the copies are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The folder of the copies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes a folder that belongs to the user.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn own_folder(&self, name: &str) -> Result<PathBuf> {
        make_folder(&self.folder().join(name), Some(self.uid))
    }

    /// Copies another program, once, and says where the copy is.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copy(&self, program: &Path) -> Result<PathBuf> {
        copy(program, &make_folder(&self.folder().join("more"), None)?)
    }

    /// Gives the user a file.
    ///
    /// # Errors
    /// When it cannot be given.
    pub fn give(&self, file: &Path) -> Result<()> {
        chown(file, Some(self.uid), Some(self.uid)).with_context(|| format!("failed to give away {}", file.display()))
    }

    /// Runs the copied lab with arguments as the user, with the copied layout; the copies stay when it fails, for its logs.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(self, arguments: &[&OsStr]) -> Result<ExitCode> {
        let (variable, layout) = self.layout.to_environment()?;
        let status = Command::new(&self.layout.lab)
            .arg(BECOME)
            .arg(self.uid.to_string())
            .arg(self.folder().join("device"))
            .arg("--")
            .args(arguments)
            .env(variable, layout)
            .status()
            .context("failed to start the copied lab")?;
        if !status.success() {
            eprintln!("kept: {}", self.folder.keep().display());
        }
        Ok(ExitCode::from(exit_code(status)))
    }
}

/// An error when this process could not become another user; before anything is built for one.
///
/// # Errors
/// When it is not root.
pub fn check_may_become(uid: u32) -> Result<()> {
    ensure!(geteuid().is_root(), "failed to become user {uid}: `--as-user` needs root");
    Ok(())
}

/// Becomes user `uid` in a mount namespace where /dev/net/tun is open to all, and runs the lab there with arguments: replaces this process.
///
/// # Errors
/// When that fails.
pub fn become_user(uid: u32, device_folder: &Path, arguments: &[OsString]) -> Result<Infallible> {
    unshare(CloneFlags::CLONE_NEWNS).context("failed to make a mount namespace")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("failed to make mounts private")?;
    bind_own_node(device_folder)?;
    let lab = std::env::current_exe().context("failed to find the lab's own program")?;
    // With a uid, std also drops the supplementary groups.
    let error = Command::new(lab).args(arguments).current_dir("/").uid(uid).gid(uid).exec();
    Err(error).context(format!("failed to become user {uid}"))
}

fn copy_layout(layout: &Layout, folder: &Path, uid: u32) -> Result<Layout> {
    fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    let programs = make_folder(&folder.join("bin"), None)?;
    for entry in fs::read_dir(&layout.programs)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            copy(&entry.path(), &programs)?;
        }
    }
    Ok(Layout {
        lab: copy(&layout.lab, folder)?,
        agent: copy(&layout.agent, &programs)?,
        programs,
        logs: make_folder(&folder.join("log"), Some(uid))?,
        // Only root boots machines.
        images: None,
    })
}

/// Makes a folder that all may read, and gives it to a user.
fn make_folder(folder: &Path, owner: Option<u32>) -> Result<PathBuf> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    if owner.is_some() {
        chown(folder, owner, owner)?;
    }
    Ok(folder.to_path_buf())
}

/// Copies a program into a folder, once, readable and executable by all.
fn copy(program: &Path, folder: &Path) -> Result<PathBuf> {
    let Some(name) = program.file_name() else { bail!("{} is no file", program.display()) };
    let to = folder.join(name);
    if !to.exists() {
        fs::copy(program, &to).with_context(|| format!("failed to copy {}", program.display()))?;
        fs::set_permissions(&to, Permissions::from_mode(0o755))?;
    }
    Ok(to)
}
