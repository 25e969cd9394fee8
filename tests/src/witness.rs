//! What must hold at the end of every story, whatever happened in it: one node, nothing leaked, nothing left behind, every report in order.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Pid;

use crate::devbox::Devbox;
use crate::machine::Root;
use crate::platform::ledger::SecretKind;
use crate::scene::Scene;

/// Where stories put tokens themselves, for the provider `file`; the search leaves it out.
pub const TOKENS: &str = "/run/workload";
/// The folders of a machine that are its own.
const FOLDERS: [&str; 3] = ["/run", "/etc", "/var/lib"];
/// Where the agent keeps its state, at the default `[paths] state`.
const STATE: &str = "/var/lib/devbox-agent";
/// The most memory and files that an agent may hold (faults O3).
const MEMORY_KIB: u64 = 64 * 1024;
const FILES: usize = 64;

/// What is left of a machine in the tailnet when its story ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// One node that can be used again.
    OneNode,
    /// One that was logged out; control keeps it, expired, until somebody deletes it.
    LoggedOut,
    /// None.
    Nothing,
}

impl Devbox<'_> {
    /// Ends the story of this machine: stops the agent, and checks everything that must hold at the end of any.
    ///
    /// # Errors
    /// When something does not; says what.
    pub async fn close(mut self, left: Left) -> Result<()> {
        if let Some(agent) = self.running() {
            check_appetite(agent.pid())?;
        }
        let secrets = Secrets::of(self.scene);
        for pid in self.machine.processes()? {
            secrets.check_process(pid)?;
        }
        if self.running().is_some() {
            self.stop_agent().await?;
        }
        let remaining = self.machine.processes()?;
        ensure!(remaining.is_empty(), "the stopped agent leaves processes {remaining:?}");
        secrets.check_files(self.machine.root())?;
        secrets.check_logs(self.scene)?;
        check_state(self.machine.root())?;
        self.check_reports(&secrets)?;
        self.check_nodes(left).await?;
        self.check_keys().await
    }

    async fn check_nodes(&self, left: Left) -> Result<()> {
        let nodes = self.nodes().await?;
        let found = match nodes.as_slice() {
            [] => Left::Nothing,
            [node] if node.expired() => Left::LoggedOut,
            [_] => Left::OneNode,
            several => bail!("control has {} nodes of {}", several.len(), self.id),
        };
        ensure!(found == left, "control has {found:?} of {}, not {left:?}", self.id);
        Ok(())
    }

    /// A key that nobody used is one that somebody else could: a crash may cost one, but they do not pile up.
    async fn check_keys(&self) -> Result<()> {
        let minted = self.scene.platform.minter.minted();
        let mine = |id: &String| minted.get(id).is_some_and(|key| key.request.subject == self.subject());
        let keys = self.scene.platform.headscale.api.keys().await?;
        let unused = keys.iter().filter(|key| mine(&key.id) && !key.used).count();
        ensure!(unused <= 1, "{unused} keys of {} were never used", self.id);
        Ok(())
    }

    fn check_reports(&self, secrets: &Secrets) -> Result<()> {
        let reports = &self.scene.platform.reports;
        let violations = reports.violations();
        ensure!(violations.is_empty(), "reports broke the protocol: {violations:?}");
        for report in reports.all(&self.id) {
            secrets.check(report.raw.as_bytes(), || "a report".to_owned())?;
        }
        Ok(())
    }
}

fn check_appetite(pid: Pid) -> Result<()> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("failed to look at the agent")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in /proc/PID/status")?;
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().context("VmHWM is no number")?;
    ensure!(peak < MEMORY_KIB, "the agent took {peak} KiB");
    let files = fs::read_dir(format!("/proc/{pid}/fd")).context("failed to count the agent's files")?.count();
    ensure!(files < FILES, "the agent holds {files} files open");
    Ok(())
}

/// A stopped agent leaves its record and no half-written file.
fn check_state(root: &Root) -> Result<()> {
    let Ok(entries) = fs::read_dir(root.path(STATE)) else { return Ok(()) };
    for entry in entries {
        let name = entry?.file_name();
        ensure!(!name.to_string_lossy().ends_with(".tmp"), "{} is left in {STATE}", name.display());
    }
    Ok(())
}

/// Everything that the platform gave out and that may stand nowhere.
struct Secrets(Vec<(SecretKind, String)>);

impl Secrets {
    fn of(scene: &Scene) -> Self {
        Self(scene.platform.ledger.secrets())
    }

    fn check(&self, bytes: &[u8], place: impl Fn() -> String) -> Result<()> {
        let text = String::from_utf8_lossy(bytes);
        let found = self.0.iter().find(|(_, secret)| text.contains(secret.as_str()));
        found.map_or(Ok(()), |(kind, _)| bail!("{} shows a secret: {kind:?}", place()))
    }

    fn check_process(&self, pid: Pid) -> Result<()> {
        for file in ["cmdline", "environ"] {
            let path = format!("/proc/{pid}/{file}");
            match fs::read(&path) {
                Ok(bytes) => self.check(&bytes, || path.clone())?,
                Err(error) if has_ended(&error) => {}
                Err(error) => return Err(error).with_context(|| format!("failed to read {path}")),
            }
        }
        Ok(())
    }

    fn check_files(&self, root: &Root) -> Result<()> {
        let tokens = root.path(TOKENS);
        FOLDERS.iter().try_for_each(|folder| self.check_folder(&root.path(folder), &tokens))
    }

    fn check_logs(&self, scene: &Scene) -> Result<()> {
        self.check_folder(&scene.lab.layout().logs, Path::new(""))
    }

    fn check_folder(&self, folder: &Path, except: &Path) -> Result<()> {
        for path in files_below(folder, except).with_context(|| format!("failed to list {}", folder.display()))? {
            let bytes = fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
            self.check(&bytes, || path.display().to_string())?;
            let panicked = path.extension().is_some_and(|it| it == "log")
                && String::from_utf8_lossy(&bytes).contains("panicked at");
            ensure!(!panicked, "{} tells of a panic", path.display());
        }
        Ok(())
    }
}

fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32)
}

/// Every regular file below `folder`, links not followed, `except` left out.
fn files_below(folder: &Path, except: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if path == except {
            continue;
        }
        if kind.is_dir() {
            found.extend(files_below(&path, except)?);
        } else if kind.is_file() {
            found.push(path);
        }
    }
    Ok(found)
}
