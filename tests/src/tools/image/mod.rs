//! What machines boot from: Debian by mmdebstrap, made once, and copies of it with packages installed. All in `target/lab/image`, each folder
//! named after everything that it was made from.

mod tailscale;

use std::fs::{self, File, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::layout::Workspace;
use super::progress::Progress;

/// The release, which has systemd 257.
const RELEASE: &str = "trixie";
/// Besides what Debian calls essential, and apt: an init with its bus, resolver and login manager; what tailscaled runs; what a person would look for.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,libnss-systemd,libnss-resolve,systemd-resolved,iproute2,iptables,ca-certificates,\
                        procps,curl";
/// Run in the new tree, `$1`. As in an image for many machines there is no machine id, and the host name is nobody's: mmdebstrap would leave those of
/// this host. Timers that would call out of the lab stay silent, and nobody logs in at the console.
const FINISH: &str = "set -e; echo debian > \"$1/etc/hostname\"; : > \"$1/etc/machine-id\"; \
                      printf '127.0.0.1 localhost\\n::1 localhost\\n' > \"$1/etc/hosts\"; \
                      chroot \"$1\" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer console-getty.service";

/// What machines can boot from: folders, each a whole root file system, which machines write over and not into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Images {
    /// Debian with Tailscale's own package, enabled as that package does it.
    pub stock: PathBuf,
    /// The same with the agent's package.
    pub baked: PathBuf,
    /// Tailscale's package, to install it by hand.
    pub tailscale: PathBuf,
    /// The agent's package, to install it by hand.
    pub agent: PathBuf,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file could not be read, written or moved.
    #[error("failed to access {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program could not be run.
    #[error("failed to run {program}")]
    Run {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program refused.
    #[error("failed to {what}: {program} said:\n{said}")]
    Refused {
        /// What it was to do.
        what: &'static str,
        /// The program.
        program: String,
        /// The end of what it wrote.
        said: String,
    },
}

/// Sees to it that the images are there and as they should be now.
pub(super) fn ensure(workspace: &Workspace, progress: &Progress, agent: &Path) -> Result<Images, ImageError> {
    let folder = workspace.lab().join("image");
    fs::create_dir_all(&folder).map_err(file_error(&folder))?;
    // Two labs started at once must not build the same image.
    let lock_path = folder.join(".lock");
    let lock = File::create(&lock_path).map_err(file_error(&lock_path))?;
    lock.lock().map_err(file_error(&lock_path))?;
    let store = Store { folder, progress };
    let base = store.ensure("debian", &[RELEASE, PACKAGES, FINISH], "bootstrapping Debian (a minute)", bootstrap)?;
    let package = tailscale::package(workspace, &store)?;
    let stock = store.with_package("stock", &base, &package, "installing Tailscale in the image")?;
    let baked = store.with_package("baked", &stock, agent, "installing the agent in the image")?;
    for used in [&stock, &baked, &package] {
        // Kept open on purpose, until this process ends: its machines write over these folders, and other labs must leave them.
        let _for_good = in_use(used)?.into_raw_fd();
    }
    let agent = fs::canonicalize(agent).map_err(file_error(agent))?;
    Ok(Images { stock, baked, tailscale: package, agent })
}

/// The folder of images.
struct Store<'a> {
    folder: PathBuf,
    progress: &'a Progress,
}

impl Store<'_> {
    /// The folder or file `name` that goes with `key`, made by `make` when it is not there; older ones of the same name go, unless another lab uses
    /// them. It takes its place only when it is whole.
    fn ensure(
        &self,
        name: &str,
        key: &[&str],
        what: &str,
        make: impl FnOnce(&Path) -> Result<(), ImageError>,
    ) -> Result<PathBuf, ImageError> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let path = self.folder.join(format!("{name}-{:016x}", hasher.finish()));
        if path.exists() {
            return Ok(path);
        }
        self.remove_unused(name)?;
        let step = self.progress.step(what);
        let unfinished = self.folder.join(format!("{name}-unfinished"));
        let made = make(&unfinished).and_then(|()| fs::rename(&unfinished, &path).map_err(file_error(&path)));
        step.end(if made.is_ok() { "done" } else { "failed" });
        made.map(|()| path)
    }

    /// The image `name`: another with a package installed.
    fn with_package(&self, name: &str, image: &Path, package: &Path, what: &str) -> Result<PathBuf, ImageError> {
        let key = [image.display().to_string(), mark(package)?];
        self.ensure(name, &key.each_ref().map(String::as_str), what, |root| {
            copy_tree(image, root)?;
            install(root, package)
        })
    }

    fn remove_unused(&self, name: &str) -> Result<(), ImageError> {
        for entry in fs::read_dir(&self.folder).map_err(file_error(&self.folder))? {
            let path = entry.map_err(file_error(&self.folder))?.path();
            let own = path.file_name().and_then(|file| file.to_str()?.strip_prefix(name)?.strip_prefix('-'));
            if own.is_some() && !is_in_use(&path)? {
                let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(file_error(&path))?;
            }
        }
        Ok(())
    }
}

