//! Waiting in the event loop until a descriptor has something to tell.
#![expect(unsafe_code, reason = "tokio asks its caller to promise that the descriptor stays open, which owning it is")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the event loop, for reading. Must be called within tokio.
pub(super) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `AsyncFd` owns the descriptor, so it stays open and the same until that is dropped; an `OwnedFd` always gives the
    // same number.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
