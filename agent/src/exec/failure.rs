//! Why there was no command, or why it did not go on; each says what to do.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::Request;
use super::control::{Ended, Part, Step};
use super::preflight::{self, Missing, Unfit};
use crate::core::reason::chain;
use crate::socket::document::Reason;
use crate::sys::fork::ForkError;
use crate::tailscaled::{ExitNodeError, LocalApiError};

/// What exec itself fails with, as chroot(1), env(1) and timeout(1) do.
pub const FAILED: u8 = 125;

/// A failure of exec itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A program is not installed.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// A program is too old.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The command's resolver configuration has no place.
    #[error(
        "/etc/resolv.conf {0}, and the command's own is to cover it; make it, empty if no name is to be resolved outside the tailnet"
    )]
    Resolver(&'static str),
    /// The kernel, or whoever configured it, does not let us.
    #[error("failed to {}: {cause}; {remedy}", .step.verb())]
    Sandbox { step: Step, cause: String, remedy: String },
    /// The process cannot be divided.
    #[error("failed to start the sandbox")]
    Fork(#[source] ForkError),
    /// Something of this process.
    #[error("failed to {what}")]
    Own {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// LocalAPI cannot be spoken to.
    #[error("failed to prepare the connection to tailscaled")]
    LocalApi(#[from] LocalApiError),
    /// Configuration that cannot be used.
    #[error("failed to prepare the way to the tailnet: {0}")]
    Services(String),
    /// A person must act before the node can join.
    #[error("{} ({}){}; {}", .0.sentence, .0.code, detail(.0), .0.remedy)]
    Blocked(Box<Reason>),
    /// The key of `--auth-key` is used up, expired, revoked, or of another tailnet, and there is no other.
    #[error(
        "the control server refused the key of --auth-key: {0}; make a new one, for one ephemeral node with the tags that it is to have"
    )]
    KeyRefused(String),
    /// Time is over.
    #[error("{what} within {limit:?}{}", last(.reason.as_deref()))]
    TimedOut { what: String, limit: Duration, reason: Option<Box<Reason>> },
    /// The peer that the command waits for.
    #[error("{peer} did not answer within {limit:?}{}", words(.why))]
    Unanswered { peer: String, limit: Duration, why: String },
    /// The exit node cannot be used.
    #[error("failed to use the exit node")]
    ExitNode(#[from] ExitNodeError),
    /// Part of the sandbox ended.
    #[error("{} {how}{}; {}", .part.name(), words(.said), preflight::remedy_of(*.part, .said))]
    Lost { part: Part, how: String, said: String },
    /// The sandbox ended without a word.
    #[error("the sandbox ended without a word; was it killed for want of memory? see dmesg")]
    Silent,
    /// Somebody ended the run before the command began.
    #[error("ended by {signal} before the command began{}", last(.reason.as_deref()))]
    Interrupted { signal: Signal, reason: Option<Box<Reason>> },
    /// A bug.
    #[error("{0}")]
    Panicked(String),
}

impl Failure {
    /// A step of the sandbox that failed, with the kernel's answer if it was that.
    pub fn sandbox(step: Step, errno: Option<i32>, words: String) -> Self {
        let errno = errno.map(Errno::from_raw);
        let cause = errno.map_or(words, |errno| errno.to_string());
        Self::Sandbox { step, cause, remedy: preflight::remedy(step, errno, &preflight::Kernel) }
    }

    /// A part of the sandbox that ended, with its last words.
    pub fn lost(part: Part, ended: Ended, said: String) -> Self {
        let how = match (part, ended) {
            // These two end with the errno of what kept them from going on.
            (Part::Broker | Part::Relay, Ended::Exited(code @ 1..)) => {
                format!("ended: {}", Errno::from_raw(code.into()))
            }
            _ => ended.to_string(),
        };
        Self::Lost { part, how, said }
    }

    /// A failure of the clone that the sandbox begins with.
    pub fn fork(error: ForkError) -> Self {
        match &error {
            ForkError::Kernel(kernel) => Self::sandbox(Step::Namespaces, kernel.raw_os_error(), kernel.to_string()),
            ForkError::Threads { .. } => Self::Fork(error),
        }
    }

    /// Time is over before the command began.
    pub fn late(what: &str, request: &Request) -> Self {
        Self::TimedOut { what: what.to_owned(), limit: request.join_timeout, reason: None }
    }

    /// For `map_err`: something of this process failed.
    pub fn own<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Self {
        move |source| Self::Own { what, source: source.into() }
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Interrupted { signal, .. } => 128 + *signal as u8,
            _ => FAILED,
        }
    }

    /// Whether nobody is left who could tell control that the node goes: it is then removed as an ephemeral one.
    pub fn cuts_off(&self) -> bool {
        matches!(self, Self::Silent | Self::Lost { part: Part::Pasta | Part::Tailscaled | Part::Broker, .. })
    }

    /// One line for people.
    pub fn line(&self) -> String {
        format!("devbox-agent exec: {}", chain(self))
    }
}

fn detail(reason: &Reason) -> String {
    if reason.detail.is_empty() { String::new() } else { format!(": {}", reason.detail) }
}

fn last(reason: Option<&Reason>) -> String {
    reason.map_or_else(String::new, |reason| {
        format!(": {} ({}){}; {}", reason.sentence, reason.code, detail(reason), reason.remedy)
    })
}

fn words(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}
