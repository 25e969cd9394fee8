//! `status.json`: the document on disk, for when the agent is down.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::document::{self, Document};
use crate::core::reason::chain;
use crate::files;

/// How a file is replaced: atomically, mode 0644.
pub type Write = dyn Fn(&Path, &[u8]) -> io::Result<()> + Send + Sync;

/// Keeps `status.json` like the document.
pub struct Publisher {
    path: PathBuf,
    write: Arc<Write>,
}

impl Publisher {
    /// Prepares to keep the file at `path`: replaced as a whole each time, readable by every user.
    pub fn of_file(path: PathBuf) -> Self {
        Self::new(path, Arc::new(|path, bytes| files::write_atomic(path, bytes, 0o644).map_err(io::Error::other)))
    }

    /// Prepares to write to `path` with `write`, which is called off the event loop: it may wait for a disk.
    pub fn new(path: PathBuf, write: Arc<Write>) -> Self {
        Self { path, write }
    }

    /// Writes every document until the last sender is dropped, the last one included.
    ///
    /// While one is being written only the latest of those that follow is kept. A failure is logged once and never disturbs the node.
    pub async fn run(self, mut status: watch::Receiver<Arc<Document>>) {
        let mut failing = false;
        status.mark_changed();
        while status.changed().await.is_ok() {
            let document = status.borrow_and_update().clone();
            let result = self.write(document).await;
            self.note(&result, failing);
            failing = result.is_err();
        }
    }

    async fn write(&self, document: Arc<Document>) -> io::Result<()> {
        let (path, write) = (self.path.clone(), self.write.clone());
        let written = tokio::task::spawn_blocking(move || write(&path, &document::json(&document)));
        written.await.map_err(io::Error::other)?
    }

    fn note(&self, result: &io::Result<()>, failing: bool) {
        match result {
            Err(error) if !failing => {
                tracing::warn!("the status file {} cannot be written: {}", self.path.display(), chain(error));
            }
            Ok(()) if failing => tracing::info!("the status file {} is written again", self.path.display()),
            _ => {}
        }
    }
}

/// What the agent last said of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct LastKnown {
    /// Its document.
    pub document: Document,
    /// When it was written.
    pub written: SystemTime,
}

/// Why there is nothing last known.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read; absent when the agent never ran since boot.
    #[error("failed to read the status file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not a status document.
    #[error("failed to understand the status file {}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// Where it stops being one.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads what the agent last wrote to `path`.
pub fn read(path: &Path) -> Result<LastKnown, ReadError> {
    let unread = |source| ReadError::Read { path: path.into(), source };
    let written = std::fs::metadata(path).and_then(|found| found.modified()).map_err(unread)?;
    let text = std::fs::read(path).map_err(unread)?;
    let document = serde_json::from_slice(&text).map_err(|source| ReadError::Decode { path: path.into(), source })?;
    Ok(LastKnown { document, written })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    use super::*;
    use crate::core::phase::Phase;
    use crate::socket::samples::sample;

    /// A writer that is done with a file only when the test lets it, and keeps what it wrote.
    fn slow_writer() -> (Arc<Write>, std::sync::mpsc::Sender<()>, Arc<Mutex<Vec<Phase>>>) {
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let (gate, phases) = (Mutex::new(gate), Arc::new(Mutex::new(Vec::new())));
        let kept = phases.clone();
        let write = move |_: &Path, bytes: &[u8]| {
            gate.lock().expect("gate").recv().map_err(io::Error::other)?;
            let document: Document = serde_json::from_slice(bytes)?;
            kept.lock().expect("kept").push(document.phase);
            Ok(())
        };
        (Arc::new(write), release, phases)
    }

    #[tokio::test]
    async fn documents_that_come_during_a_write_are_coalesced_and_the_last_is_never_lost() {
        let (write, release, phases) = slow_writer();
        let (sender, receiver) = watch::channel(Arc::new(sample(Phase::WaitingForMetadata)));
        let publisher = tokio::spawn(Publisher::new("status.json".into(), write).run(receiver));
        tokio::task::yield_now().await;
        for phase in [Phase::StartingDaemon, Phase::Joining, Phase::Online] {
            sender.send_replace(Arc::new(sample(phase)));
        }
        drop(sender);
        for _ in 0..2 {
            release.send(()).expect("the writer waits");
        }
        publisher.await.expect("the publisher ends with its sender");
        assert_eq!(*phases.lock().expect("phases"), [Phase::WaitingForMetadata, Phase::Online]);
    }

    #[tokio::test]
    async fn a_failing_disk_does_not_end_the_publisher() {
        let tries = Arc::new(Mutex::new(0));
        let counted = tries.clone();
        let write = move |_: &Path, _: &[u8]| {
            let mut tries = counted.lock().expect("tries");
            *tries += 1;
            if *tries == 1 { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
        };
        let (sender, receiver) = watch::channel(Arc::new(sample(Phase::Joining)));
        let publisher = tokio::spawn(Publisher::new("status.json".into(), Arc::new(write)).run(receiver));
        while *tries.lock().expect("tries") == 0 {
            tokio::task::yield_now().await;
        }
        sender.send_replace(Arc::new(sample(Phase::Online)));
        drop(sender);
        publisher.await.expect("the publisher ends with its sender");
        assert_eq!(*tries.lock().expect("tries"), 2);
    }

    #[tokio::test]
    async fn what_was_published_is_read_back_and_every_user_may_read_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("status.json");
        let (sender, receiver) = watch::channel(Arc::new(sample(Phase::Online)));
        drop(sender);
        Publisher::of_file(path.clone()).run(receiver).await;
        assert_eq!(read(&path).expect("last known").document, sample(Phase::Online));
        let mode = std::fs::metadata(&path).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }

    #[test]
    fn an_absent_or_broken_file_says_which() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("status.json");
        assert!(matches!(read(&path), Err(ReadError::Read { .. })));
        std::fs::write(&path, "{\"version\":").expect("a broken file");
        assert!(matches!(read(&path), Err(ReadError::Decode { .. })));
    }
}
