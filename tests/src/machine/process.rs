//! One process started in a machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::sync::watch;

use super::tasks;

/// Why a process could not be steered or observed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// A signal could not be sent.
    #[error("failed to send {signal} to process {pid}")]
    Signal {
        /// The signal.
        signal: Signal,
        /// The process, in the sandbox's PID namespace.
        pid: Pid,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Its log could not be read.
    #[error("failed to read log {}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel did not report its end.
    #[error("failed to learn the exit status of process {0}")]
    Lost(Pid),
}

/// A process in a machine. Dropping this does not end it; the end of the machine does.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    started: Instant,
    log: PathBuf,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    pub(super) fn watch(mut child: Child, started: Instant, log: PathBuf) -> io::Result<Self> {
        let pid = Pid::from_raw(child.id().cast_signed());
        let (tell, exit) = watch::channel(None);
        thread::Builder::new().name(format!("wait {pid}")).spawn(move || match child.wait() {
            Ok(status) => drop(tell.send_replace(Some(status))),
            Err(error) => tracing::warn!(%pid, %error, "failed to wait for a process"),
        })?;
        Ok(Self { pid, started, log, exit })
    }

    /// Its id in the sandbox's PID namespace.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// When it was started: just before fork and exec.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The file that takes its standard output and standard error.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it has written so far.
    pub fn log(&self) -> Result<String, ProcessError> {
        let bytes = fs::read(&self.log).map_err(|source| ProcessError::Log { path: self.log.clone(), source })?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Its exit status, once it has ended.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Result<ExitStatus, ProcessError> {
        let mut exit = self.exit.clone();
        let status = *exit.wait_for(Option::is_some).await.map_err(|_| ProcessError::Lost(self.pid))?;
        status.ok_or(ProcessError::Lost(self.pid))
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        if self.exit_status().is_some() {
            return Ok(());
        }
        tasks::send(self.pid, signal).map_err(|source| ProcessError::Signal { signal, pid: self.pid, source })
    }

    /// Kills it and waits for its end.
    pub async fn kill(&self) -> Result<ExitStatus, ProcessError> {
        self.signal(Signal::SIGKILL)?;
        self.wait().await
    }

    /// Asks it to stop and waits for its end; kills it after `limit`.
    pub async fn stop(&self, limit: Duration) -> Result<ExitStatus, ProcessError> {
        self.signal(Signal::SIGTERM)?;
        match tokio::time::timeout(limit, self.wait()).await {
            Ok(status) => status,
            Err(_) => self.kill().await,
        }
    }
}
