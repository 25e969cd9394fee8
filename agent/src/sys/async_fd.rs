//! Descriptors that tokio has no type for (inotify, timerfd), on its event loop.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// Tells by becoming readable that something happened to `path` (inotify(7)).
pub fn watch(path: &Path, events: AddWatchFlags) -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(path, events)?;
    register(OwnedFd::from(inotify))
}

/// Puts a non-blocking descriptor on the event loop.
///
/// tokio's own constructor is unsafe, since a type may lend another descriptor each time it is asked; an [`OwnedFd`] does not.
#[expect(unsafe_code, reason = "tokio has no safe constructor for an OwnedFd")]
pub fn register(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stands for one open descriptor until it is dropped, which the AsyncFd that owns it does after it has left the loop.
    unsafe { AsyncFd::register(descriptor) }.map_err(|error| error.into_parts().1)
}
