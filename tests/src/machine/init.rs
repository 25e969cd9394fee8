//! PID 1 of a sandbox: prepares it, starts the program, reaps what is orphaned.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;

use super::network::{self, NetworkError};
use super::sandbox::{self, MARK, OWN_CGROUP, OWN_TUN, SandboxError};
use super::tun::{self, TunError};

/// Why a sandbox could not be prepared, or its program not be run.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A mount was refused.
    #[error(
        "failed to mount {what} on {target}: does this system let user namespaces mount (AppArmor: `kernel.apparmor_restrict_unprivileged_userns`; containers: `--privileged`)?"
    )]
    Mount {
        /// The file system.
        what: &'static str,
        /// The mount point.
        target: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The network could not be raised.
    #[error("failed to raise the platform's network")]
    Network(#[source] NetworkError),
    /// No TUN device.
    #[error("failed to prepare a TUN device")]
    Tun(#[source] TunError),
    /// This process could not be tied to its parent.
    #[error("failed to tie the sandbox to its parent")]
    Parent(#[source] SandboxError),
    /// No program was named.
    #[error("failed to run a program in the sandbox: none was named")]
    NoProgram,
    /// The program could not be started.
    #[error("failed to start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Waiting for children failed.
    #[error("failed to wait for the program")]
    Wait(#[source] io::Error),
}

/// Prepares the sandbox around this process, runs `command` and returns its exit code. With the return PID 1 ends, and
/// the kernel kills whatever is left inside.
pub fn run(command: &[OsString]) -> Result<ExitCode, InitError> {
    sandbox::die_with_parent().map_err(InitError::Parent)?;
    mount_files()?;
    if env::var_os(OWN_TUN).is_some() {
        tun::bind_own_node(Path::new("/run/tun")).map_err(InitError::Tun)?;
    }
    network::raise_platform().map_err(InitError::Network)?;
    let (program, arguments) = command.split_first().ok_or(InitError::NoProgram)?;
    let child = Command::new(program)
        .args(arguments)
        .env(MARK, "/run")
        .env_remove(OWN_TUN)
        .env_remove(OWN_CGROUP)
        .spawn()
        .map_err(|source| InitError::Start { program: program.into(), source })?;
    reap_until(Pid::from_raw(child.id().cast_signed()))
}

/// A private /proc for the PID namespace, /sys for the network namespace, the control groups of a sandbox that has some, and an empty /run.
fn mount_files() -> Result<(), InitError> {
    let mount = |what, target, flags, options: Option<&str>| {
        mount(Some(what), target, Some(what), flags, options).map_err(|e| InitError::Mount {
            what,
            target,
            source: e.into(),
        })
    };
    let strict = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount("none", "/", MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    mount("proc", "/proc", strict, None)?;
    mount("sysfs", "/sys", strict, None)?;
    if env::var_os(OWN_CGROUP).is_some() {
        mount("cgroup2", "/sys/fs/cgroup", strict, None)?;
    }
    mount("tmpfs", "/run", MsFlags::MS_NOSUID, Some("mode=0755"))
}

/// Waits for every child, the adopted ones too, until `program` ends.
fn reap_until(program: Pid) -> Result<ExitCode, InitError> {
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid == program => {
                return Ok(ExitCode::from(code.to_le_bytes()[0]));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => {
                return Ok(ExitCode::from(128 + (signal as i32).to_le_bytes()[0]));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(InitError::Wait(errno.into())),
        }
    }
}
