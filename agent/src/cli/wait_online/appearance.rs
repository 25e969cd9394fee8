//! When a socket may have appeared: told by inotify, so that a boot does not wait for a poll.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::inotify::AddWatchFlags;
use tokio::io::unix::AsyncFd;

use crate::sys::async_fd::watch;

/// How long between two looks where inotify cannot help: the runtime directory is not there yet, or the system has no watch left.
const POLL: Duration = Duration::from_millis(200);
/// How long at most between two looks otherwise: for an agent that listens already and cannot take one more connection.
const PATIENCE: Duration = Duration::from_secs(2);

/// A wait for something to happen to a socket.
pub struct Appearance(Option<AsyncFd<OwnedFd>>);

impl Appearance {
    /// Starts watching the directory of `socket`; what happens from here on is not missed.
    pub fn of(socket: &Path) -> Self {
        let watched = socket.parent().map(|directory| watch(directory, CHANGES));
        Self(watched.and_then(|watched| {
            watched.inspect_err(|error| tracing::debug!("the runtime directory is polled, not watched: {error}")).ok()
        }))
    }

    /// Returns when the socket may be there; too often rather than too late.
    pub async fn wait(self) {
        match self.0 {
            None => tokio::time::sleep(POLL).await,
            // Neither a time-out nor an error of the wait says more than: look again.
            Some(events) => drop(tokio::time::timeout(PATIENCE, events.readable()).await),
        }
    }
}

/// Made (bind), opened to all (chmod, which follows listen), or moved there.
const CHANGES: AddWatchFlags =
    AddWatchFlags::IN_CREATE.union(AddWatchFlags::IN_ATTRIB).union(AddWatchFlags::IN_MOVED_TO);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::listen::bind;

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_appears_is_told_by_the_kernel_before_any_time_has_passed() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("agent.sock");
        let appearance = Appearance::of(&socket);
        let begun = tokio::time::Instant::now();
        let _listener = bind(&socket).expect("bind");
        appearance.wait().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_is_not_there_is_looked_for_again_soon() {
        let begun = tokio::time::Instant::now();
        Appearance::of(Path::new("/nonexistent/agent.sock")).wait().await;
        assert_eq!(begun.elapsed(), POLL);
    }
}
