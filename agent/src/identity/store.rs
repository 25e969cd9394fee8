//! The record on disk: `state.json` in the state directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::task::JoinError;

use super::directory::{self, DirectoryError};
use super::{Loaded, Record, Store, Trouble};
use crate::core::reason::{Code, Fault, Reasoned, chain};
use crate::files::{ReadError, WriteError, read_owned, remove_temporaries, sync_directory, write_atomic};

/// The version of `state.json` that this agent writes; an older agent sets a newer one aside.
const VERSION: u32 = 1;

/// Far more than a record needs: a spec of at most 16 tags, a few ids and a handful of times.
const SIZE_MAX: u64 = 64 * 1024;

/// The record with its version, as it stands in the file.
#[derive(Serialize)]
struct Envelope<'a> {
    version: u32,
    #[serde(flatten)]
    record: &'a Record,
}

/// The version alone, read first: what else a newer file holds is not for this agent to judge.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Why `state.json` says nothing.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("failed to parse {path}")]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("{path} has version {version}, and this agent knows {VERSION}")]
    Version { path: PathBuf, version: u32 },
}

/// Why the record was not written; the old file is intact.
#[derive(Debug, thiserror::Error)]
enum SaveError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("failed to encode the state")]
    Encode(#[from] serde_json::Error),
    #[error("failed to finish writing the state")]
    Task(#[from] JoinError),
}

impl Reasoned for SaveError {
    fn code(&self) -> Code {
        Code::StateUnwritable
    }
}

/// The record of one agent, in a directory of its own.
///
/// The caller holds the directory's [`StateLock`](super::lock::StateLock), so this is the one writer.
#[derive(Clone, Debug)]
pub struct FileStore {
    dir: PathBuf,
    uid: u32,
    /// Held while a write is under way, also by one whose caller has gone; fair, so that the last record saved is the last written.
    writing: Arc<Mutex<()>>,
}

impl FileStore {
    /// The store in `dir`, which the user `uid` must own. Nothing is touched before the first load or save, so a bad disk stops nobody.
    pub fn new(dir: impl Into<PathBuf>, uid: u32) -> Self {
        Self { dir: dir.into(), uid, writing: Arc::default() }
    }

    fn file(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    fn read(&self) -> Result<Record, LoadError> {
        directory::ensure(&self.dir, self.uid)?;
        let path = self.file();
        sweep(&path);
        let bytes = match read_owned(&path, SIZE_MAX, self.uid) {
            Err(error) if error.is_missing() => return Ok(Record::default()),
            read => read?,
        };
        parse(&path, &bytes)
    }

    fn write(&self, record: &Record) -> Result<(), SaveError> {
        // The directory may have come back since the start.
        directory::ensure(&self.dir, self.uid)?;
        let bytes = serde_json::to_vec(&Envelope { version: VERSION, record })?;
        Ok(write_atomic(&self.file(), &bytes, 0o600)?)
    }

    async fn write_aside_of_the_loop(&self, record: Record) -> Result<(), SaveError> {
        let turn = Arc::clone(&self.writing).lock_owned().await;
        let store = self.clone();
        // A sync can take seconds on a busy disk; the loop must answer meanwhile.
        let write = tokio::task::spawn_blocking(move || {
            let outcome = store.write(&record);
            drop(turn);
            outcome
        });
        write.await?
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Record, LoadError> {
    let failed = |source| LoadError::Parse { path: path.into(), source };
    let Versioned { version } = serde_json::from_slice(bytes).map_err(failed)?;
    if version != VERSION {
        return Err(LoadError::Version { path: path.into(), version });
    }
    serde_json::from_slice(bytes).map_err(failed)
}

impl LoadError {
    /// Whether moving the file away makes room without losing what a repaired disk or permission would give back.
    fn is_about_the_file(&self) -> bool {
        match self {
            Self::Directory(_) | Self::Read(ReadError::Read { .. }) => false,
            // A symbolic link in its place; other failures to open are the system's.
            Self::Read(ReadError::Open { source, .. }) => source.raw_os_error() == Some(nix::libc::ELOOP),
            Self::Read(ReadError::Refused { .. }) | Self::Parse { .. } | Self::Version { .. } => true,
        }
    }
}

/// An earlier agent that was killed while it wrote has left a temporary file; one that stays harms nobody.
fn sweep(path: &Path) {
    if let Err(error) = remove_temporaries(path) {
        tracing::warn!("failed to remove temporary files beside {}: {error}", path.display());
    }
}

/// Moves the file aside, over one set aside before: one is kept.
fn set_aside(path: &Path) -> String {
    let aside = path.with_extension("json.set-aside");
    match fs::rename(path, &aside).and_then(|()| sync_directory(path)) {
        Ok(()) => format!("it is now {}", aside.display()),
        Err(error) => format!("failed to rename it to {}: {error}", aside.display()),
    }
}

#[async_trait]
impl Store for FileStore {
    fn load(&self) -> Loaded {
        let error = match self.read() {
            Ok(record) => return Loaded { record, trouble: None },
            Err(error) => error,
        };
        let trouble = if error.is_about_the_file() {
            Trouble::SetAside(format!("{}; {}", chain(&error), set_aside(&self.file())))
        } else {
            Trouble::Unreadable(chain(&error))
        };
        Loaded { record: Record::default(), trouble: Some(trouble) }
    }

    async fn save(&self, record: &Record) -> Result<(), Fault> {
        self.write_aside_of_the_loop(record.clone()).await.map_err(|error| Fault::from(&error))
    }
}

#[cfg(test)]
mod tests;
