//! A tailscaled that an earlier run of the agent left behind.
//!
//! It ends by itself when the agent does, but that takes a moment, and one that hangs does not.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::command::socket_argument;
use super::error::ChildError;
use crate::sys::pidfd::PidFd;

/// How long the kernel may take to end what was killed.
pub(super) const KILLED: Duration = Duration::from_secs(5);

/// Which process was started: a pid alone would soon be another's.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// `/proc/sys/kernel/random/boot_id`: the rest means nothing after a reboot.
    boot_id: String,
    /// Its process id.
    pid: u32,
    /// When it was started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    start_time: u64,
}

impl Record {
    fn of(pid: u32) -> io::Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { boot_id, pid, start_time: start_time(&std::fs::read_to_string(format!("/proc/{pid}/stat"))?)? })
    }
}

/// Writes down which process tailscaled is.
pub(super) fn record(file: &Path, pid: u32) -> io::Result<()> {
    std::fs::write(file, serde_json::to_string(&Record::of(pid)?)?)
}

/// Forgets it, once it has ended.
pub(super) fn forget(file: &Path) {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("failed to remove a pid file {}: {error}", file.display());
        }
        _ => {}
    }
}

/// Ends the process of the record and waits for it, if it is still there and serves `socket`; touches nothing else.
pub(super) async fn end(file: &Path, socket: &Path, grace: Duration) -> Result<(), ChildError> {
    let Some(record) = read(file) else { return Ok(()) };
    let pid = record.pid;
    let setup = |source| ChildError::Setup { verb: "end the process of", path: file.into(), source: Arc::new(source) };
    // The handle first, then the look: what is looked at cannot become another process afterwards.
    let process = PidFd::open(pid).map_err(setup)?.filter(|_| is_still(&record, socket));
    if let Some(process) = process {
        tracing::info!("ending a tailscaled that an earlier run left behind, process {pid}");
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            process.signal(signal).map_err(setup)?;
        }
        if !ends_within(&process, grace).await.map_err(setup)? {
            process.signal(Signal::SIGKILL).map_err(setup)?;
            if !ends_within(&process, KILLED).await.map_err(setup)? {
                return Err(ChildError::Immortal { pid });
            }
        }
    }
    forget(file);
    Ok(())
}

async fn ends_within(process: &PidFd, time: Duration) -> io::Result<bool> {
    tokio::time::timeout(time, process.ended()).await.map_or(Ok(false), |ended| ended.map(|()| true))
}

/// A record that cannot be read names no process, so it ends none.
fn read(file: &Path) -> Option<Record> {
    let text = std::fs::read_to_string(file).ok()?;
    match serde_json::from_str(&text) {
        Ok(record) => Some(record),
        Err(error) => {
            tracing::warn!("failed to read a pid file {}: {error}", file.display());
            None
        }
    }
}

/// Whether the process is the one that was recorded, and has our socket among its arguments.
///
/// The program's path is no part of it: distributions wrap tailscaled, and an upgrade replaces the file under it.
fn is_still(record: &Record, socket: &Path) -> bool {
    let Ok(arguments) = std::fs::read(format!("/proc/{}/cmdline", record.pid)) else { return false };
    let wanted = socket_argument(socket);
    Record::of(record.pid).is_ok_and(|now| now == *record)
        && arguments.split(|&byte| byte == 0).any(|argument| argument == wanted.as_encoded_bytes())
}

/// Field 22 of `/proc/PID/stat` (proc_pid_stat(5)); the second field is a name that may hold spaces and parentheses.
fn start_time(stat: &str) -> io::Result<u64> {
    let after_name = stat.rsplit_once(')').map_or(stat, |(_, rest)| rest);
    let field = after_name.split_whitespace().nth(19).and_then(|field| field.parse().ok());
    field.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time in /proc/PID/stat"))
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::io::AsyncReadExt;
    use tokio::process::{Child, Command};

    use super::*;

    const GRACE: Duration = Duration::from_millis(100);

    /// A process that serves, as its arguments say, this socket; it runs `script`, and has come that far.
    async fn process(script: &str, socket: &Path) -> Child {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{script}; echo up; while :; do sleep 1; done"), "sh"])
            .arg(socket_argument(socket));
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("sh");
        let mut up = [0; 3];
        child.stdout.as_mut().expect("piped").read_exact(&mut up).await.expect("it is up");
        child
    }

    fn pid(child: &Child) -> u32 {
        child.id().expect("a pid")
    }

    #[test]
    fn a_start_time_is_found_behind_any_name() {
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194560 2 0 0 0 0 0 0 0 20 0 9 0 4711 100 0";
        assert_eq!(start_time(stat).expect("a number"), 4711);
        assert!(start_time("7 (x) S 1").is_err());
    }

    #[tokio::test]
    async fn an_orphan_is_ended_and_waited_for_even_when_it_ignores_that_or_is_frozen() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, socket) = (directory.path().join("pid"), directory.path().join("socket"));
        for (script, frozen) in [("true", false), ("trap '' TERM", false), ("true", true)] {
            let mut orphan = process(script, &socket).await;
            if frozen {
                let handle = PidFd::open(pid(&orphan)).expect("pidfd").expect("it lives");
                handle.signal(Signal::SIGSTOP).expect("frozen");
            }
            record(&file, pid(&orphan)).expect("recorded");
            end(&file, &socket, GRACE).await.expect("ended");
            assert!(orphan.try_wait().expect("wait").is_some(), "{script}, frozen {frozen}: it has ended already");
            assert!(!file.exists());
        }
    }

    #[tokio::test]
    async fn a_process_that_only_has_the_pid_or_another_socket_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, socket) = (directory.path().join("pid"), directory.path().join("socket"));
        let mut innocent = process("true", &socket).await;
        let mut stale = Record::of(pid(&innocent)).expect("a record");
        stale.start_time -= 1;
        std::fs::write(&file, serde_json::to_string(&stale).expect("text")).expect("written");
        end(&file, &socket, GRACE).await.expect("nothing to end");
        record(&file, pid(&innocent)).expect("recorded");
        end(&file, &directory.path().join("other"), GRACE).await.expect("nothing to end");
        std::fs::write(&file, "4711").expect("written");
        end(&file, &socket, GRACE).await.expect("nothing to end");
        assert!(innocent.try_wait().expect("wait").is_none(), "it still runs");
    }
}
