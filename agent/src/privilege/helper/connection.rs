//! One connection: a request, its answer, and a line in the log.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use super::{Brought, Helper};
use crate::core::reason::{Code, Fault, Reasoned, printable};
use crate::privilege::request::Request;
use crate::privilege::wire::{MESSAGE_MAX, Refusal, Reply, WireError, decode};
use crate::sys::async_fd::register;
use crate::tailscaled::redact;

/// How long a caller may take to send its request; it is in one write.
const REQUEST_DEADLINE: Duration = Duration::from_secs(2);

/// How much of a failure is told, in characters; at four bytes each, twice for quotes, an answer stays within its 4 KiB.
const DETAIL_MAX: usize = 400;

/// The other end, as the kernel took it down when it connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub uid: u32,
    pid: Option<i32>,
}

impl Caller {
    /// Reads SO_PEERCRED.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        Ok(Self { uid: credentials.uid(), pid: credentials.pid() })
    }

    /// The one line that a request leaves in the log.
    fn audit(self, verb: &str, outcome: &str, took: Duration) {
        let Self { uid, pid } = self;
        let (pid, took_ms) = (pid.unwrap_or_default(), took.as_millis() as u64);
        tracing::info!(
            verb,
            caller_uid = uid,
            caller_pid = pid,
            outcome,
            took_ms,
            "request {verb} of process {pid}, uid {uid}: {outcome} after {took_ms} ms"
        );
    }
}

/// Why a caller is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum TurnedAway {
    #[error("the helper serves only the agent's own user, uid {expected}")]
    Stranger { expected: u32 },
    #[error("{max} requests are under way already; try again later")]
    Full { max: usize },
}

impl Reasoned for TurnedAway {
    fn code(&self) -> Code {
        match self {
            Self::Stranger { .. } => Code::HelperDenied,
            Self::Full { .. } => Code::HelperUnavailable,
        }
    }
}

/// What became of a connection.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the request was not complete within {} s", REQUEST_DEADLINE.as_secs())]
    Slow,
    #[error("failed to read the request")]
    Read(#[source] io::Error),
    #[error("the request was not done within {} s; {}", .0.time.as_secs(), .0.advice)]
    Late(Limit),
}

impl Reasoned for Failed {
    fn code(&self) -> Code {
        match self {
            Self::Slow | Self::Read(_) => Code::HelperUnavailable,
            Self::Late(limit) => limit.code,
        }
    }
}

/// How long a verb may take, and what it means when it takes longer.
#[derive(Clone, Copy, Debug)]
struct Limit {
    time: Duration,
    code: Code,
    advice: &'static str,
}

impl Limit {
    fn of(request: &Request) -> Self {
        let (seconds, code, advice) = match request {
            // A file of some KiB: longer than this is a disk that hangs.
            Request::Inspect {} => (5, Code::HelperUnavailable, "check the disk that tailscaled's state is on"),
            // More than the 20 s for which a unit is waited for. The unit's TimeoutStopSec= is above it.
            Request::Admit { .. } => (25, Code::TailscaledStarting, "see systemctl list-jobs"),
            Request::Stop {} => (25, Code::TailscaledHung, "see systemctl list-jobs"),
            // hostnamed has to be started first, perhaps.
            Request::Hostname { .. } => (10, Code::HostnameUnset, "see systemctl status systemd-hostnamed"),
            Request::Logout {} => (5, Code::LogoutFailed, "tailscaled has no answer from the control server"),
            // As long as any one call may take; tailscaled answers all of them within milliseconds.
            _ => (10, Code::TailscaledHung, "tailscaled does not answer; see its journal"),
        };
        Self { time: Duration::from_secs(seconds), code, advice }
    }
}

/// Reads a request, carries it out and answers. A caller that hangs up ends its verb, as closing tailscaled's own socket would.
pub(super) async fn attend(mut stream: UnixStream, caller: Caller, helper: Arc<Helper>) {
    let clock = helper.edges.clock.clone();
    let begun = clock.now().boot;
    let (verb, result) = match receive(&mut stream).await {
        Ok(request) => (request.verb(), within(&stream, request, &helper).await),
        Err(fault) => ("none", Some(Err(fault))),
    };
    let outcome = match result {
        Some(Ok(brought)) => answer(&mut stream, &Reply::Ok(brought)).await.map_or("unanswered", |()| "ok"),
        Some(Err(fault)) => {
            let code = fault.code.as_str();
            answer(&mut stream, &refusal(fault)).await.map_or("unanswered", |()| code)
        }
        None => "hung_up",
    };
    caller.audit(verb, outcome, clock.now().boot.since(begun));
}

/// Tells a caller why it is not served, without waiting for anything from it.
pub(super) fn turn_away(stream: &UnixStream, caller: Caller, why: &TurnedAway) {
    let told = serde_json::to_vec(&refusal(Fault::from(why))).map_err(io::Error::from);
    let told = told.and_then(|bytes| stream.try_write(&bytes));
    let outcome = if told.is_ok() { why.code().as_str() } else { "unanswered" };
    caller.audit("none", outcome, Duration::ZERO);
}

async fn receive(stream: &mut UnixStream) -> Result<Request, Fault> {
    let read = tokio::time::timeout(REQUEST_DEADLINE, read(stream)).await;
    let bytes = read.map_err(|_| Fault::from(&Failed::Slow))?;
    let bytes = bytes.map_err(|error| Fault::from(&Failed::Read(error)))?;
    decode(&bytes).map_err(|error: WireError| Fault::from(&error))
}

/// Reads to the end, or to the first byte too many, into memory that is wiped and never grows: growing leaves copies behind.
async fn read(stream: &mut UnixStream) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; MESSAGE_MAX + 1]);
    let mut length = 0;
    loop {
        // Nothing is read into the nothing that is left of a full buffer, either.
        match stream.read(&mut bytes[length..]).await? {
            0 => break,
            more => length += more,
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// `None` when the caller hung up first.
async fn within(stream: &UnixStream, request: Request, helper: &Helper) -> Option<Result<Brought, Fault>> {
    let limit = Limit::of(&request);
    tokio::select! {
        done = tokio::time::timeout(limit.time, helper.carry_out(request)) => {
            Some(done.unwrap_or_else(|_| Err(Fault::from(&Failed::Late(limit)))))
        }
        () = hung_up(stream) => None,
    }
}

/// Waits until the other end is closed as a whole; that it will send no more is no news.
///
/// By a descriptor of its own: what is learnt of the stream's own readiness here would be missed where the answer is written.
async fn hung_up(stream: &UnixStream) {
    let watch = async {
        let watched = register(stream.as_fd().try_clone_to_owned()?)?;
        loop {
            let mut guard = watched.writable().await?;
            if guard.ready().is_write_closed() {
                return Ok::<_, io::Error>(());
            }
            guard.clear_ready();
        }
    };
    if let Err(error) = watch.await {
        tracing::debug!(%error, "it will not be noticed that a caller hangs up");
        std::future::pending().await
    }
}

fn refusal(fault: Fault) -> Reply<Brought> {
    let detail = printable(&redact(&fault.detail), DETAIL_MAX);
    Reply::Error(Refusal { code: fault.code, detail })
}

async fn answer(stream: &mut UnixStream, reply: &(impl Serialize + Sync)) -> io::Result<()> {
    stream.write_all(&serde_json::to_vec(reply)?).await?;
    stream.shutdown().await
}