/// Marks an image as used by this process, for as long as the file is open (flock(2)).
fn in_use(path: &Path) -> Result<File, ImageError> {
    let image = File::open(path).map_err(file_error(path))?;
    image.lock_shared().map_err(file_error(path))?;
    Ok(image)
}

fn is_in_use(path: &Path) -> Result<bool, ImageError> {
    match File::open(path).map_err(file_error(path))?.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(source)) => Err(file_error(path)(source)),
    }
}

fn bootstrap(root: &Path) -> Result<(), ImageError> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=minbase", "--quiet"]).arg(format!("--include={PACKAGES}"));
    command.arg(format!("--customize-hook={FINISH}")).arg(RELEASE).arg(root);
    run("bootstrap Debian", command)
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), ImageError> {
    let mut command = Command::new("cp");
    command.args(["--archive", "--reflink=auto", "--"]).arg(from).arg(to);
    run("copy an image", command)
}

/// Installs a package as it is installed into an image: systemd does not run there, so its scripts enable units and start none.
fn install(root: &Path, package: &Path) -> Result<(), ImageError> {
    let mut command = Command::new("dpkg");
    command.arg(format!("--root={}", root.display())).arg("--install").arg(package);
    run("install a package", command)
}

/// Runs a program, of which only a failure is of interest.
fn run(what: &'static str, mut command: Command) -> Result<(), ImageError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).output();
    let output = output.map_err(|source| ImageError::Run { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let all = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let lines: Vec<&str> = all.trim().lines().collect();
    let said = lines[lines.len().saturating_sub(KEPT_LINES)..].join("\n");
    Err(ImageError::Refused { what, program, said })
}

/// Lines of a program's output kept for the error message.
const KEPT_LINES: usize = 20;

/// A file as it is now, for a key: its path, size and time.
fn mark(file: &Path) -> Result<String, ImageError> {
    let (path, data) =
        fs::canonicalize(file).and_then(|path| Ok((path.clone(), path.metadata()?))).map_err(file_error(file))?;
    let changed = data.modified().map_err(file_error(&path))?;
    let since = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{} {} {}", path.display(), data.len(), since.as_nanos()))
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_path_buf();
    move |source| ImageError::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_made_once_for_a_key_and_takes_the_place_of_older_ones() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store { folder: folder.path().to_path_buf(), progress: &Progress::new() };
        let make = |text: &'static str| move |path: &Path| fs::write(path, text).map_err(file_error(path));
        let first = store.ensure("a", &["1"], "making", make("one")).expect("a writable folder");
        let again = store.ensure("a", &["1"], "making", make("two")).expect("a writable folder");
        assert_eq!((&first, fs::read_to_string(&again).expect("a file")), (&again, "one".to_owned()));
        let other = store.ensure("b", &["1"], "making", make("b")).expect("a writable folder");
        let newer = store.ensure("a", &["2"], "making", make("three")).expect("a writable folder");
        assert_eq!((first.exists(), newer.exists(), other.exists()), (false, true, true));
    }

    #[test]
    fn an_image_that_is_used_is_left_to_who_uses_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store { folder: folder.path().to_path_buf(), progress: &Progress::new() };
        let make =
            |key: &str| store.ensure("a", &[key], "making", |path| fs::create_dir(path).map_err(file_error(path)));
        let first = make("1").expect("a writable folder");
        let user = in_use(&first).expect("it is there");
        make("2").expect("a writable folder");
        assert!(first.exists(), "somebody uses it");
        drop(user);
        make("3").expect("a writable folder");
        assert!(!first.exists());
    }

    #[test]
    fn an_image_that_could_not_be_made_is_not_taken_for_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store { folder: folder.path().to_path_buf(), progress: &Progress::new() };
        let mut refused = Command::new("sh");
        refused.args(["-c", "echo no room >&2; exit 1"]);
        let begun = store.ensure("a", &["1"], "making", |path| {
            fs::write(path, "half").map_err(file_error(path))?;
            run("make it", refused)
        });
        assert!(matches!(begun, Err(ImageError::Refused { said, .. }) if said == "no room"));
        let made = store.ensure("a", &["1"], "making", |path| fs::write(path, "whole").map_err(file_error(path)));
        assert_eq!(fs::read_to_string(made.expect("a writable folder")).expect("a file"), "whole");
    }
}
