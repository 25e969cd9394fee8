//! The disk of a booted machine: what it writes lies on a tmpfs of its own over the image, which stays as it is.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Where the machines of a sandbox have their disks.
const DISKS: &str = "/run/disks";
/// The trust store as Debian has it.
const TRUST_STORE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A disk. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Makes a disk that starts as the image does, with room for `size` bytes of changes.
    pub(super) fn create(name: &str, image: &Path, size: u64) -> io::Result<Self> {
        let disk = Self { folder: Path::new(DISKS).join(name) };
        fs::create_dir_all(&disk.folder)?;
        mount(
            Some("tmpfs"),
            &disk.folder,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(format!("mode=0755,size={size}").as_str()),
        )?;
        for folder in ["upper", "work", "root"] {
            fs::create_dir(disk.folder.join(folder))?;
        }
        let of = |folder: &str| disk.folder.join(folder).display().to_string();
        let layers = format!("lowerdir={},upperdir={},workdir={}", image.display(), of("upper"), of("work"));
        mount(Some("overlay"), &disk.root(), Some("overlay"), MsFlags::empty(), Some(layers.as_str()))?;
        Ok(disk)
    }

    /// Where its files are while the machine is off.
    pub(super) fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// Adds a CA certificate in PEM to the trust store, as update-ca-certificates would.
    pub(super) fn trust(&self, pem: &str) -> io::Result<()> {
        let path = self.root().join(TRUST_STORE.trim_start_matches('/'));
        File::options().append(true).open(path)?.write_all(pem.as_bytes())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a file of the machine may still be open in the story.
        for mounted in [&self.root(), &self.folder] {
            if let Err(error) = umount2(mounted, MntFlags::MNT_DETACH) {
                tracing::warn!(path = %mounted.display(), %error, "failed to unmount a machine's disk");
            }
        }
    }
}
