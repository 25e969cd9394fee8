//! A machine's own files: its `/run`, `/etc` and `/var/lib`, kept where the story can see them too.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::network::PLATFORM;

/// Where the machines of a sandbox keep their files: on its tmpfs.
const MACHINES: &str = "/run/machines";
/// The kernel's boot id, which every machine covers with its own.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// A fresh random UUID at each read.
const UUID: &str = "/proc/sys/kernel/random/uuid";
/// The trust store as Debian, Fedora's compatibility link and rustls-native-certs have it.
const TRUST_STORE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Larger files of the host's `/etc` are indices no story needs.
const LARGEST_COPY: u64 = 1 << 20;

/// The file that says where a machine's namespaces are, for a shell that comes from outside.
const NAMESPACES: &str = "namespaces";

/// Where the namespaces of the machine `name` are, within its sandbox.
pub(super) fn namespaces_of(name: &str) -> io::Result<PathBuf> {
    fs::read_to_string(Path::new(MACHINES).join(name).join(NAMESPACES)).map(PathBuf::from)
}

/// The names of the machines of this sandbox.
pub(super) fn machine_names() -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(MACHINES)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// A machine's files. What the machine sees as `/run`, `/etc` and `/var/lib` are folders here; the rest of
/// its file system is the host's, read as it is.
#[derive(Debug, Clone)]
pub struct Root {
    folder: PathBuf,
}

impl Root {
    /// Makes the files of a new machine: the host's `/etc` with everything that names or steers a host replaced.
    pub(super) fn create(name: &str) -> io::Result<Self> {
        let root = Self { folder: Path::new(MACHINES).join(name) };
        for folder in ["run", "etc/ssl/certs", "var-lib"] {
            fs::create_dir_all(root.folder.join(folder))?;
        }
        root.write_own(name)?;
        root.copy_etc()?;
        root.power_on()?;
        Ok(root)
    }

    /// What a boot renews: an empty `/run` and a boot id never used before.
    pub(super) fn power_on(&self) -> io::Result<()> {
        let run = self.folder.join("run");
        fs::remove_dir_all(&run)?;
        fs::create_dir_all(run.join("tmp"))?;
        fs::create_dir_all(run.join("home"))?;
        fs::write(self.folder.join("boot-id"), fs::read(UUID)?)
    }

    /// Mounts these files over the host's, in the calling thread's mount namespace. `/run` comes last, as it covers where the others are.
    pub(super) fn mount(&self) -> nix::Result<()> {
        let bind = |from: &str, to: &str| {
            mount(Some(&self.folder.join(from)), to, None::<&CStr>, MsFlags::MS_BIND, None::<&CStr>)
        };
        let strict = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("sysfs"), "/sys", Some("sysfs"), strict, None::<&CStr>)?;
        bind("etc", "/etc")?;
        bind("var-lib", "/var/lib")?;
        bind("boot-id", BOOT_ID)?;
        bind("run", "/run")
    }

    /// Where the story finds the machine's file `path`: its own for `/run`, `/etc` and `/var/lib`, else the host's.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        for (inside, folder) in [("/run", "run"), ("/etc", "etc"), ("/var/lib", "var-lib")] {
            if let Ok(rest) = path.strip_prefix(inside) {
                return self.folder.join(folder).join(rest);
            }
        }
        path.to_path_buf()
    }

    /// Writes one of the machine's files and the folders above it, all world-readable.
    pub fn write(&self, path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> io::Result<()> {
        let path = self.path(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, contents)
    }

    /// Adds a CA certificate in PEM to the machine's trust store, after those of the host.
    pub fn trust(&self, pem: &str) -> io::Result<()> {
        let path = self.path(TRUST_STORE);
        let mut store = fs::read(&path)?;
        store.extend_from_slice(pem.as_bytes());
        fs::write(path, store)
    }

    /// Notes where the machine's namespaces are, for [`namespaces_of`].
    pub(super) fn note_namespaces(&self, folder: &str) -> io::Result<()> {
        fs::write(self.folder.join(NAMESPACES), folder)
    }

    /// Removes everything.
    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.folder)
    }

    fn write_own(&self, name: &str) -> io::Result<()> {
        let machine_id = fs::read_to_string(UUID)?.replace('-', "");
        // Nobody serves DNS at this address: a name outside the tailnet is refused at once, not timed out.
        self.write("/etc/resolv.conf", format!("nameserver {PLATFORM}\n"))?;
        self.write("/etc/hostname", format!("{name}\n"))?;
        self.write("/etc/machine-id", machine_id)?;
        self.write("/etc/hosts", format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n"))?;
        self.write("/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n")?;
        let host_store = Path::new(TRUST_STORE);
        self.write(TRUST_STORE, if host_store.exists() { fs::read(host_store)? } else { Vec::new() })
    }

    /// Copies links and readable files of the host's `/etc`, one level deep, never over a file of our own. The loader's
    /// cache, users, services and the like are there; folders stay behind, but for `alternatives`, which commands go through.
    fn copy_etc(&self) -> io::Result<()> {
        copy_flat(Path::new("/etc"), &self.folder.join("etc"))?;
        let alternatives = Path::new("/etc/alternatives");
        if alternatives.is_dir() {
            let own = self.path(alternatives);
            fs::create_dir_all(&own)?;
            copy_flat(alternatives, &own)?;
        }
        Ok(())
    }
}

fn copy_flat(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, copy) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if copy.symlink_metadata().is_ok() {
            continue;
        }
        if kind.is_symlink() {
            symlink(fs::read_link(source)?, copy)?;
        } else if kind.is_file() && wanted(&fs::metadata(&source)?) {
            fs::copy(source, copy)?;
        }
    }
    Ok(())
}

/// World-readable, so that the machine is the same whoever runs the lab, and not huge.
fn wanted(file: &fs::Metadata) -> bool {
    file.permissions().mode() & 0o004 != 0 && file.len() <= LARGEST_COPY
}
