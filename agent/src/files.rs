//! Files that matter: replaced as a whole, and read only when nobody else could have written them.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// `open` failed; with `O_NOFOLLOW` a symbolic link is ELOOP.
    #[error("failed to open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// `fstat` or `read` failed.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file could be read, and was not.
    #[error("refused to read {path}: {defect}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// What speaks against it.
        defect: Defect,
    },
}

impl ReadError {
    /// Whether there is no such file: for most callers not an error.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// What speaks against a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// A directory, FIFO, socket or device.
    #[error("it is not a regular file")]
    NotRegular,
    /// Somebody else could change it at any time.
    #[error("it belongs to uid {owner}; chown it to uid {expected}")]
    Owner {
        /// Whose it is.
        owner: u32,
        /// Whose it should be.
        expected: u32,
    },
    /// Mode bits 0022 are not clear.
    #[error("group or others may write to it (mode {mode:04o}); chmod go-w")]
    Writable {
        /// The permission bits.
        mode: u32,
    },
    /// It has a second name, perhaps in a directory of somebody else.
    #[error("it has {links} hard links")]
    Linked {
        /// `st_nlink`.
        links: u64,
    },
    /// It is larger than such a file can be.
    #[error("it is {size} bytes long, more than {max}")]
    TooLarge {
        /// The size, in bytes.
        size: u64,
        /// The cap, in bytes.
        max: u64,
    },
}

