//! Looking for secrets where none may be: in files, command lines and environments.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::machine::Machine;
use crate::platform::ledger::SecretKind;

/// A secret in a place where none may be. Does not say the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    /// What kind of secret.
    pub kind: SecretKind,
    /// The file that holds it, or the name of another place.
    pub path: PathBuf,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {}", self.kind, self.path.display())
    }
}

/// A search for secrets: what it has found, and how much it has looked at.
#[derive(Debug)]
pub struct Search {
    secrets: Vec<(SecretKind, String)>,
    looked: usize,
    leaks: Vec<Leak>,
}

impl Search {
    /// A search for these secrets, usually those of a [`Ledger`](crate::platform::ledger::Ledger).
    pub fn new(secrets: Vec<(SecretKind, String)>) -> Self {
        Self { secrets, looked: 0, leaks: Vec::new() }
    }

    /// How many files, command lines, environments and texts were read.
    pub fn looked(&self) -> usize {
        self.looked
    }

    /// How many secrets are looked for.
    pub fn secrets(&self) -> usize {
        self.secrets.len()
    }

    /// Whether a secret of this kind is looked for: a search for nothing finds nothing.
    pub fn has(&self, kind: SecretKind) -> bool {
        self.secrets.iter().any(|(known, _)| *known == kind)
    }

    /// What was found.
    pub fn leaks(&self) -> &[Leak] {
        &self.leaks
    }

    /// Reads every regular file under a folder.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn folder(&mut self, folder: &Path) -> Result<()> {
        let failed = || format!("failed to search {}", folder.display());
        for entry in fs::read_dir(folder).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            let kind = entry.file_type().with_context(failed)?;
            if kind.is_dir() {
                self.folder(&entry.path())?;
            } else if kind.is_file() {
                self.file(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Reads the command lines and environments of a machine's processes, which every user of the machine or its owner can see.
    ///
    /// # Errors
    /// When those of a process that has not ended cannot be read.
    pub fn processes(&mut self, machine: &Machine) -> Result<()> {
        self.processes_of(&machine.processes()?)
    }

    /// The same for some processes.
    ///
    /// # Errors
    /// When those of a process that has not ended cannot be read.
    pub fn processes_of(&mut self, pids: &[Pid]) -> Result<()> {
        for pid in pids {
            for file in ["cmdline", "environ"] {
                self.file(Path::new(&format!("/proc/{pid}/{file}")))?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        match fs::read(path) {
            Ok(contents) => {
                self.text(path, &String::from_utf8_lossy(&contents));
                Ok(())
            }
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("failed to search {}", path.display())),
        }
    }

    /// Looks through a text that is in no file; `path` is what a leak calls it.
    pub fn text(&mut self, path: &Path, text: &str) {
        self.looked += 1;
        for (kind, secret) in &self.secrets {
            if text.contains(secret.as_str()) {
                self.leaks.push(Leak { kind: *kind, path: path.to_owned() });
            }
        }
    }
}

/// A file that was removed, or a process that has ended (ESRCH), since it was listed.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_secret_is_found_in_any_depth_and_not_told() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let deep = folder.path().join("a/b");
        fs::create_dir_all(&deep).expect("an empty folder");
        fs::write(deep.join("log"), "key=tskey-canary\n").expect("a writable folder");
        fs::write(folder.path().join("clean"), [0xff, 0xfe]).expect("a writable folder");
        let mut search = Search::new(vec![(SecretKind::AuthKey, "tskey-canary".to_owned())]);
        search.folder(folder.path()).expect("readable files");
        assert_eq!(search.leaks(), [Leak { kind: SecretKind::AuthKey, path: deep.join("log") }]);
        assert_eq!(search.looked(), 2);
        assert!(!search.leaks()[0].to_string().contains("canary"));
    }
}
