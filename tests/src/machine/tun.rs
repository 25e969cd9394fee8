//! The TUN device node: whether it can be opened, and one of our own where it cannot.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// Where Linux programs look for the device.
const NODE: &str = "/dev/net/tun";
/// The device's number (Documentation/admin-guide/devices.txt: misc 10, minor 200).
const NUMBER: (u64, u64) = (10, 200);

/// Why there is no TUN device to use.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// A step of making our own node failed; needs root in the initial user namespace.
    #[error("failed to {what} {}: is this root, and may it make device nodes?", path.display())]
    OwnNode {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Opens the device for reading and writing and closes it again: the only sure test, as mode, owner,
/// device cgroup and a missing module all count. Opening alone makes no interface.
pub fn open_node() -> io::Result<()> {
    OpenOptions::new().read(true).write(true).open(NODE).map(drop)
}

/// Makes a TUN node with mode 0666 on a tmpfs mounted at `dir` and binds it over `/dev/net/tun`. Only for
/// a private mount namespace: the host's node is left alone, and so is its mode.
pub fn bind_own_node(dir: &Path) -> Result<(), TunError> {
    let fail = |what, path: &Path| {
        let path = path.to_path_buf();
        move |source: io::Error| TunError::OwnNode { what, path, source }
    };
    fs::create_dir_all(dir).map_err(fail("create", dir))?;
    let options = Some("mode=0755");
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), options)
        .map_err(|e| fail("mount a tmpfs on", dir)(e.into()))?;
    let node = dir.join("tun");
    let (major, minor) = NUMBER;
    mknod(&node, SFlag::S_IFCHR, Mode::empty(), makedev(major, minor))
        .map_err(|e| fail("make the device node", &node)(e.into()))?;
    // chmod after mknod, as mknod's mode is cut by the umask.
    fs::set_permissions(&node, Permissions::from_mode(0o666)).map_err(fail("set the mode of", &node))?;
    let target = Path::new(NODE);
    make_mount_point(target).map_err(fail("create a mount point at", target))?;
    mount(Some(&node), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|e| fail("bind our node over", target)(e.into()))
}

/// Containers often lack the node, and a bind mount needs something to cover.
fn make_mount_point(target: &Path) -> io::Result<()> {
    if target.exists() {
        return Ok(());
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(target, "")
}