/// Why a file was not replaced; the old one is intact unless only the directory could not be synced.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The directory takes no new file.
    #[error("failed to create a temporary file beside {path}")]
    Create {
        /// The file to be replaced.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The new content did not reach the disk.
    #[error("failed to write {path}")]
    Write {
        /// The file to be replaced.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The new file could not take the old one's place.
    #[error("failed to replace {path}")]
    Replace {
        /// The file to be replaced.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The replacement may be lost when power fails.
    #[error("failed to sync the directory of {path}")]
    Sync {
        /// The file that was replaced.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Reads a file of this program's own: a regular file that belongs to `owner_uid`, that nobody else may write, with one name.
///
/// At most `max_bytes` are read; a larger file is [`Defect::TooLarge`] without being read at all.
pub fn read_owned(path: &Path, max_bytes: u64, owner_uid: u32) -> Result<Vec<u8>, ReadError> {
    read_checked(path, max_bytes, &[owner_uid], true)
}

/// Reads a file that an administrator or a package put there: as [`read_owned`], but with a choice of owners and any number of names.
///
/// Image-based systems hard-link the files of `/usr` into their object store, so a second name says nothing here.
pub fn read_trusted(path: &Path, max_bytes: u64, owner_uids: &[u32]) -> Result<Vec<u8>, ReadError> {
    read_checked(path, max_bytes, owner_uids, false)
}

fn read_checked(path: &Path, max: u64, owners: &[u32], one_name: bool) -> Result<Vec<u8>, ReadError> {
    // O_NONBLOCK: opening a FIFO that somebody put there must not hang.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(path)
        .map_err(|source| ReadError::Open { path: path.into(), source })?;
    let read = |source| ReadError::Read { path: path.into(), source };
    let refused = |defect| ReadError::Refused { path: path.into(), defect };
    if let Some(defect) = defect(&file.metadata().map_err(read)?, max, owners, one_name) {
        return Err(refused(defect));
    }
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(read)?;
    // It grew since it was measured.
    let size = bytes.len() as u64;
    if size > max { Err(refused(Defect::TooLarge { size, max })) } else { Ok(bytes) }
}

fn defect(metadata: &fs::Metadata, max: u64, owners: &[u32], one_name: bool) -> Option<Defect> {
    let mode = metadata.mode() & 0o7777;
    if !metadata.is_file() {
        Some(Defect::NotRegular)
    } else if !owners.contains(&metadata.uid()) {
        Some(Defect::Owner { owner: metadata.uid(), expected: owners.first().copied().unwrap_or(0) })
    } else if mode & 0o022 != 0 {
        Some(Defect::Writable { mode })
    } else if one_name && metadata.nlink() != 1 {
        Some(Defect::Linked { links: metadata.nlink() })
    } else if metadata.len() > max {
        Some(Defect::TooLarge { size: metadata.len(), max })
    } else {
        None
    }
}

/// Replaces `path` by a file with these bytes and this mode: a reader, also one after a power loss, sees the old content or the new.
///
/// A new file without both syncs was empty after a crash, even with the rename (measured on ext4). Blocks for the syncs.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), WriteError> {
    let create = |source| WriteError::Create { path: path.into(), source };
    let (mut file, temporary) = Temporary::create(path).map_err(create)?;
    fill(&mut file, bytes, mode).map_err(|source| WriteError::Write { path: path.into(), source })?;
    temporary.rename(path).map_err(|source| WriteError::Replace { path: path.into(), source })?;
    sync_directory(path).map_err(|source| WriteError::Sync { path: path.into(), source })
}

fn fill(file: &mut File, bytes: &[u8], mode: u32) -> io::Result<()> {
    file.write_all(bytes)?;
    // Not at creation: there the umask would have its say.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Makes a rename in the directory of `path` last.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

/// Removes temporary files that a [`write_atomic`] of `path` left when its process was killed.
///
/// Only for the one writer of `path`: another's temporary would go too.
pub fn remove_temporaries(path: &Path) -> io::Result<()> {
    let start = prefix(path)?;
    for entry in fs::read_dir(directory(path))? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(start.as_encoded_bytes()) && name.as_encoded_bytes().ends_with(b".tmp") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn prefix(path: &Path) -> io::Result<OsString> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    Ok([OsStr::new("."), name, OsStr::new(".")].into_iter().collect())
}

/// A file under a name of its own that is removed unless it takes its place.
struct Temporary {
    path: PathBuf,
    placed: bool,
}

/// More than one process can ever leave behind between two starts; each leaves at most a few.
const NAMES_TRIED: u32 = 256;

impl Temporary {
    /// The name has the pid and a count; in a container the pid is the same each time, so a left-over name is passed over.
    fn create(target: &Path) -> io::Result<(File, Self)> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let start = prefix(target)?;
        let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
        for _ in 0..NAMES_TRIED {
            let mut name = start.clone();
            name.push(format!("{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
            let path = directory(target).join(name);
            // `create_new` is O_EXCL, which follows no link in the last component either.
            match OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(O_NOFOLLOW).open(&path) {
                Ok(file) => return Ok((file, Self { path, placed: false })),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn rename(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            // The write's own error is the one to report; a name that stays is removed by `remove_temporaries`.
            drop(fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn refusal(path: &Path) -> Defect {
        match read_owned(path, 100, uid()) {
            Err(ReadError::Refused { defect, .. }) => defect,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn a_written_file_reads_back_with_its_mode_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_atomic(&path, b"old", 0o600).unwrap();
        write_atomic(&path, b"new", 0o644).unwrap();
        assert_eq!(read_owned(&path, 3, uid()).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        assert_eq!(names(dir.path()), ["state.json"]);
    }

    #[test]
    fn a_failed_replacement_keeps_the_old_content_and_removes_the_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir_all(path.join("by a directory")).unwrap();
        let error = write_atomic(&path, b"new", 0o600).unwrap_err();
        assert!(matches!(error, WriteError::Replace { .. }), "{error:?}");
        assert_eq!(names(dir.path()), ["taken"]);
    }

    #[test]
    fn a_write_into_a_missing_directory_names_file_and_cause() {
        let dir = tempfile::tempdir().unwrap();
        let error = write_atomic(&dir.path().join("gone/file"), b"", 0o600).unwrap_err();
        let text = crate::core::reason::chain(&error);
        assert!(text.starts_with("failed to create a temporary file beside /"), "{text}");
        assert!(text.contains("gone/file: No such file or directory"), "{text}");
    }

    #[test]
    fn a_link_is_replaced_and_its_target_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write_atomic(&link, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"precious");
        assert_eq!(read_owned(&link, 10, uid()).unwrap(), b"new");
    }

    #[test]
    fn what_others_could_have_written_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_atomic(&path, b"x", 0o620).unwrap();
        assert_eq!(refusal(&path), Defect::Writable { mode: 0o620 });
        write_atomic(&path, b"x", 0o600).unwrap();
        fs::hard_link(&path, dir.path().join("second")).unwrap();
        assert_eq!(refusal(&path), Defect::Linked { links: 2 });
        assert_eq!(read_trusted(&path, 1, &[uid()]).unwrap(), b"x");
        let foreign = read_owned(&path, 1, uid() + 1).unwrap_err();
        assert!(foreign.to_string().ends_with(&format!("it belongs to uid {}; chown it to uid {}", uid(), uid() + 1)));
    }

    #[test]
    fn what_is_no_file_of_that_size_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(refusal(dir.path()), Defect::NotRegular);
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(refusal(&fifo), Defect::NotRegular);
        let large = dir.path().join("large");
        File::create(&large).unwrap().set_len(1 << 30).unwrap();
        fs::set_permissions(&large, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(refusal(&large), Defect::TooLarge { size: 1 << 30, max: 100 });
    }

    #[test]
    fn a_link_is_not_followed_and_a_missing_file_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        let error = read_owned(&link, 1 << 20, uid()).unwrap_err();
        assert!(matches!(error, ReadError::Open { .. }) && !error.is_missing(), "{error:?}");
        assert!(read_owned(&dir.path().join("none"), 1, uid()).unwrap_err().is_missing());
    }

    #[test]
    fn temporaries_of_a_killed_writer_go_and_other_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".state.json.1-0.tmp", ".state.json.7-3.tmp", ".other.1-0.tmp", "state.json"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        remove_temporaries(&dir.path().join("state.json")).unwrap();
        assert_eq!(names(dir.path()), [".other.1-0.tmp", "state.json"]);
    }
}
