//! Two views of the file system: the one of tailscaled and pasta, and the one of the command.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::relay::FORWARDER;
use super::{DIRECTORY, RESOLVER};
use crate::exec::host::{Host, RESOLVED};
use crate::sys::mount_tree::Tree;

/// pasta's, with the host's own resolver configuration.
pub(super) const HOST_RESOLVER: &str = "/run/devbox-agent-exec/host-resolv.conf";

/// Where the network namespace is bound for pasta. Its AppArmor profile on Debian and Ubuntu lets it open files in a user's runtime directory.
pub(super) const NETWORK: &str = "/run/user/0/netns";

/// Where nscd(8) is asked around `/etc/resolv.conf`.
const NSCD: &str = "/run/nscd";

/// Where the host's own tailscaled listens: it dials into its tailnet for every user (`tailscale nc`).
const TAILSCALE: &str = "/run/tailscale";

const NONE: Option<&str> = None;

/// Makes the first view: a private `/run`, and an `/etc` in which tailscaled may write `resolv.conf`.
pub(super) fn build(host: &Host) -> io::Result<()> {
    let forwarder = (!host.name_servers().is_empty()).then_some(FORWARDER.into());
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    proc()?;
    tmpfs("/run", "mode=755,size=64m")?;
    for (directory, mode) in [("", 0o700), ("state", 0o700), ("tmp", 0o700), ("etc", 0o755)] {
        DirBuilder::new().mode(mode).create(Path::new(DIRECTORY).join(directory))?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create("/run/user/0")?;
    fs::write(NETWORK, "")?;
    fs::write(HOST_RESOLVER, &host.resolver)?;
    fs::write(Path::new(DIRECTORY).join(RESOLVER), host.resolver(forwarder))?;
    etc()
}

/// A container may not mount one; then the old one serves, in which numbers of processes are the host's, and pings are not allowed.
fn proc() -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    match mount(Some("proc"), "/proc", Some("proc"), flags, NONE) {
        Err(nix::errno::Errno::EPERM) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn tmpfs(path: &str, options: &str) -> io::Result<()> {
    Ok(mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options))?)
}

/// An `/etc` of links to the host's. `resolv.conf` is a mount: tailscaled cannot replace it by another file, writes into it instead, and
/// so every other mount of the same file follows. An overlay would not do: it refuses an `/etc` in which anything is mounted.
fn etc() -> io::Result<()> {
    let host = Path::new(DIRECTORY).join("etc");
    mount(Some("/etc"), &host, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    tmpfs("/etc", "mode=755,size=4m")?;
    for entry in fs::read_dir(&host)? {
        let name = entry?.file_name();
        if name != RESOLVER && !name.to_string_lossy().starts_with("resolv.pre-tailscale-backup") {
            symlink(host.join(&name), Path::new("/etc").join(&name))?;
        }
    }
    fs::write("/etc/resolv.conf", "")?;
    Ok(mount(Some(&Path::new(DIRECTORY).join(RESOLVER)), "/etc/resolv.conf", NONE, MsFlags::MS_BIND, NONE)?)
}

/// Gives pasta, in a mount namespace of its own, the host's resolver configuration.
pub(super) fn show_host_resolver() -> io::Result<()> {
    Ok(mount(Some(HOST_RESOLVER), "/etc/resolv.conf", NONE, MsFlags::MS_BIND, NONE)?)
}

/// Makes of the first view, in a mount namespace of its own, that of the command: the host's, but for the resolver.
///
/// tailscaled's socket is out of sight then: whoever opened it with the caller's uid would be root to tailscaled.
pub(super) fn show_to_command() -> io::Result<()> {
    let resolver = Tree::copy(&Path::new(DIRECTORY).join(RESOLVER))?;
    umount2("/etc/resolv.conf", MntFlags::MNT_DETACH)?;
    umount2("/etc", MntFlags::MNT_DETACH)?;
    umount2("/run", MntFlags::MNT_DETACH)?;
    if Path::new(RESOLVED).is_dir() {
        tmpfs(RESOLVED, "mode=755,size=64k")?;
        // resolv.conf may be a link to either.
        for name in ["stub-resolv.conf", "resolv.conf"] {
            fs::write(Path::new(RESOLVED).join(name), "")?;
        }
    }
    for hidden in [NSCD, TAILSCALE].into_iter().filter(|path| Path::new(path).is_dir()) {
        tmpfs(hidden, "mode=755,size=64k")?;
    }
    resolver.attach("/etc/resolv.conf".as_ref())?;
    proc()
}
