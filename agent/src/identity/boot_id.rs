//! What the kernel says of this boot.

use std::io;
use std::path::{Path, PathBuf};

/// Why the boot id could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BootIdError {
    /// The file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file has something else in it.
    #[error("failed to read {path}: it does not contain an id but {found:?}")]
    NoId {
        /// The file.
        path: PathBuf,
        /// The beginning of what it contains.
        found: String,
    },
}

/// The kernel's random id of this boot (random(4)): a UUID in lower case. `told` is what systemd says it is (`%b`, without dashes), where
/// the unit's sandbox hides the kernel's own file. `root` is `/`, or a test's directory.
pub fn boot_id(told: Option<&str>, root: &Path) -> Result<String, BootIdError> {
    if let Some(id) = told.and_then(dashed) {
        return Ok(id);
    }
    let path = root.join("proc/sys/kernel/random/boot_id");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(BootIdError::Read { path, source }),
    };
    let id = text.trim_end();
    let digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c) || c == '-';
    if id.len() == 36 && id.chars().all(digit) {
        return Ok(id.to_owned());
    }
    // Enough to recognise what is there.
    Err(BootIdError::NoId { path, found: id.chars().take(40).collect() })
}

/// An sd-id128(3) as the kernel spells it.
fn dashed(id: &str) -> Option<String> {
    let digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    (id.len() == 32 && id.chars().all(digit))
        .then(|| [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-"))
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
    fn the_boot_id_comes_without_its_newline() {
        let boot = root("proc/sys/kernel/random/boot_id", "0b3c1f0e-1111-4222-8333-444455556666\n");
        assert_eq!(boot_id(None, boot.path()).unwrap(), "0b3c1f0e-1111-4222-8333-444455556666");
    }

    #[test]
    fn systemds_word_is_taken_in_the_kernels_spelling() {
        let nowhere = Path::new("/nonexistent");
        let id = boot_id(Some("0b3c1f0e111142228333444455556666"), nowhere).unwrap();
        assert_eq!(id, "0b3c1f0e-1111-4222-8333-444455556666");
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "uninitialized\n", "0B3C1F0E-1111-4222-8333-444455556666"] {
            let root = root("proc/sys/kernel/random/boot_id", text);
            let error = boot_id(Some("not an id"), root.path()).unwrap_err();
            assert!(matches!(error, BootIdError::NoId { .. }), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named_with_its_cause() {
        let root = tempfile::tempdir().unwrap();
        let text = crate::core::reason::chain(&boot_id(None, root.path()).unwrap_err());
        assert!(text.contains("boot_id: No such file or directory"), "{text}");
    }
}
