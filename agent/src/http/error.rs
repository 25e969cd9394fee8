//! What can go wrong with a request, told apart by what it means for the next try.

use std::error::Error;
use std::io;
use std::time::Duration;

use nix::errno::Errno;

/// What a failed request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection: refused, no route, or nothing answered in time. `unsent`: the kernel had no way to send even a packet.
    Unreachable {
        /// No packet left this machine.
        unsent: bool,
    },
    /// The server's name does not resolve.
    Dns,
    /// The TLS handshake failed, or the system's certificates could not be loaded.
    Untrusted,
    /// The connection stood, and the answer did not come within its deadline.
    Timeout,
    /// The connection broke before the answer was complete.
    Broken,
    /// The answer is larger than allowed, or is not HTTP.
    Malformed,
}

/// A request that brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The client could not be made.
    #[error("failed to prepare the HTTP client")]
    Setup(#[source] reqwest::Error),
    /// No connection, or no complete answer.
    #[error("{words}")]
    Transfer {
        /// What it means.
        failure: Failure,
        /// That in words.
        words: &'static str,
        /// The library's account.
        #[source]
        source: reqwest::Error,
    },
    /// A deadline passed.
    #[error("failed to read {what} within {} s", after.as_secs_f32())]
    Timeout {
        /// The part that did not come.
        what: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The body is larger than the protocol allows.
    #[error("failed to read the body of the answer: it is larger than {cap} bytes")]
    TooLarge {
        /// The most that is read.
        cap: usize,
    },
}

impl HttpError {
    /// What it means for the next try.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Setup(_) => Failure::Untrusted,
            Self::Transfer { failure, .. } => *failure,
            Self::Timeout { .. } => Failure::Timeout,
            Self::TooLarge { .. } => Failure::Malformed,
        }
    }

    /// Whether no packet left this machine.
    pub fn unsent(&self) -> bool {
        self.failure() == Failure::Unreachable { unsent: true }
    }

    pub(super) fn setup(source: reqwest::Error) -> Self {
        Self::Setup(source)
    }

    pub(super) fn timeout(what: &'static str, after: Duration) -> Self {
        Self::Timeout { what, after }
    }

    pub(super) fn too_large(cap: usize) -> Self {
        Self::TooLarge { cap }
    }

    /// Classifies an error from before the headers were complete. The URL is taken out: callers name the place in their own words.
    pub(super) fn from_send(source: reqwest::Error) -> Self {
        let failure = if source.is_connect() { connecting(&source) } else { talking(&source) };
        Self::transfer(failure, source)
    }

    /// Classifies an error from within the body.
    pub(super) fn from_body(source: reqwest::Error) -> Self {
        Self::transfer(talking(&source), source)
    }

    fn transfer(failure: Failure, source: reqwest::Error) -> Self {
        let words = match failure {
            Failure::Unreachable { .. } => "failed to connect",
            Failure::Dns => "failed to resolve the server's name",
            Failure::Untrusted => "failed to make a trusted TLS connection",
            Failure::Timeout => "failed to read the answer in time",
            Failure::Broken => "failed to read the whole answer: the connection broke",
            Failure::Malformed => "failed to read the answer: it is not HTTP",
        };
        Self::Transfer { failure, words, source: source.without_url() }
    }
}

fn connecting(error: &reqwest::Error) -> Failure {
    if error.is_dns() {
        return Failure::Dns;
    }
    let mut failure = Failure::Unreachable { unsent: false };
    each_io(error, |io| {
        // tokio-rustls gives InvalidData to every failed handshake, and nothing else on the way to a connection does.
        if io.kind() == io::ErrorKind::InvalidData {
            failure = Failure::Untrusted;
        }
        if io.raw_os_error().is_some_and(never_left) {
            failure = Failure::Unreachable { unsent: true };
        }
    });
    failure
}

fn never_left(code: i32) -> bool {
    [Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::EADDRNOTAVAIL].contains(&Errno::from_raw(code))
}

fn talking(error: &reqwest::Error) -> Failure {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return Failure::Malformed;
        }
        next = cause.source();
    }
    if error.is_timeout() { Failure::Timeout } else { Failure::Broken }
}

/// Visits every `io::Error` of a chain. One that wraps another error skips it in `source()`, so `get_ref` is followed as well.
fn each_io(error: &(dyn Error + 'static), mut visit: impl FnMut(&io::Error)) {
    let mut next = Some(error);
    while let Some(cause) = next {
        let io = cause.downcast_ref::<io::Error>();
        if let Some(io) = io {
            visit(io);
        }
        let inner = io.and_then(io::Error::get_ref).map(|inner| inner as &(dyn Error + 'static));
        next = inner.or_else(|| cause.source());
    }
}
