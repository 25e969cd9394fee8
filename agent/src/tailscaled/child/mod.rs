//! tailscaled as a child process of the agent: for containers, the lab and `exec`.

pub(crate) mod command;
mod error;
mod memory;
pub(crate) mod notify_socket;
mod orphan;
mod running;
pub(crate) mod tail;

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::{Mutex, watch};
use tokio_util::task::AbortOnDropHandle;

use self::command::Surroundings;
pub use self::error::{ChildError, Ended};
use self::notify_socket::NotifySocket;
use self::running::Running;
use super::Supervisor;
use super::error::is_other_file;
use super::stored::stored_node;
use crate::config::settings::DaemonSettings;
use crate::core::reason::Fault;

/// How long tailscaled may take to listen: it does so within 0.1 s, but opening its state may have to wait for a disk or a TPM.
const READY: Duration = Duration::from_secs(20);

/// How long tailscaled may take to end on SIGTERM: it takes down its interface, and may log out an ephemeral node.
const GRACE: Duration = Duration::from_secs(3);

/// Runs tailscaled as a child of this process.
///
/// Dropping it ends tailscaled, and so does any end of this process: tailscaled reads a pipe whose other end only this process has
/// (`TS_PARENT_DEATH_FD`).
#[derive(Debug)]
pub struct ChildSupervisor {
    daemon: DaemonSettings,
    runtime: PathBuf,
    environment: Vec<(OsString, OsString)>,
    patience: Patience,
    /// Starts and stops take turns.
    turn: Mutex<()>,
    current: watch::Sender<Option<Arc<Tailscaled>>>,
}

#[derive(Clone, Copy, Debug)]
struct Patience {
    ready: Duration,
    grace: Duration,
}

/// A tailscaled that said it was ready, and the task that takes in what else it says.
#[derive(Debug)]
struct Tailscaled {
    running: Running,
    _listening: AbortOnDropHandle<()>,
}

impl ChildSupervisor {
    /// A supervisor that runs `daemon.binary`, with `environment` less what is the agent's own or a credential. It keeps a pid file and
    /// the notify socket in `runtime`, a directory for this user alone or of which only this user may change the entries.
    pub fn new(daemon: DaemonSettings, runtime: PathBuf, environment: Vec<(OsString, OsString)>) -> Self {
        let patience = Patience { ready: READY, grace: GRACE };
        Self { daemon, runtime, environment, patience, turn: Mutex::new(()), current: watch::Sender::new(None) }
    }

    fn pid_file(&self) -> PathBuf {
        self.runtime.join("tailscaled.pid")
    }

    fn notify_socket(&self) -> PathBuf {
        self.runtime.join("tailscaled-notify.sock")
    }

    async fn try_start(&self) -> Result<(), ChildError> {
        let _turn = self.turn.lock().await;
        self.end_current().await?;
        for (directory, mode) in [(&self.runtime, 0o755), (&self.daemon.state, 0o700)] {
            make(directory, mode).map_err(setup("make the directory", directory))?;
        }
        orphan::end(&self.pid_file(), &self.daemon.socket, self.patience.grace).await?;
        refuse_occupied(&self.daemon.socket).await?;
        let started = self.spawn_until_ready().await?;
        self.current.send_replace(Some(Arc::new(started)));
        Ok(())
    }

    /// Dropped before it is done, it leaves nothing running.
    async fn spawn_until_ready(&self) -> Result<Tailscaled, ChildError> {
        let path = self.notify_socket();
        let notify = NotifySocket::bind(path.clone()).map_err(setup("make the socket", &path))?;
        let running = self.spawn(notify.path())?;
        if let Err(error) = orphan::record(&self.pid_file(), running.pid()) {
            tracing::warn!("failed to write a pid file {}: {error}", self.pid_file().display());
        }
        let (ready, listening) = notify.listen();
        tokio::select! {
            // It may say that it is ready and end: then the end is the news.
            biased;
            ended = running.ended() => Err(ChildError::Ended(ended)),
            Ok(()) = ready => Ok(Tailscaled { running, _listening: listening }),
            () = tokio::time::sleep(self.patience.ready) => Err(ChildError::NotReady { deadline: self.patience.ready }),
        }
    }

