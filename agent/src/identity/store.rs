//! The record on disk: `state.json` in the state directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::task::JoinError;

use super::directory::{self, DirectoryError};
use super::{Loaded, Record, Store};
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
            Ok(record) => return Loaded { record, set_aside: None },
            Err(error) => error,
        };
        let outcome = if error.is_about_the_file() {
            set_aside(&self.file())
        } else {
            "it was left where it is; this run starts without it".into()
        };
        Loaded { record: Record::default(), set_aside: Some(format!("{}; {outcome}", chain(&error))) }
    }

    async fn save(&self, record: &Record) -> Result<(), Fault> {
        self.write_aside_of_the_loop(record.clone()).await.map_err(|error| Fault::from(&error))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::prelude::*;

    use super::*;
    use crate::clock::BootTime;
    use crate::identity::record::RememberedPace;

    fn uid() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn store() -> (tempfile::TempDir, FileStore) {
        let root = tempfile::tempdir().unwrap();
        let store = FileStore::new(root.path().join("state"), uid());
        (root, store)
    }

    /// A store whose file has these bytes, as an agent would have left them.
    fn store_with(bytes: &[u8]) -> (tempfile::TempDir, FileStore) {
        let (root, store) = store();
        directory::ensure(&store.dir, uid()).unwrap();
        write_atomic(&store.file(), bytes, 0o600).unwrap();
        (root, store)
    }

    fn record(id: &str) -> Record {
        let not_before =
            [("mint".to_owned(), RememberedPace { at: BootTime(7_000), attempts: 2, asked: false, fault: None })]
                .into();
        Record { instance_id: Some(id.into()), boot_id: "b".into(), not_before, ..Record::default() }
    }

    fn names(store: &FileStore) -> Vec<String> {
        let entries = fs::read_dir(&store.dir).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Loads, and expects that the file was set aside for a reason with these words.
    fn expect_set_aside(store: &FileStore, words: &str) {
        let loaded = store.load();
        let said = loaded.set_aside.expect("the file is set aside");
        assert!(said.contains(words) && said.contains("; it is now "), "{said}");
        assert_eq!(loaded.record, Record::default());
        assert_eq!(names(store), ["state.json.set-aside"]);
        assert_eq!(store.load(), Loaded::default());
    }

    #[tokio::test]
    async fn a_record_survives_a_restart_in_a_versioned_file_of_its_user_alone() {
        let (_root, store) = store();
        assert_eq!(store.load(), Loaded::default());
        store.save(&record("i-1")).await.unwrap();
        store.save(&record("i-2")).await.unwrap();
        assert_eq!(store.load(), Loaded { record: record("i-2"), set_aside: None });
        let text = fs::read_to_string(store.file()).unwrap();
        assert!(text.starts_with(r#"{"version":1,"instance_id":"i-2","#), "{text}");
        assert_eq!(fs::metadata(store.file()).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(names(&store), ["state.json"]);
    }

    #[tokio::test]
    async fn what_cannot_be_parsed_is_set_aside_and_the_agent_goes_on() {
        let whole = br#"{"version":1,"instance_id":"i-1"}"#;
        for bytes in [
            &b""[..],
            b"bad json",
            b"[]",
            b"\xff\xfe",
            br#"{"instance_id":"i-1"}"#,
            &whole[..20],
            br#"{"version":1,"desired":3}"#,
        ] {
            let (_root, store) = store_with(bytes);
            expect_set_aside(&store, "failed to parse ");
            store.save(&record("i-1")).await.unwrap();
            assert_eq!(store.load().record, record("i-1"));
        }
    }

    #[test]
    fn a_newer_version_is_kept_for_the_newer_agent() {
        let newer = br#"{"version":2,"instance_id":{"changed":"shape"}}"#;
        let (_root, store) = store_with(newer);
        expect_set_aside(&store, "has version 2, and this agent knows 1");
        assert_eq!(fs::read(store.dir.join("state.json.set-aside")).unwrap(), newer);
    }

    #[test]
    fn fields_of_a_later_agent_with_the_same_version_are_tolerated() {
        let (_root, store) = store_with(br#"{"version":1,"instance_id":"i-1","later":[1]}"#);
        assert_eq!(store.load().record.instance_id.as_deref(), Some("i-1"));
    }

    #[test]
    fn a_huge_file_is_set_aside_unread() {
        let (_root, store) = store_with(b"");
        fs::OpenOptions::new().write(true).open(store.file()).unwrap().set_len(1 << 30).unwrap();
        expect_set_aside(&store, "it is 1073741824 bytes long, more than 65536");
    }

    #[test]
    fn a_link_or_a_file_that_others_may_write_is_set_aside_and_nothing_behind_it_is_read() {
        let (root, store) = store_with(b"");
        let target = root.path().join("elsewhere");
        write_atomic(&target, br#"{"version":1,"instance_id":"planted"}"#, 0o600).unwrap();
        fs::remove_file(store.file()).unwrap();
        symlink(&target, store.file()).unwrap();
        expect_set_aside(&store, "Too many levels of symbolic links");
        assert!(target.exists());
        fs::remove_file(store.dir.join("state.json.set-aside")).unwrap();
        write_atomic(&store.file(), br#"{"version":1}"#, 0o666).unwrap();
        expect_set_aside(&store, "group or others may write to it");
    }

    #[test]
    fn only_the_last_file_set_aside_is_kept() {
        let (_root, store) = store_with(b"first");
        store.load();
        write_atomic(&store.file(), b"second", 0o600).unwrap();
        expect_set_aside(&store, "failed to parse ");
        assert_eq!(fs::read(store.dir.join("state.json.set-aside")).unwrap(), b"second");
    }

    #[test]
    fn what_cannot_be_opened_is_said_and_left() {
        let (_root, store) = store();
        directory::ensure(&store.dir, uid()).unwrap();
        // Opening a socket fails (ENXIO), also for root, whom permissions do not stop.
        let _listener = std::os::unix::net::UnixListener::bind(store.file()).unwrap();
        let said = store.load().set_aside.unwrap();
        assert!(said.contains("failed to open ") && said.ends_with("this run starts without it"), "{said}");
        assert_eq!(names(&store), ["state.json"]);
    }

    #[test]
    fn a_file_that_cannot_be_moved_is_said_too() {
        let (_root, store) = store_with(b"bad json");
        fs::create_dir_all(store.dir.join("state.json.set-aside/full")).unwrap();
        let said = store.load().set_aside.unwrap();
        assert!(said.contains("failed to parse ") && said.contains("; failed to rename it to "), "{said}");
    }

    #[tokio::test]
    async fn a_directory_of_somebody_else_is_neither_read_nor_written() {
        let (_root, store) = store_with(br#"{"version":1,"instance_id":"planted"}"#);
        let other = FileStore::new(&store.dir, uid() + 1);
        let loaded = other.load();
        assert_eq!(loaded.record, Record::default());
        assert!(loaded.set_aside.unwrap().contains("refused to use "));
        let fault = other.save(&record("i-1")).await.unwrap_err();
        assert_eq!(fault.code, Code::StateUnwritable);
        assert_eq!(store.load().record.instance_id.as_deref(), Some("planted"));
    }

    #[tokio::test]
    async fn a_directory_that_takes_nothing_is_a_fault_with_path_and_cause() {
        // procfs takes no new directory, also not from root.
        let store = FileStore::new("/proc/self/devbox-agent", uid());
        let fault = store.save(&record("i-1")).await.unwrap_err();
        assert_eq!(fault.code, Code::StateUnwritable);
        let start = "failed to create the state directory /proc/self/devbox-agent: ";
        assert!(fault.detail.starts_with(start) && fault.detail.len() > start.len(), "{}", fault.detail);
    }

    #[tokio::test]
    async fn a_failed_save_leaves_no_temporary_and_the_next_one_heals() {
        let (_root, store) = store();
        let obstacle = store.file().join("full");
        fs::create_dir_all(&obstacle).unwrap();
        fs::set_permissions(&store.dir, fs::Permissions::from_mode(0o700)).unwrap();
        let fault = store.save(&record("i-1")).await.unwrap_err();
        assert!(fault.detail.starts_with("failed to replace "), "{}", fault.detail);
        assert_eq!(names(&store), ["state.json"]);
        fs::remove_dir(&obstacle).and_then(|()| fs::remove_dir(store.file())).unwrap();
        store.save(&record("i-1")).await.unwrap();
        assert_eq!(store.load().record, record("i-1"));
    }

    #[tokio::test]
    async fn a_read_only_file_is_replaced() {
        let (_root, store) = store_with(br#"{"version":1}"#);
        fs::set_permissions(store.file(), fs::Permissions::from_mode(0o400)).unwrap();
        store.save(&record("i-1")).await.unwrap();
        assert_eq!(store.load().record, record("i-1"));
    }

    #[tokio::test]
    async fn a_save_whose_caller_has_gone_does_not_overtake_the_next() {
        let (_root, store) = store();
        for round in 0..20 {
            let (old, new) = (record("old"), record(&format!("new-{round}")));
            {
                let mut abandoned = store.save(&old);
                assert!(is_pending_once(abandoned.as_mut()).await);
            }
            store.save(&new).await.unwrap();
            assert_eq!(store.load().record, new);
        }
    }

    /// Polls once; whether the future is still pending.
    async fn is_pending_once<T>(mut future: std::pin::Pin<&mut (dyn Future<Output = T> + Send + '_)>) -> bool {
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_pending())).await
    }

    #[test]
    fn temporaries_of_a_killed_agent_are_gone_after_the_next_start() {
        let (_root, store) = store_with(br#"{"version":1}"#);
        fs::write(store.dir.join(".state.json.1-0.tmp"), "half").unwrap();
        store.load();
        assert_eq!(names(&store), ["state.json"]);
    }

    proptest! {
        // Each case syncs files.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_are_a_record_or_set_aside(bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            "\\{\"version\":[0-3],\"(desired|not_before|boot_id)\":(\"left\"|\\{\\}|-?[0-9]{1,3})\\}".prop_map(String::into_bytes),
        ]) {
            let (_root, store) = store_with(&bytes);
            let loaded = store.load();
            prop_assert_eq!(loaded.set_aside.is_some(), !store.file().exists());
            if loaded.set_aside.is_some() {
                prop_assert_eq!(loaded.record, Record::default());
                prop_assert_eq!(fs::read(store.dir.join("state.json.set-aside")).unwrap(), bytes);
            }
        }
    }
}
