//! What the session and the sandbox tell each other, over one pair of sockets.

use std::io;
use std::os::fd::{AsFd, RawFd};

use nix::sys::socket::MsgFlags;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::sys::packet::{self, Packet};

/// What the session asks of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Order {
    /// Start tailscaled, as soon as the network is there.
    Start,
    /// Run the command.
    Run,
    /// Kill the command and everything that it started, or do not begin it any more.
    Kill,
}

/// What the session is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum News {
    /// The namespaces stand; the descriptor is the sandbox's own directory.
    Built,
    /// A step failed, and with it the run.
    Failed {
        /// Which.
        step: Step,
        /// With what, as errno(3), if it was the kernel's answer.
        errno: Option<i32>,
        /// The same in words.
        words: String,
    },
    /// The rules are in force, and the network has a way out.
    Ready,
    /// The peer that the command waits for does not answer, for this reason; told when the reason changes.
    Unanswered(String),
    /// The command is about to be executed; the sender is the command.
    Running,
    /// There is nothing to kill: no command runs, and none will.
    Idle,
    /// The command was stopped by a signal.
    Stopped,
    /// The command has ended.
    Ended(Ended),
    /// A part that the command needs has ended, and the command with it.
    Lost {
        /// What.
        part: Part,
        /// How.
        ended: Ended,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ended {
    /// By itself.
    Exited(u8),
    /// By a signal.
    Killed(u8),
}

impl Ended {
    /// Which process has ended, and how; `None` of news that are no end.
    pub fn of(status: WaitStatus) -> Option<(Pid, Self)> {
        match status {
            WaitStatus::Exited(pid, code) => Some((pid, Self::Exited(code as u8))),
            WaitStatus::Signaled(pid, signal, _) => Some((pid, Self::Killed(signal as u8))),
            _ => None,
        }
    }

    /// The exit code that a shell would give.
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => signal.wrapping_add(128),
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with status {code}"),
            Self::Killed(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

/// What the command cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Part {
    /// The way to the ordinary network.
    Pasta,
    /// The node.
    Tailscaled,
    /// What makes tailscaled's sockets in the host's network.
    Broker,
    /// The way to the host's name servers.
    Relay,
    /// What keeps the command to itself.
    Firewall,
    /// The command's own PID 1.
    Init,
}

impl Part {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pasta => "pasta",
            Self::Tailscaled => "tailscaled",
            Self::Broker => "the socket broker",
            Self::Relay => "the resolver's relay",
            Self::Firewall => "nft",
            Self::Init => "the command's PID 1",
        }
    }
}

/// A step of building the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Step {
    /// clone(2) with user, pid and mount namespace.
    Namespaces,
    /// Writing the uid and gid maps.
    IdMaps,
    /// Private mounts.
    Mounts,
    /// Opening `/dev/net/tun`.
    Tun,
    /// The network namespace.
    Network,
    /// Starting a process.
    Processes,
}

impl Step {
    /// What it does, to follow "failed to".
    pub fn verb(self) -> &'static str {
        match self {
            Self::Namespaces => "make a user namespace",
            Self::IdMaps => "map the caller's user into the namespace",
            Self::Mounts => "make private mounts",
            Self::Tun => "open /dev/net/tun",
            Self::Network => "make a network namespace",
            Self::Processes => "start the sandbox's processes",
        }
    }
}

impl News {
    /// A step that failed.
    pub fn failed(step: Step, error: &io::Error) -> Self {
        Self::Failed { step, errno: error.raw_os_error(), words: error.to_string() }
    }
}

/// Sends a message.
pub(super) fn tell(socket: &impl AsFd, message: &impl Serialize, descriptor: Option<RawFd>) -> io::Result<()> {
    packet::send(socket, &serde_json::to_vec(message)?, descriptor)
}

/// Receives a message, with what came with it; `None` when the other side has ended.
pub(super) fn hear<T: DeserializeOwned>(socket: &impl AsFd, flags: MsgFlags) -> io::Result<Option<(T, Packet)>> {
    let Some(packet) = packet::receive(socket, flags)? else { return Ok(None) };
    Ok(Some((serde_json::from_slice(&packet.bytes)?, packet)))
}
