//! The last words of a unit that does not run, by journalctl(1): only root and the journal's own group may read them.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::tailscaled::child::tail::{LINES_MAX, Tail, told};

/// A journal of some GiB is searched by its index, in milliseconds; a disk that hangs must not hold up the answer.
const DEADLINE: Duration = Duration::from_secs(3);

/// One run of a unit's main process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// `InvocationID`, in hexadecimal digits.
    pub invocation: String,
    /// `ExecMainPID`: what the unit runs after it has other words.
    pub pid: u32,
}

/// The journal of this machine.
#[derive(Clone, Debug)]
pub struct Journal {
    program: PathBuf,
}

impl Journal {
    /// The journal as `program` (`journalctl`) reads it.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into() }
    }

    /// The last lines of a run as one sentence, without secrets; empty when there are none, or nobody can read them: the failure that they
    /// would explain is known all the same.
    pub(super) async fn last_words(&self, run: &Run) -> String {
        match tokio::time::timeout(DEADLINE, self.read(run)).await {
            Ok(Ok(lines)) => told(&lines),
            Ok(Err(error)) => {
                tracing::warn!(%error, "failed to read the last words of the unit from the journal");
                String::new()
            }
            Err(_) => {
                tracing::warn!("failed to read the last words of the unit: the journal did not answer in time");
                String::new()
            }
        }
    }

    async fn read(&self, run: &Run) -> std::io::Result<Vec<String>> {
        let mut command = Command::new(&self.program);
        command.args(["--quiet", "--no-pager", "--output=cat"]).arg(format!("--lines={LINES_MAX}"));
        command.arg(format!("_SYSTEMD_INVOCATION_ID={}", run.invocation)).arg(format!("_PID={}", run.pid));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut reader = command.spawn()?;
        let mut tail = Tail::default();
        if let Some(mut output) = reader.stdout.take() {
            tail.follow(&mut output).await;
        }
        let status = reader.wait().await?;
        if status.success() {
            Ok(tail.into_lines())
        } else {
            Err(std::io::Error::other(format!("it ended with {status}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A journal that answers what `script`, with journalctl's arguments, writes.
    fn journal(directory: &tempfile::TempDir, script: &str) -> Journal {
        let program = directory.path().join("journalctl");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("made executable");
        Journal::new(program)
    }

    fn run() -> Run {
        Run { invocation: "0af1".to_owned(), pid: 7 }
    }

    #[tokio::test]
    async fn only_the_run_itself_is_asked_for_and_secrets_do_not_come_through() {
        let directory = tempfile::tempdir().expect("a directory");
        let echoing = journal(&directory, "echo \"$@\"; echo 'key tskey-auth-k1-abc'");
        let words = echoing.last_words(&run()).await;
        assert!(words.contains("_SYSTEMD_INVOCATION_ID=0af1 _PID=7"), "{words}");
        assert!(words.ends_with("key tskey-[redacted]"), "{words}");
    }

    #[tokio::test]
    async fn a_journal_that_cannot_be_read_has_no_words() {
        assert_eq!(Journal::new("/nonexistent/journalctl").last_words(&run()).await, "");
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(journal(&directory, "echo words; exit 1").last_words(&run()).await, "");
    }
}