    fn spawn(&self, notify: &Path) -> Result<Running, ChildError> {
        let pipes = setup("make a pipe to", &self.daemon.binary);
        let (read_life, life) = io::pipe().map_err(&pipes)?;
        let (output, write_output) = io::pipe().map_err(&pipes)?;
        let output = pipe::Receiver::from_owned_fd(output.into()).map_err(&pipes)?;
        let around = Surroundings {
            notify,
            life: read_life.into(),
            output: write_output.into(),
            environment: &self.environment,
        };
        let mut command = command::tailscaled(&self.daemon, around).map_err(&pipes)?;
        let child = command.spawn().map_err(|source| self.not_spawned(source))?;
        Ok(Running::new(child, output, life.into()))
    }

    fn not_spawned(&self, source: io::Error) -> ChildError {
        let binary = self.daemon.binary.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory => {
                ChildError::Missing { binary, source: Arc::new(source) }
            }
            _ => setup("run", &binary)(source),
        }
    }

    /// Takes what runs out of sight first: an end that was asked for is no news to whoever waits in `exited`.
    async fn end_current(&self) -> Result<(), ChildError> {
        if let Some(tailscaled) = self.current.send_replace(None) {
            tailscaled.running.end(self.patience.grace, orphan::KILLED).await?;
            self.tidy();
        }
        Ok(())
    }

    /// Only for a turn of one's own. An end by itself leaves the files to the next start: they do no harm.
    fn tidy(&self) {
        orphan::forget(&self.pid_file());
        if let Err(error) = notify_socket::remove(&self.notify_socket()) {
            tracing::debug!("failed to remove the notify socket: {error}");
        }
    }

    async fn try_stop(&self) -> Result<(), ChildError> {
        let _turn = self.turn.lock().await;
        self.end_current().await
    }

    /// Whether this one is still what should run; if so, it no longer is.
    fn take(&self, ended: &Arc<Tailscaled>) -> bool {
        self.current.send_if_modified(|current| {
            let same = current.as_ref().is_some_and(|current| Arc::ptr_eq(current, ended));
            if same {
                *current = None;
            }
            same
        })
    }

    async fn next_end(&self) -> Arc<Ended> {
        let mut current = self.current.subscribe();
        loop {
            let tailscaled = current.wait_for(Option::is_some).await.ok().and_then(|current| current.clone());
            // The sender is this supervisor's own, so there is always one to wait for.
            let Some(tailscaled) = tailscaled else { return std::future::pending().await };
            let ended = tailscaled.running.ended().await;
            if self.take(&tailscaled) {
                return ended;
            }
        }
    }
}

fn setup(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> ChildError {
    move |source| ChildError::Setup { verb, path: path.to_owned(), source: Arc::new(source) }
}

fn make(directory: &Path, mode: u32) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(directory)
}

/// tailscaled itself would delete whatever file is there, and would end without a word of who else listens.
async fn refuse_occupied(socket: &Path) -> Result<(), ChildError> {
    if is_other_file(socket) {
        return Err(ChildError::NotASocket { socket: socket.to_owned() });
    }
    match UnixStream::connect(socket).await {
        Ok(other) => {
            let pid = other.peer_cred().ok().and_then(|peer| peer.pid());
            let holder = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            Err(ChildError::Occupied { socket: socket.to_owned(), holder })
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(()),
        Err(error) => Err(setup("look who listens at", socket)(error)),
    }
}

#[async_trait]
impl Supervisor for ChildSupervisor {
    async fn stored_node(&self) -> Result<bool, Fault> {
        stored_node(&self.daemon.state).map_err(|error| Fault::from(&error))
    }

    async fn start(&self) -> Result<(), Fault> {
        self.try_start().await.map_err(|error| Fault::from(&error))
    }

    /// Nobody else's tailscaled waits for this agent.
    async fn leave_alone(&self) -> Result<(), Fault> {
        Ok(())
    }

    async fn stop(&self) -> Result<(), Fault> {
        self.try_stop().await.map_err(|error| Fault::from(&error))
    }

    async fn exited(&self) -> Fault {
        let ended = self.next_end().await;
        for line in &ended.lines {
            tracing::warn!(target: "tailscaled", "{line}");
        }
        Fault::from(&ChildError::Ended(ended))
    }
}

#[cfg(test)]
mod tests;
