//! Entering a machine of a running lab from outside, as `nsenter` would, with a machine's environment.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use nix::sched::{CloneFlags, setns};

use super::files::{machine_names, namespaces_of};
use super::namespace;
use crate::tools::Layout;

/// Why a machine cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// A namespace is not to be had: the lab has ended, or belongs to another user.
    #[error("failed to enter {}: is the lab still running, and yours?", path.display())]
    Namespace {
        /// The namespace.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// There is no such machine.
    #[error("failed to find machine {name:?}: the lab has {}", known.join(", "))]
    NoMachine {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
        /// Why it was not found.
        #[source]
        source: io::Error,
    },
    /// The command could not be run.
    #[error("failed to run {program}")]
    Run {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The namespaces of a sandbox as the process that made it has them: it entered all but the PID namespace itself. The user
/// namespace comes first, as it gives the right to enter the others, and the mount namespace last, as it hides the paths.
const SANDBOX: [(&str, CloneFlags); 6] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("pid_for_children", CloneFlags::CLONE_NEWPID),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// The namespaces of a machine.
const MACHINE: [(&str, CloneFlags); 3] =
    [("uts", CloneFlags::CLONE_NEWUTS), ("net", CloneFlags::CLONE_NEWNET), ("mnt", CloneFlags::CLONE_NEWNS)];

/// Runs a command, by default a shell, in the machine `name` of the sandbox that process `leader` made, with this process's terminal. Only
/// for a process with one thread, which is then no longer where it was.
pub fn enter_running(leader: u32, layout: &Layout, name: &str, command: &[String]) -> Result<ExitStatus, EnterError> {
    enter(Path::new(&format!("/proc/{leader}/ns")), &SANDBOX)?;
    let namespaces = namespaces_of(name).map_err(|source| EnterError::NoMachine {
        name: name.to_owned(),
        known: machine_names().unwrap_or_default(),
        source,
    })?;
    enter(&namespaces, &MACHINE)?;
    let (program, arguments) = match command.split_first() {
        Some((program, arguments)) => (program.as_str(), arguments),
        None => ("sh", command),
    };
    let mut child: Command = namespace::command(layout, program);
    child.args(arguments).stdin(Stdio::inherit()).env("PS1", format!("{name}# "));
    if let Some(terminal) = env::var_os("TERM") {
        child.env("TERM", terminal);
    }
    child.status().map_err(|source| EnterError::Run { program: program.to_owned(), source })
}

/// Enters the namespaces in `folder`, but not the user namespace that this process is in already: the kernel refuses that.
fn enter(folder: &Path, spaces: &[(&str, CloneFlags)]) -> Result<(), EnterError> {
    let mut files = Vec::with_capacity(spaces.len());
    for (name, kind) in spaces {
        let path = folder.join(name);
        let fail = |source| EnterError::Namespace { path: path.clone(), source };
        let file = File::open(&path).map_err(fail)?;
        if *kind != CloneFlags::CLONE_NEWUSER || !is_own_user_namespace(&path).map_err(fail)? {
            files.push((file, *kind, path));
        }
    }
    for (file, kind, path) in files {
        setns(file, kind).map_err(|errno| EnterError::Namespace { path, source: errno.into() })?;
    }
    Ok(())
}

fn is_own_user_namespace(path: &Path) -> io::Result<bool> {
    Ok(fs::read_link(path)? == fs::read_link("/proc/self/ns/user")?)
}
