//! What must hold at the end of every story, whatever happened in it: one node, nothing leaked, nothing left behind, every report in order.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Pid;

use crate::canary::Search;
use crate::devbox::{Devbox, Instance};
use crate::machine::Root;

/// Where stories put tokens themselves, for the provider `file`; taken away before the search for secrets.
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
        let mut search = Search::new(self.scene.platform.ledger.secrets());
        search.processes(&self.machine)?;
        if self.running().is_some() {
            self.stop_agent().await?;
        }
        let remaining = self.machine.processes()?;
        ensure!(remaining.is_empty(), "the stopped agent leaves processes {remaining:?}");
        self.search_files(&mut search)?;
        ensure!(search.leaks().is_empty(), "secrets are shown: {:?}", search.leaks());
        check_logs(&self.scene.lab.layout().logs)?;
        check_state(self.machine.root())?;
        let violations = self.scene.platform.reports.violations();
        ensure!(violations.is_empty(), "reports broke the protocol: {violations:?}");
        self.check_nodes(left).await?;
        self.check_keys().await
    }

    /// Looks through the machine's files, all logs, and what the platform was told.
    fn search_files(&self, search: &mut Search) -> Result<()> {
        let root = self.machine.root();
        let tokens = root.path(TOKENS);
        if tokens.exists() {
            fs::remove_dir_all(&tokens).context("failed to take the story's own token away")?;
        }
        for folder in FOLDERS {
            search.folder(&root.path(folder))?;
        }
        search.folder(&self.scene.lab.layout().logs)?;
        for report in self.scene.platform.reports.all(&self.id) {
            search.text(Path::new("a report"), &report.raw);
        }
        Ok(())
    }
}

impl Instance<'_> {
    /// Checks what control has of it.
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

/// An agent that panicked says so in its log, wherever its story went on from there.
fn check_logs(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_file() {
            let log = fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
            ensure!(!String::from_utf8_lossy(&log).contains("panicked at"), "{} tells of a panic", path.display());
        }
    }
    Ok(())
}
