//! The server's half of the local API: HTTP/1.1 and JSON, one request a connection.

mod lend;
mod routes;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::routes::Session;
use super::access::{Access, Peer};
use super::document::Document;
use super::slots::{Full, PER_USER, Slots};
use super::{Command, Lent, watchers};

/// The longest request line and headers together (design §7).
const HEAD_MAX: usize = 8 * 1024;
/// How long a client may take over its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection that is no watch may last: its head, the core's reply, and reading the answer.
const LIFE: Duration = Duration::from_secs(30);
/// The kernel's buffer towards a client: room for one document of 16 KiB, so that a slow watcher is not fed from a long past.
const SEND_BUFFER: usize = 16 * 1024;
/// How long no connection is taken after the system refused one (EMFILE): those at work may end meanwhile.
const PAUSE: Duration = Duration::from_millis(100);
/// How many clients at a time are told that they have too many connections; more are just hung up on.
const REFUSALS: usize = 4;
/// How long one of them may take to hear it.
const REFUSAL_LIFE: Duration = Duration::from_secs(1);

/// Serves the local API until it is dropped; connections end with it.
///
/// Documents come from `status`; what callers that `access` allows ask for goes to `commands`, one at a time a connection. They may also borrow
/// what is `lent`.
pub async fn serve(
    listener: UnixListener,
    status: watch::Receiver<Arc<Document>>,
    commands: mpsc::Sender<Command>,
    access: Access,
    lent: Lent,
) -> Infallible {
    let server = Server {
        status,
        commands,
        lent,
        access: Arc::new(access),
        slots: Slots::default(),
        refusals: Arc::new(Semaphore::new(REFUSALS)),
    };
    let (mut connections, mut failing) = (JoinSet::new(), false);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _address)) => {
                    server.admit(stream, &mut connections);
                    failing = false;
                }
                Err(error) => {
                    // Once for a row of failures: a log that fills up would be a second fault.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!("connections to the local API cannot be accepted: {error}");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!("a connection of the local API ended badly: {error}");
                }
            }
        }
    }
}

struct Server {
    status: watch::Receiver<Arc<Document>>,
    commands: mpsc::Sender<Command>,
    access: Arc<Access>,
    lent: Lent,
    slots: Slots,
    refusals: Arc<Semaphore>,
}

impl Server {
    /// Starts the connection's task, or hangs up on a client for whom there is no room at all.
    fn admit(&self, stream: UnixStream, connections: &mut JoinSet<()>) {
        let peer = match Peer::of(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!("a client of the local API is hung up on: its credentials cannot be read: {error}");
                return;
            }
        };
        if let Err(error) = nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::SndBuf, &SEND_BUFFER) {
            tracing::debug!("the send buffer of a local client keeps its size: {error}");
        }
        match self.slots.take(peer.uid, self.access.allows(&peer)) {
            Ok(slot) => {
                let session = self.session(peer);
                connections.spawn(async move {
                    converse(stream, session).await;
                    drop(slot);
                });
            }
            Err(full) => self.refuse(stream, full, connections),
        }
    }

    fn session(&self, peer: Peer) -> Session {
        Session {
            status: self.status.clone(),
            commands: self.commands.clone(),
            access: self.access.clone(),
            lent: self.lent.clone(),
            peer,
            gone: CancellationToken::new(),
            watching: CancellationToken::new(),
        }
    }

    fn refuse(&self, stream: UnixStream, full: Full, connections: &mut JoinSet<()>) {
        let Ok(permit) = self.refusals.clone().try_acquire_owned() else { return };
        let (code, sentence) = match full {
            Full::User => (429, format!("this user has {PER_USER} connections already; close one")),
            Full::Agent => (503, "the agent has as many connections as it takes; try again later".to_owned()),
        };
        connections.spawn(async move {
            let service = service_fn(|_request| {
                let answer = routes::failure(code, &sentence);
                async move { Ok::<_, Infallible>(answer) }
            });
            let told = http().serve_connection(TokioIo::new(stream), service);
            if !matches!(tokio::time::timeout(REFUSAL_LIFE, told).await, Ok(Ok(()))) {
                tracing::debug!("a refused client of the local API did not hear why");
            }
            drop(permit);
        });
    }
}

/// Answers the connection's one request. A connection ends with it, so that none is idle: a slot is only held by who is using it.
async fn converse(stream: UnixStream, session: Session) {
    let (gone, watching) = (session.gone.clone(), session.watching.clone());
    let service = service_fn(|request| {
        let session = session.clone();
        async move { Ok::<_, Infallible>(session.answer(request).await) }
    });
    let connection = http().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!("a connection of the local API broke off: {}", crate::core::reason::chain(&error));
            }
        }
        () = gone.cancelled() => tracing::debug!("a watcher is dropped: it has not read for {} s", watchers::PATIENCE.as_secs()),
        () = over(watching) => tracing::debug!("a client of the local API is hung up on: it does not read its answer"),
    }
}

/// Returns when a connection has lasted long enough, never for a watch.
async fn over(watching: CancellationToken) {
    tokio::time::sleep(LIFE).await;
    if watching.is_cancelled() {
        std::future::pending::<()>().await;
    }
}

fn http() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .max_header_size(HEAD_MAX);
    builder
}

#[cfg(test)]
mod tests;
