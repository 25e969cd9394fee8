//! A machine made of namespaces: cheap (made in some 30 ms, a command in it started in one), rootless, with a network, files, a host name and a boot id of its own.

use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use nix::unistd::Pid;

use super::files::Root;
use super::inhabitant::{Inhabitant, Visit};
use super::logs::Logs;
use super::network::{self, NetworkError};
use super::process::Process;
use super::tasks;
use crate::tools::Layout;

/// Set in every machine for any tailscaled that may be started there, by whomever: never the real control plane or log server, and
/// plain HTTP for Headscale's embedded DERP.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("TS_PANIC_IF_HIT_MAIN_CONTROL", "true"),
    ("TS_NO_LOGS_NO_SUPPORT", "true"),
    ("TS_DEBUG_USE_DERP_HTTP", "true"),
    ("HOME", "/run/home"),
    ("TMPDIR", "/run/tmp"),
    ("LANG", "C.UTF-8"),
];

/// Why a machine could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Its files could not be prepared.
    #[error("failed to prepare the machine's files")]
    Files(#[source] io::Error),
    /// Its namespaces could not be made.
    #[error("failed to make the machine's namespaces")]
    Namespaces(#[source] io::Error),
    /// A thread could not be started.
    #[error("failed to start a thread in the machine")]
    Thread(#[source] io::Error),
    /// The machine's thread has ended: a job panicked, or the machine is off.
    #[error("failed to reach the machine: its thread has ended")]
    Gone,
    /// Its network could not be changed.
    #[error("failed to change the machine's network")]
    Network(#[from] NetworkError),
    /// A program could not be run.
    #[error("failed to run {program}")]
    Run {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A log could not be made.
    #[error("failed to create log {}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its processes could not be frozen, thawed or killed.
    #[error("failed to {what} the machine's processes")]
    Tasks {
        /// The verb.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Whether a machine's network is there from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// `eth0` has its address and routes before anything starts.
    Up,
    /// `eth0` is down and has no routes until [`Machine::link_up`].
    Down,
}

/// A machine. Dropping it kills its processes and removes its cable and files.
#[derive(Debug)]
pub struct Machine {
    name: String,
    index: usize,
    address: Ipv4Addr,
    root: Root,
    layout: Layout,
    logs: Logs,
    inhabitant: Inhabitant,
}

impl Machine {
    /// Makes a machine with the address that goes with `index`.
    pub(super) fn create(layout: &Layout, index: usize, name: &str, link: Link) -> Result<Self, MachineError> {
        let address = network::address(index)?;
        let root = Root::create(name).map_err(MachineError::Files)?;
        let inhabitant = Inhabitant::settle(name, &root)?;
        let machine = Self {
            name: name.to_owned(),
            index,
            address,
            root,
            layout: layout.clone(),
            logs: Logs::new(layout.logs.clone(), name),
            inhabitant,
        };
        machine.lay_cable(link)?;
        Ok(machine)
    }

    /// Its name, also its host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the lab's network; outside the tailnet.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its files, as the story sees them.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The id of the thread that lives in its namespaces.
    pub fn tid(&self) -> Pid {
        self.inhabitant.tid()
    }

    /// A command as it would run in the machine: `program` from the lab's own programs or the system's, in `/`, with nothing of the
    /// caller's environment. Add arguments and environment, then [`Machine::spawn`] or [`Machine::exec`] it.
    pub fn command(&self, program: &str) -> Command {
        command(&self.layout, program)
    }

    /// A command that runs `program` as a user without a single capability.
    pub fn ordinary(&self, program: &str) -> Command {
        let mut command = self.command("unshare");
        command.args(["--map-user", ORDINARY, "--map-group", ORDINARY, "--"]);
        command.arg(self.layout.find(program).unwrap_or_else(|| program.into()));
        command
    }

    /// Starts a command; its output goes to a log of its own in the story's folder.
    pub fn spawn(&self, mut command: Command) -> Result<Process, MachineError> {
        let program = program_name(&command);
        let (log, file) = self.logs.create(&program).map_err(|(path, source)| MachineError::Log { path, source })?;
        let both = file.try_clone().map_err(|source| MachineError::Log { path: log.clone(), source })?;
        command.stdout(file).stderr(both);
        let started = Instant::now();
        let child = self.inhabitant.run(move || command.spawn())?;
        child
            .and_then(|child| Process::watch(child, started, log))
            .map_err(|source| MachineError::Run { program, source })
    }

    /// Runs a command to its end and returns its status and what it wrote.
    pub async fn exec(&self, mut command: Command) -> Result<Output, MachineError> {
        let program = program_name(&command);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self
            .inhabitant
            .run(move || command.spawn())?
            .map_err(|source| MachineError::Run { program: program.clone(), source })?;
        let ended =
            tokio::task::spawn_blocking(move || child.wait_with_output()).await.map_err(|_| MachineError::Gone)?;
        ended.map_err(|source| MachineError::Run { program, source })
    }

    /// Runs a future within the machine, on a thread of its own: a client or server that uses the machine's network and resolver.
    pub fn visit<F, T>(&self, work: impl FnOnce() -> F + Send + 'static) -> Result<Visit<T>, MachineError>
    where
        F: Future<Output = T>,
        T: Send + 'static,
    {
        self.inhabitant.visit(work)
    }

    /// The network comes up, or back: address and routes included.
    pub fn link_up(&self) -> Result<(), MachineError> {
        let address = self.address;
        self.inhabitant.run(move || network::link_up(address))??;
        Ok(network::await_forwarding(self.index)?)
    }

    /// The network goes: sending fails at once.
    pub fn link_down(&self) -> Result<(), MachineError> {
        Ok(self.inhabitant.run(network::link_down)??)
    }

    /// The ids of its live processes.
    pub fn processes(&self) -> Result<Vec<Pid>, MachineError> {
        tasks::living(self.inhabitant.uts()).map_err(|source| MachineError::Tasks { what: "list", source })
    }

    /// Stops every process where it stands, as a hypervisor that pauses a machine would.
    pub fn freeze(&self) -> Result<(), MachineError> {
        tasks::freeze(self.inhabitant.uts()).map_err(|source| MachineError::Tasks { what: "freeze", source })
    }

    /// Lets every process go on.
    pub fn thaw(&self) -> Result<(), MachineError> {
        tasks::thaw(self.inhabitant.uts()).map_err(|source| MachineError::Tasks { what: "thaw", source })
    }

    /// Kills every process at once and waits for their end.
    pub fn kill_all(&self) -> Result<(), MachineError> {
        tasks::kill_all(self.inhabitant.uts()).map_err(|source| MachineError::Tasks { what: "kill", source })
    }

    /// Cuts the power and boots again: no process, network namespace or `/run` survives, the boot id is new; `/etc`, `/var/lib`,
    /// machine id and address stay. Starts nothing.
    pub fn reboot(&mut self) -> Result<(), MachineError> {
        self.kill_all()?;
        network::unplug(self.index)?;
        self.root.power_on().map_err(MachineError::Files)?;
        self.inhabitant = Inhabitant::settle(&self.name, &self.root)?;
        self.lay_cable(Link::Up)
    }

    fn lay_cable(&self, link: Link) -> Result<(), MachineError> {
        let namespaces = format!("/proc/{}/task/{}/ns", std::process::id(), self.inhabitant.tid());
        self.root.note_namespaces(&namespaces).map_err(MachineError::Files)?;
        network::plug(self.index, self.inhabitant.tid())?;
        self.inhabitant.run(network::raise_loopback)??;
        match link {
            Link::Up => self.link_up(),
            Link::Down => Ok(()),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let killed = self.kill_all();
        let unplugged = network::unplug(self.index);
        let removed = self.root.remove();
        if killed.is_err() || unplugged.is_err() || removed.is_err() {
            tracing::warn!(machine = self.name, ?killed, ?unplugged, ?removed, "failed to clean up after a machine");
        }
    }
}

/// A command with a machine's environment.
pub(super) fn command(layout: &Layout, program: &str) -> Command {
    let mut command = Command::new(layout.find(program).unwrap_or_else(|| program.into()));
    command.current_dir("/").env_clear().envs(ENVIRONMENT);
    command.env("PATH", layout.search_path()).stdin(Stdio::null());
    command
}

/// Who [`Machine::ordinary`] is: the first user of a Debian machine.
pub const ORDINARY: &str = "1000";

pub(super) fn program_name(command: &Command) -> String {
    Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned()
}
