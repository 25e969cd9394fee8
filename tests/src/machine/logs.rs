//! The logs of one machine's processes, one file each, in the story's folder.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Numbers them in the order of starting.
#[derive(Debug)]
pub(super) struct Logs {
    folder: PathBuf,
    machine: String,
    count: AtomicUsize,
}

impl Logs {
    /// Logs in `folder`, which is made with the first of them.
    pub(super) fn new(folder: PathBuf, machine: &str) -> Self {
        Self { folder, machine: machine.to_owned(), count: AtomicUsize::new(0) }
    }

    /// A new log for `program`: where it is, and the file; on failure where it should have been.
    pub(super) fn create(&self, program: &str) -> Result<(PathBuf, File), (PathBuf, io::Error)> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{}-{number}-{program}.log", self.machine));
        let made =
            fs::create_dir_all(&self.folder).and_then(|()| File::options().create(true).append(true).open(&path));
        match made {
            Ok(file) => Ok((path, file)),
            Err(error) => Err((path, error)),
        }
    }
}
