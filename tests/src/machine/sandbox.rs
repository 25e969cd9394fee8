//! The sandbox: private namespaces for everything one story starts.
//!
//! Two processes make it. The outer one enters the new namespaces and starts the inner one, PID 1 of its own PID
//! namespace ([`super::run_init`]), which prepares files and network and starts the program asked for. The death of
//! either ends every process inside, also by SIGKILL.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, getegid, geteuid, getpid};

use super::cgroup;
use super::tun;

/// The hidden verb that enters a sandbox; the program follows.
pub const ENTER: &str = "sandbox";
/// The hidden verb that is PID 1 of a sandbox; the program follows.
pub const INIT: &str = "sandbox-init";
/// Set for programs inside a sandbox; its value is the sandbox's own `/run`.
pub(super) const MARK: &str = "DEVBOX_LAB_SANDBOX";
/// Tells PID 1 to make a TUN node of its own.
pub(super) const OWN_TUN: &str = "DEVBOX_LAB_OWN_TUN";
/// Tells PID 1 that the sandbox has a control group of its own, and so can boot machines.
pub(super) const OWN_CGROUP: &str = "DEVBOX_LAB_OWN_CGROUP";

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// No TUN device that this user may open, and not root, who could make one.
    #[error(
        "failed to open /dev/net/tun: the lab needs it with mode 0666 (`sudo chmod 0666 /dev/net/tun`, after `sudo modprobe tun` where it is missing), or run the lab as root"
    )]
    Tun(#[source] io::Error),
    /// User namespaces are off for this user.
    #[error(
        "failed to make a user namespace: allow it (`sysctl user.max_user_namespaces`, `kernel.unprivileged_userns_clone`, `kernel.apparmor_restrict_unprivileged_userns`), or run the lab as root"
    )]
    UserNamespace(#[source] io::Error),
    /// Even root may not make namespaces here, as in an unprivileged container.
    #[error("failed to make namespaces, though this is root: a container needs CAP_SYS_ADMIN (`--privileged`)")]
    Namespaces(#[source] io::Error),
    /// The user could not be made root of the new user namespace.
    #[error("failed to write {path}")]
    Map {
        /// The map file.
        path: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The process that becomes PID 1 could not be started.
    #[error("failed to start the sandbox's first process {}", program.display())]
    Start {
        /// The lab's own program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The sandbox's control group could not be entered.
    #[error("failed to enter the control group {}: booted machines need root", path.display())]
    Cgroup {
        /// The control group.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused to tie this process to its parent.
    #[error("failed to ask for a signal when the parent dies")]
    ParentDeath(#[source] io::Error),
}

/// Whether this process is inside a sandbox.
pub fn is_inside() -> bool {
    env::var_os(MARK).is_some()
}

/// The command that runs `program` in a sandbox of its own, by way of the lab's program `lab`. Killing the process it
/// starts kills everything inside; so does the death of the thread that starts it.
pub fn command(lab: impl AsRef<OsStr>, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(lab);
    command.args([ENTER, "--"]).arg(program);
    command
}

/// The same for a sandbox in which machines can boot: it is root's, without a user namespace, and in the control group `branch`, which it
/// takes for the root of the tree.
pub fn command_that_boots(lab: impl AsRef<OsStr>, branch: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(lab);
    command.args([ENTER.as_ref(), "--cgroup".as_ref(), branch.as_os_str(), "--".as_ref(), program.as_ref()]);
    command
}

/// The runtime of stories. Two threads, as the platform's servers share it with stories that block for some milliseconds.
pub(super) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// Enters new namespaces, and the control group if one is given, runs `command` in them and returns its exit code. Only for a process with
/// one thread, as the kernel gives no user namespace to others.
pub fn enter(cgroup: Option<&Path>, command: &[OsString]) -> Result<ExitCode, SandboxError> {
    die_with_parent()?;
    let own_tun = match cgroup {
        Some(branch) => enter_as_root(branch)?,
        None => enter_namespaces()?,
    };
    let program = env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let mut init = Command::new(&program);
    init.args([INIT, "--"]).args(command);
    if own_tun {
        init.env(OWN_TUN, "1");
    }
    if cgroup.is_some() {
        init.env(OWN_CGROUP, "1");
    }
    let status = init.status().map_err(|source| SandboxError::Start { program, source })?;
    Ok(ExitCode::from(exit_code(status)))
}

/// SIGKILL for this process when its parent ends, however that happens.
pub(super) fn die_with_parent() -> Result<(), SandboxError> {
    set_pdeathsig(Signal::SIGKILL).map_err(|e| SandboxError::ParentDeath(e.into()))
}

/// A status as a shell would tell it: 128+n for a signal.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// Every sandbox has these; a user namespace only where it can.
const SPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWIPC);

/// As root, in a control group; true when a TUN node must be made. The control group namespace comes after the move, as its root is where
/// this process is.
fn enter_as_root(branch: &Path) -> Result<bool, SandboxError> {
    cgroup::admit(branch, getpid()).map_err(|source| SandboxError::Cgroup { path: branch.to_owned(), source })?;
    let made = unshare(SPACES | CloneFlags::CLONE_NEWCGROUP);
    made.map_err(|errno| SandboxError::Namespaces(errno.into()))?;
    Ok(tun::open_node().is_err())
}

/// Rootless where the system allows, as root otherwise; true when a TUN node must be made.
fn enter_namespaces() -> Result<bool, SandboxError> {
    let (uid, gid) = (geteuid(), getegid());
    let tun = tun::open_node();
    if tun.is_ok() {
        match unshare(CloneFlags::CLONE_NEWUSER | SPACES) {
            Ok(()) => return map_to_root(uid, gid).map(|()| false),
            Err(errno) if !uid.is_root() => return Err(SandboxError::UserNamespace(errno.into())),
            Err(_) => {}
        }
    }
    match (tun, uid.is_root()) {
        (Err(source), false) => Err(SandboxError::Tun(source)),
        (tun, _) => {
            unshare(SPACES).map(|()| tun.is_err()).map_err(|errno: Errno| SandboxError::Namespaces(errno.into()))
        }
    }
}

/// Makes the caller root of its new user namespace. `setgroups` must be denied before an ordinary user may write a group map (user_namespaces(7)).
fn map_to_root(uid: Uid, gid: Gid) -> Result<(), SandboxError> {
    let write =
        |path: &'static str, text: String| fs::write(path, text).map_err(|source| SandboxError::Map { path, source });
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))
}
