//! Runs a program that prints a workload token.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::core::reason::printable;
use crate::http::Redactor;
use crate::secret::Secret;

/// The longest output, in bytes: no token is as long.
pub const OUTPUT_MAX: usize = 64 * 1024;
/// How much of the end of stderr is kept, in bytes: its last lines say why.
const TAIL: usize = 1024;

/// A command that gave no output.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The configured list is empty.
    #[error("failed to run the token command: [metadata] command is empty")]
    Empty,
    /// It could not be run.
    #[error("failed to run {program}")]
    Run {
        /// `argv[0]`.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long, and was killed.
    #[error("failed to run {program}: killed, since it had not ended after {} s", after.as_secs_f32())]
    Timeout {
        /// `argv[0]`.
        program: String,
        /// How long it had.
        after: Duration,
    },
    /// It says that it failed.
    #[error("failed to run {program}: {status}: {stderr}")]
    Failed {
        /// `argv[0]`.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// Its last words.
        stderr: String,
    },
    /// It printed more than any token has, or what is not text.
    #[error("failed to run {program}: its output is no token: expected at most {OUTPUT_MAX} bytes of text")]
    Output {
        /// `argv[0]`.
        program: String,
    },
}

/// Runs `argv` with `last` as one more argument, and returns what it printed, trimmed. It is killed when `deadline` passes or the future is
/// dropped.
///
/// # Errors
/// When it does not end with 0 in time, or prints no text.
pub async fn output(argv: &[String], last: &str, deadline: Duration) -> Result<Secret<String>, CommandError> {
    let (program, arguments) = argv.split_first().ok_or(CommandError::Empty)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg(last)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(deadline, run(&mut command)).await;
    let program = printable(program, 200);
    let (stdout, stderr, status) = match ended {
        Err(_) => return Err(CommandError::Timeout { program, after: deadline }),
        Ok(Err(source)) => return Err(CommandError::Run { program, source }),
        Ok(Ok(parts)) => parts,
    };
    let text = Secret::new(String::from_utf8_lossy(&stdout).trim().to_owned());
    if !status.success() {
        let stderr = Redactor::new([&text]).quote(String::from_utf8_lossy(&stderr).trim());
        return Err(CommandError::Failed { program, status, stderr });
    }
    if stdout.len() > OUTPUT_MAX || std::str::from_utf8(&stdout).is_err() {
        return Err(CommandError::Output { program });
    }
    Ok(text)
}

async fn run(command: &mut Command) -> io::Result<(Zeroizing<Vec<u8>>, Vec<u8>, ExitStatus)> {
    let mut child = command.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    tokio::try_join!(head(stdout), tail(stderr), child.wait())
}

/// Keeps the beginning, one byte more than is allowed, and reads the rest so that the program does not stall.
async fn head(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Zeroizing<Vec<u8>>> {
    // The whole capacity at once: a buffer that grows would leave unwiped copies of its start behind.
    let mut kept = Zeroizing::new(Vec::with_capacity(OUTPUT_MAX + 1));
    each_chunk(stream, |chunk| {
        let room = OUTPUT_MAX + 1 - kept.len();
        kept.extend_from_slice(&chunk[..room.min(chunk.len())]);
    })
    .await?;
    Ok(kept)
}

async fn tail(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    each_chunk(stream, |chunk| {
        kept.extend_from_slice(chunk);
        kept.drain(..kept.len().saturating_sub(TAIL));
    })
    .await?;
    Ok(kept)
}

async fn each_chunk(stream: Option<impl AsyncRead + Unpin>, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let Some(mut stream) = stream else { return Ok(()) };
    let mut chunk = Zeroizing::new([0; 1024]);
    loop {
        match stream.read(chunk.as_mut_slice()).await? {
            0 => return Ok(()),
            count => take(&chunk[..count]),
        }
    }
}
