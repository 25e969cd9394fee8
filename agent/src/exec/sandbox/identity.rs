//! Who the processes of the sandbox are: root of their own user namespace outside, the caller again inside (user_namespaces(7)).

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};

/// The user who called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    uid: Uid,
    gid: Gid,
}

impl Caller {
    /// This process's effective user and group.
    pub fn effective() -> Self {
        Self { uid: Uid::effective(), gid: Gid::effective() }
    }

    /// Makes the caller root of the user namespace that this process is the first of.
    pub fn become_root(self) -> io::Result<()> {
        map(&format!("0 {} 1", self.gid), &format!("0 {} 1", self.uid))
    }

    /// Makes root the caller again, in another user namespace: with the caller's own ids, and with no power over the sandbox.
    pub fn return_to(self) -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        map(&format!("{} 0 1", self.gid), &format!("{} 0 1", self.uid))
    }
}

fn map(groups: &str, users: &str) -> io::Result<()> {
    match fs::write("/proc/self/setgroups", "deny") {
        // It is denied already in a namespace below one that denies it.
        Err(error) if error.raw_os_error() != Some(Errno::EPERM as i32) => return Err(error),
        _ => {}
    }
    fs::write("/proc/self/gid_map", groups)?;
    fs::write("/proc/self/uid_map", users)
}
