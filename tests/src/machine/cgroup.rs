//! Branches of the host's control group tree (cgroups(7), version 2): what a booted machine's systemd needs, and the one handle
//! on all of its processes that no fork slips through.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

/// The lab's branches are `devbox-lab-PID-NUMBER`, by the process that made them.
const PREFIX: &str = "devbox-lab-";
/// How long the kernel may take to end or freeze processes; milliseconds when idle.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two looks.
const GLANCE: Duration = Duration::from_millis(1);

/// A control group with all below it. Dropping it kills its processes and removes it.
#[derive(Debug)]
pub struct Branch {
    path: PathBuf,
}

impl Branch {
    /// Makes a branch in the host's tree, for one sandbox of this process.
    ///
    /// # Errors
    /// When no tree of version 2 is mounted, or it cannot be changed: not root, or a container that may not.
    pub fn for_sandbox(number: usize) -> io::Result<Self> {
        let root =
            mounted()?.ok_or_else(|| io::Error::new(ErrorKind::NotFound, "no cgroup2 file system is mounted"))?;
        sweep(&root)?;
        Self::grow(&root, &format!("{PREFIX}{}-{number}", std::process::id()))
    }

    /// Makes a branch below a folder of the tree.
    pub(super) fn grow(above: &Path, name: &str) -> io::Result<Self> {
        let path = above.join(name);
        fs::create_dir(&path)?;
        Ok(Self { path })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ids of its processes and of those below it, in this process's PID namespace; processes in others read as 0 and are left out.
    pub fn processes(&self) -> io::Result<Vec<Pid>> {
        let mut pids = Vec::new();
        for folder in folders(&self.path)? {
            pids.extend(members(&folder)?);
        }
        Ok(pids)
    }

    /// Stops every process where it stands, or lets all go on, and waits until it is so.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        let state = if frozen { "1" } else { "0" };
        fs::write(self.path.join("cgroup.freeze"), state)?;
        self.await_event("frozen", state)
    }

    /// Kills every process at once, forks under way included, and waits for their end.
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")?;
        self.await_event("populated", "0")
    }

    fn await_event(&self, name: &str, value: &str) -> io::Result<()> {
        let deadline = Instant::now() + LIMIT;
        while event(&self.path, name)?.as_deref() != Some(value) {
            if Instant::now() > deadline {
                let told = format!("{} did not become {name} {value}", self.path.display());
                return Err(io::Error::new(ErrorKind::TimedOut, told));
            }
            thread::sleep(GLANCE);
        }
        Ok(())
    }
}

impl Drop for Branch {
    fn drop(&mut self) {
        if let Err(error) = self.kill().and_then(|()| remove(&self.path)) {
            tracing::warn!(path = %self.path.display(), %error, "failed to remove a control group");
        }
    }
}

/// Moves a process into the control group `folder`.
pub fn admit(folder: &Path, pid: Pid) -> io::Result<()> {
    fs::write(folder.join("cgroup.procs"), pid.to_string())
}

/// Where the tree of version 2 is mounted; none on systems without.
pub fn mounted() -> io::Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let of_version_2 = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (at, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(at))
    };
    Ok(mounts.lines().find_map(of_version_2))
}

/// The processes of one control group.
pub(super) fn members(folder: &Path) -> io::Result<Vec<Pid>> {
    let text = fs::read_to_string(folder.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).map(Pid::from_raw).collect())
}

/// Removes branches whose lab was killed before it could: its process is gone and so are all of theirs. Another lab may do the same at the
/// same time.
fn sweep(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let maker = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if maker.is_some_and(|maker| !Path::new("/proc").join(maker).exists()) {
            match sweep_one(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                swept => swept?,
            }
        }
    }
    Ok(())
}

fn sweep_one(branch: &Path) -> io::Result<()> {
    if event(branch, "populated")?.as_deref() == Some("0") { remove(branch) } else { Ok(()) }
}

/// A value of `cgroup.events`.
fn event(folder: &Path, name: &str) -> io::Result<Option<String>> {
    let text = fs::read_to_string(folder.join("cgroup.events"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.map(str::to_owned))
}

/// Removes a control group and those below it, which must be empty.
fn remove(path: &Path) -> io::Result<()> {
    folders(path)?.iter().rev().try_for_each(fs::remove_dir)
}

/// A folder and all below it, each after the one that it is in.
fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = vec![path.to_path_buf()];
    let mut next = 0;
    while next < all.len() {
        for entry in fs::read_dir(&all[next])? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                all.push(entry.path());
            }
        }
        next += 1;
    }
    Ok(all)
}
