//! A token that whoever started this process left in a descriptor: on no disk, in no environment, and in no command line.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, RawFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::secret_file::SECRET_MAX;
use crate::secret::Secret;
use crate::sys::descriptor;

/// Reads the descriptor `number` to its end, without the white space around it. Of a pipe this is all that there will ever be.
///
/// # Errors
/// When it cannot be read, does not end within `deadline`, or is no text or too long to be a token.
pub async fn read(number: RawFd, deadline: Duration) -> io::Result<Secret<String>> {
    let end = Instant::now() + deadline;
    let bytes = tokio::task::spawn_blocking(move || drain(number, end)).await.map_err(io::Error::other)??;
    let text = std::str::from_utf8(&bytes).map_err(|_| io::Error::other("expected text"))?;
    Ok(Secret::new(text.trim().to_owned()))
}

fn drain(number: RawFd, end: Instant) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut given = File::from(descriptor::copy(number)?);
    // The whole capacity at once: a buffer that grows would leave unwiped copies of its start behind.
    let mut kept = Zeroizing::new(Vec::with_capacity(SECRET_MAX + 1));
    let mut chunk = Zeroizing::new([0; 4096]);
    loop {
        wait(&given, end)?;
        match given.read(chunk.as_mut_slice())? {
            0 => return Ok(kept),
            count if kept.len() + count > SECRET_MAX => {
                return Err(io::Error::other(format!("expected at most {SECRET_MAX} bytes")));
            }
            count => kept.extend_from_slice(&chunk[..count]),
        }
    }
}

/// Waits until a read would not block.
fn wait(file: &File, end: Instant) -> io::Result<()> {
    let left = end.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout)? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, "nobody has written it to its end")),
        _ => Ok(()),
    }
}
