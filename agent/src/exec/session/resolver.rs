//! When tailscaled has written the command's resolver configuration: told by inotify(7).

use std::io;
use std::path::Path;
use std::time::Duration;

use nix::sys::inotify::AddWatchFlags;

use crate::sys::async_fd::watch;

/// The tailnet's resolver, which every node has at this address (tsaddr.TailscaleServiceIP).
const MAGIC_DNS: &str = "100.100.100.100";

/// How long a node that is online may take to write it. It does so before it says that it is running; a tailnet without DNS never does.
const PATIENCE: Duration = Duration::from_millis(300);

/// Waits until the tailnet's resolver is in the file, or until it seems that the tailnet has none.
pub(super) async fn settled(file: &Path) -> io::Result<()> {
    let events = watch(file, AddWatchFlags::IN_MODIFY)?;
    let written = async {
        while !tokio::fs::read_to_string(file).await?.contains(MAGIC_DNS) {
            let mut event = events.readable().await?;
            nix::unistd::read(events.get_ref(), &mut [0; 256])?;
            event.clear_ready();
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, written).await.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_written_is_seen_at_once_and_one_that_is_not_is_given_up() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "nameserver 192.0.2.1\n").expect("written");
        let (settled_first, ()) = tokio::join!(settled(file.path()), async {
            tokio::task::yield_now().await;
            std::fs::write(file.path(), "nameserver 100.100.100.100\n").expect("written");
        });
        settled_first.expect("it is seen");
        std::fs::write(file.path(), "nameserver 192.0.2.1\n").expect("written");
        tokio::time::pause();
        let begun = tokio::time::Instant::now();
        settled(file.path()).await.expect("given up");
        assert!(begun.elapsed() >= PATIENCE);
    }
}
