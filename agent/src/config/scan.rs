//! Finds the drop-ins and reads them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::fragment::{self, Fragment};
use super::problem::Problem;
use crate::files::read_trusted;

/// Far more than a configuration file has; keeps a device or a runaway file out of memory.
const FILE_MAX: u64 = 256 * 1024;

/// The files `*.toml` of the directories, sorted by file name; a same name in a later directory replaces, as systemd does.
///
/// A directory that does not exist is empty; hidden files are skipped, as a shell's `*.toml` does.
pub fn drop_ins(directories: &[PathBuf], problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let mut files = BTreeMap::new();
    for directory in directories {
        match list(directory) {
            Ok(names) => files.extend(names.into_iter().map(|name| (name.clone(), directory.join(name)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => problems.push(Problem::Directory { path: directory.clone(), source }),
        }
    }
    files.into_values().collect()
}

fn list(directory: &Path) -> io::Result<Vec<OsString>> {
    let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    Ok(names.into_iter().filter(|name| is_drop_in(name.as_encoded_bytes())).collect())
}

fn is_drop_in(name: &[u8]) -> bool {
    name.ends_with(b".toml") && !name.starts_with(b".")
}

/// Reads a drop-in that belongs to one of `owners`; one that others could have written is refused.
pub fn read(path: &Path, owners: &[u32], problems: &mut Vec<Problem>) -> Fragment {
    let bytes = match read_trusted(path, FILE_MAX, owners) {
        Ok(bytes) => bytes,
        Err(error) => {
            problems.push(error.into());
            return Fragment::default();
        }
    };
    match std::str::from_utf8(&bytes) {
        Ok(text) => fragment::parse(path, text, problems),
        Err(source) => {
            problems.push(Problem::Encoding { path: path.into(), source });
            Fragment::default()
        }
    }
}
