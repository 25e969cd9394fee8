//! PID 1 of the sandbox: makes the namespaces, starts what lives in them, and ends them all with itself.
//!
//! It fetches no credential and speaks to nobody but the session. What its caller's environment has, such as a job's token, it has as well, as
//! every process of the caller's does; so it is closed to tracing as soon as its uid maps are written.

mod broker;
mod command;
mod identity;
mod init;
mod mounts;
mod network;
mod probe;
mod processes;
mod relay;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::close;

use self::identity::Caller;
pub use self::probe::Target;
use self::processes::Processes;
use super::control::{News, Step, tell};
use super::firewall::Rules;
use super::host::Host;
use crate::sys::fork::{self, ForkError};
use crate::sys::{descriptor, dumpable, packet};

/// tailscaled's own directory, below the sandbox's private `/run`.
pub(super) const DIRECTORY: &str = "/run/devbox-agent-exec";

/// Below [`DIRECTORY`], and through the descriptor that comes with [`News::Built`].
pub(super) const SOCKET: &str = "tailscaled.sock";
pub(super) const NOTIFY: &str = "notify.sock";
pub(super) const RESOLVER: &str = "resolv.conf";

/// Programs that the sandbox runs, each by its whole path: what lies below `/run` and `/etc` is out of sight inside.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Programs {
    pub tailscaled: PathBuf,
    /// None where the tailnet is all that is reached, and the broker makes tailscaled's own sockets.
    pub pasta: Option<PathBuf>,
    pub nft: PathBuf,
}

/// Everything that the sandbox is told beforehand.
#[derive(Debug)]
pub(super) struct Plan {
    pub programs: Programs,
    pub host: Host,
    pub rules: Rules,
    /// tailscaled's environment, besides what the sandbox adds.
    pub daemon_environment: Vec<(OsString, OsString)>,
    pub command: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    /// What has to answer before the command starts.
    pub wait_for: Option<Target>,
    /// The command stays in the caller's process group, and gets the terminal's signals as any command does.
    pub shared_group: bool,
    /// What the command is to have of its caller again.
    pub inherited: Inherited,
    /// Descriptors of the caller's that hold a credential: the sandbox does not keep them.
    pub withheld: Vec<RawFd>,
    /// Where tailscaled's, and pasta's and nft's, output goes.
    pub output: Output,
}

/// What the caller's processes inherit of it, and exec changed for itself.
#[derive(Debug)]
pub(super) struct Inherited {
    /// The signals that are blocked.
    pub mask: SigSet,
    /// Ended children are forgotten: SIGCHLD is ignored.
    pub forgets_children: bool,
}

/// The writing ends of two pipes.
#[derive(Debug)]
pub(super) struct Output {
    pub tailscaled: OwnedFd,
    pub others: OwnedFd,
}

/// The sandbox, as the session has it.
#[derive(Debug)]
pub(super) struct Handle {
    pub control: OwnedFd,
}

/// Whether tailscaled's sockets can be made for it.
pub(super) fn has_broker() -> bool {
    broker::possible()
}

/// Starts the sandbox; its news come by `control`.
///
/// # Errors
/// When the namespaces cannot be made; see [`super::preflight`].
pub(super) fn start(plan: Plan) -> Result<Handle, ForkError> {
    let (here, there) = packet::pair()?;
    packet::with_senders(&here)?;
    let namespaces = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    let caller = Caller::effective();
    match fork::into(namespaces)? {
        Some(_) => Ok(Handle { control: here }),
        None => {
            drop(here);
            fork::end(live(plan, caller, there));
        }
    }
}

/// A step that failed.
#[derive(Debug)]
struct Failed {
    step: Step,
    source: io::Error,
}

impl Step {
    fn failed<E: Into<io::Error>>(self) -> impl Fn(E) -> Failed {
        move |source| Failed { step: self, source: source.into() }
    }
}

fn live(plan: Plan, caller: Caller, control: OwnedFd) -> u8 {
    match build(plan, caller, &control).and_then(|processes| processes.watch().map_err(Step::Processes.failed())) {
        Ok(()) => 0,
        Err(Failed { step, source }) => {
            // A session that has gone needs no word.
            let _ = tell(&control, &News::failed(step, &source), None);
            1
        }
    }
}

/// The order is that of the dependencies: pasta, broker and relay keep the host's network, everything after them has the sandbox's.
fn build(plan: Plan, caller: Caller, control: &OwnedFd) -> Result<Processes, Failed> {
    die_with_the_session(control).map_err(Step::Namespaces.failed())?;
    plan.withheld.iter().try_for_each(|number| close(*number)).map_err(Step::Processes.failed())?;
    caller.become_root().map_err(Step::IdMaps.failed())?;
    dumpable::forbid().map_err(Step::IdMaps.failed())?;
    mounts::build(&plan.host).map_err(Step::Mounts.failed())?;
    open_tun().map_err(Step::Tun.failed())?;
    let outward = plan.host.outward;
    let mut processes = Processes::new(plan, caller, control.try_clone().map_err(Step::Processes.failed())?);
    let pasta = processes.prepare_pasta().map_err(Step::Processes.failed())?;
    processes.start_broker().map_err(Step::Processes.failed())?;
    let relay = processes.start_relay().map_err(Step::Processes.failed())?;
    let mut network = network::build().map_err(Step::Network.failed())?;
    if let Some(relay) = relay {
        network.resolve_by(&relay).map_err(Step::Network.failed())?;
    }
    match pasta {
        Some(pasta) => pasta.go().map_err(Step::Processes.failed())?,
        None => network.lead_nowhere(outward).map_err(Step::Network.failed())?,
    }
    processes.use_network(network);
    processes.start_firewall().map_err(Step::Processes.failed())?;
    let directory = File::open(DIRECTORY).map_err(Step::Mounts.failed())?;
    tell(control, &News::Built, Some(directory.as_raw_fd())).map_err(Step::Processes.failed())?;
    Ok(processes)
}

/// Opening it shows whether there may be a TUN interface; making one would take 28 ms to undo.
fn open_tun() -> io::Result<()> {
    File::options().read(true).write(true).open("/dev/net/tun").map(drop)
}

/// The kernel ends this process with the thread that made it; one that had ended before is seen by the closed socket.
fn die_with_the_session(control: &OwnedFd) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if descriptor::hung_up(control)? { fork::end(1) } else { Ok(()) }
}
