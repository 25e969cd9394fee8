//! One agent to a state directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc::O_NOFOLLOW;

use super::directory::{self, DirectoryError};

/// Why the state directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent runs on it.
    #[error(
        "failed to lock {path}: another devbox-agent ({holder}) uses this state directory; stop it, or set [paths] state"
    )]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Who holds it.
        holder: Holder,
    },
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The lock file cannot be opened, locked or written.
    #[error("failed to lock {path}")]
    Unavailable {
        /// The lock file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Who holds a lock, as its file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The pid, unless the holder has not written it yet.
    pub pid: Option<u32>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "pid {pid}"),
            None => f.write_str("just starting"),
        }
    }
}

/// The lock on a state directory, held until it is dropped; the kernel drops it when the process ends in any way.
///
/// The file stays: removing it would let a third agent lock a new file while a second one waits on the old.
#[derive(Debug)]
pub struct StateLock {
    file: File,
}

impl StateLock {
    /// Locks the state directory `dir` of the user `uid` (`flock`, exclusive) or says at once who holds it.
    pub fn acquire(dir: &Path, uid: u32) -> Result<Self, LockError> {
        directory::ensure(dir, uid)?;
        let path = dir.join("lock");
        let mut file = open(&path).map_err(|source| LockError::Unavailable { path: path.clone(), source })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held { holder: holder(&mut file), path }),
            Err(TryLockError::Error(source)) => return Err(LockError::Unavailable { path, source }),
        }
        let lock = Self { file };
        lock.sign().map_err(|source| LockError::Unavailable { path, source })?;
        Ok(lock)
    }

    fn sign(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        (&self.file).write_all(format!("{}\n", std::process::id()).as_bytes())
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Not truncated: until the lock is ours, the file says who has it.
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(O_NOFOLLOW).open(path)
}

fn holder(file: &mut File) -> Holder {
    let mut text = String::new();
    // Ten digits and a newline. A file that cannot be read names nobody, and the lock is held all the same.
    match file.take(11).read_to_string(&mut text) {
        Ok(_) => Holder { pid: text.trim().parse().ok() },
        Err(_) => Holder { pid: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    #[test]
    fn a_second_agent_is_told_who_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateLock::acquire(dir.path(), uid()).unwrap();
        let error = StateLock::acquire(dir.path(), uid()).unwrap_err();
        let pid = std::process::id();
        assert!(
            matches!(error, LockError::Held { holder: Holder { pid: Some(found) }, .. } if found == pid),
            "{error}"
        );
        assert!(error.to_string().contains(&format!("another devbox-agent (pid {pid})")), "{error}");
        drop(first);
        StateLock::acquire(dir.path(), uid()).unwrap();
    }

    #[test]
    fn a_lock_file_left_by_a_killed_agent_does_not_hold() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("lock"), "4194304000000 something longer\n").unwrap();
        let lock = StateLock::acquire(dir.path(), uid()).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("lock")).unwrap(), format!("{}\n", std::process::id()));
        drop(lock);
    }

    #[test]
    fn a_holder_that_has_not_signed_yet_is_still_a_holder() {
        let dir = tempfile::tempdir().unwrap();
        let held = File::create(dir.path().join("lock")).unwrap();
        held.lock().unwrap();
        let error = StateLock::acquire(dir.path(), uid()).unwrap_err();
        assert!(error.to_string().contains("(just starting)"), "{error}");
    }

    #[test]
    fn a_link_in_place_of_the_lock_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("precious");
        std::fs::write(&target, "content").unwrap();
        std::os::unix::fs::symlink(&target, dir.path().join("lock")).unwrap();
        let error = StateLock::acquire(dir.path(), uid()).unwrap_err();
        assert!(matches!(error, LockError::Unavailable { .. }), "{error:?}");
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "content");
    }

    #[test]
    fn a_directory_of_somebody_else_is_not_locked() {
        let dir = tempfile::tempdir().unwrap();
        let error = StateLock::acquire(dir.path(), uid() + 1).unwrap_err();
        assert!(matches!(error, LockError::Directory(_)), "{error:?}");
        assert!(!dir.path().join("lock").exists());
    }
}
