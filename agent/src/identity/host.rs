//! What the kernel and the system say of this machine and this boot.

use std::io;
use std::path::{Path, PathBuf};

/// Why an id of the system could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file has something else in it; an image that was sealed has `uninitialized` until its first boot.
    #[error("failed to read {path}: it does not contain an id but {found:?}")]
    NoId {
        /// The file.
        path: PathBuf,
        /// The beginning of what it contains.
        found: String,
    },
}

/// The kernel's random id of this boot (random(4)): a UUID in lower case. `root` is `/`, or a test's directory.
pub fn boot_id(root: &Path) -> Result<String, HostError> {
    read_id(root.join("proc/sys/kernel/random/boot_id"), |c| c == '-', 36)
}

/// The id that this installation got at its first boot (machine-id(5)): 32 hexadecimal digits. `root` is `/`, or a test's directory.
pub fn machine_id(root: &Path) -> Result<String, HostError> {
    read_id(root.join("etc/machine-id"), |_| false, 32)
}

fn read_id(path: PathBuf, separator: fn(char) -> bool, length: usize) -> Result<String, HostError> {
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(HostError::Read { path, source }),
    };
    let id = text.trim_end();
    let digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c) || separator(c);
    if id.len() == length && id.chars().all(digit) {
        return Ok(id.to_owned());
    }
    // Enough to recognise what is there.
    Err(HostError::NoId { path, found: id.chars().take(40).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(file: &str, text: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        root
    }

    #[test]
    fn both_ids_come_without_their_newline() {
        let boot = root("proc/sys/kernel/random/boot_id", "0b3c1f0e-1111-4222-8333-444455556666\n");
        assert_eq!(boot_id(boot.path()).unwrap(), "0b3c1f0e-1111-4222-8333-444455556666");
        let machine = root("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        assert_eq!(machine_id(machine.path()).unwrap(), "0123456789abcdef0123456789abcdef");
    }

    #[test]
    fn a_sealed_image_has_no_machine_id_yet() {
        for text in ["uninitialized\n", "", "0123456789ABCDEF0123456789abcdef"] {
            let root = root("etc/machine-id", text);
            let error = machine_id(root.path()).unwrap_err();
            assert!(matches!(error, HostError::NoId { .. }), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named_with_its_cause() {
        let root = tempfile::tempdir().unwrap();
        let text = crate::core::reason::chain(&boot_id(root.path()).unwrap_err());
        assert!(text.contains("boot_id: No such file or directory"), "{text}");
    }
}
