//! Looking for programs, as a shell would.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where administration programs are that an ordinary user's PATH leaves out.
pub const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where Debian keeps PostgreSQL's programs, a folder a version: in PATH are only those for people.
const POSTGRESQL: &str = "/usr/lib/postgresql";

/// The file that `name` stands for: on PATH, else where the system keeps its programs.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(env::split_paths(SYSTEM_PATH))
        .chain(versions(Path::new(POSTGRESQL)))
        .map(|folder| folder.join(name))
        .find(|file| is_program(file))
}

/// The programs' folders of all versions that are installed.
fn versions(folder: &Path) -> impl Iterator<Item = PathBuf> {
    // Without it, none is installed.
    fs::read_dir(folder).into_iter().flatten().flatten().map(|version| version.path().join("bin"))
}

/// Whether `file` is a file that may be executed.
pub fn is_program(file: &Path) -> bool {
    file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
