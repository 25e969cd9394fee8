//! The state directory: made when it is missing, and used only when it is this agent's own.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It is missing and cannot be made.
    #[error("failed to create the state directory {path}")]
    Create {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It cannot be looked at.
    #[error("failed to inspect the state directory {path}")]
    Inspect {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Something else has its name; a symbolic link counts as something else.
    #[error("refused to use {path} for state: it is not a directory")]
    NotDirectory {
        /// The path.
        path: PathBuf,
    },
    /// Others could put files of their own there.
    #[error(
        "refused to use {path} for state: it belongs to uid {owner} with mode {mode:04o}; it must be uid {expected}'s and writable by nobody else"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Its permission bits.
        mode: u32,
        /// Whose it should be.
        expected: u32,
    },
}

/// Makes sure of the state directory `path` of the user `uid`: mode 0700 when it is made here.
pub fn ensure(path: &Path, uid: u32) -> Result<(), DirectoryError> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(path)?;
            fs::symlink_metadata(path)
        }
        found => found,
    };
    let metadata = metadata.map_err(|source| DirectoryError::Inspect { path: path.into(), source })?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if !metadata.is_dir() {
        Err(DirectoryError::NotDirectory { path: path.into() })
    } else if owner != uid || mode & 0o022 != 0 {
        Err(DirectoryError::Foreign { path: path.into(), owner, mode, expected: uid })
    } else {
        Ok(())
    }
}

fn create(path: &Path) -> Result<(), DirectoryError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| DirectoryError::Create { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn uid() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    #[test]
    fn a_missing_directory_is_made_for_its_user_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lib/devbox-agent");
        ensure(&path, uid()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        ensure(&path, uid()).unwrap();
    }

    #[test]
    fn a_directory_that_others_could_fill_is_refused() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(ensure(root.path(), uid() + 1), Err(DirectoryError::Foreign { .. })));
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o770)).unwrap();
        let error = ensure(root.path(), uid()).unwrap_err();
        assert!(error.to_string().contains("with mode 0770"), "{error}");
    }

    #[test]
    fn a_link_or_a_file_in_its_place_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(root.path(), &link).unwrap();
        assert!(matches!(ensure(&link, uid()), Err(DirectoryError::NotDirectory { .. })));
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(ensure(&file, uid()), Err(DirectoryError::NotDirectory { .. })));
        assert!(matches!(ensure(&file.join("state"), uid()), Err(DirectoryError::Inspect { .. })));
    }
}
