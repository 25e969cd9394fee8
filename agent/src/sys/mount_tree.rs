//! Mounts moved from one place to another (open_tree(2), move_mount(2), Linux 5.2).
#![expect(unsafe_code, reason = "the calls have no safe wrapper in the libraries used here")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// linux/mount.h; not in libc.
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_long = 0x4;
const MOVE_MOUNT_T_SYMLINKS: libc::c_long = 0x10;

/// A copy of what is mounted, or lies, at a path; attached nowhere.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl Tree {
    /// Copies what is at `path`: it stays the same file, also when what covers it is unmounted.
    pub fn copy(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        // SAFETY: the path is a C string that outlives the call.
        let number = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
        let number = Errno::result(number)?;
        // SAFETY: the kernel just returned this descriptor to us alone.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(number as i32) }))
    }

    /// Mounts the copy on `path`, following symbolic links.
    pub fn attach(self, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS;
        let (from, empty) = (self.0.as_raw_fd(), c"".as_ptr());
        // SAFETY: both paths are C strings that outlive the call, and the descriptor lives as long as `self`.
        let moved = unsafe { libc::syscall(libc::SYS_move_mount, from, empty, libc::AT_FDCWD, path.as_ptr(), flags) };
        Errno::result(moved).map(drop).map_err(io::Error::from)
    }
}
