//! The sandbox's own directory, where tailscaled's socket is.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use crate::exec::sandbox::{NOTIFY, RESOLVER, SOCKET};

/// The directory, open: no path of this process's mount namespace leads there.
#[derive(Debug)]
pub(super) struct Directory(OwnedFd);

impl Directory {
    pub fn new(directory: OwnedFd) -> Self {
        Self(directory)
    }

    /// Where LocalAPI listens.
    pub fn socket(&self) -> PathBuf {
        self.path(SOCKET)
    }

    /// Where tailscaled says that it is ready (sd_notify(3)).
    pub fn notify(&self) -> PathBuf {
        self.path(NOTIFY)
    }

    /// tailscaled's resolver configuration, which the command gets.
    pub fn resolver(&self) -> PathBuf {
        self.path(RESOLVER)
    }

    fn path(&self, name: &str) -> PathBuf {
        // /proc/self/fd is open to this process also when it is not dumpable.
        format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()).into()
    }
}
