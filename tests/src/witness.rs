//! What must hold at the end of every story, whatever happened in it: one node, nothing leaked, nothing left behind, every report in order.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Pid;

use crate::canary::Search;
use crate::devbox::{AGENT, Devbox, Installed, Instance};
use crate::machine::{Booted, eventually};

/// Where stories put tokens themselves, for the provider `file`; taken away before the search for secrets.
pub const TOKENS: &str = "/run/workload";
/// The folders of a machine that are its own.
const FOLDERS: [&str; 3] = ["/run", "/etc", "/var/lib"];
/// The folders of a booted machine that something may have been written to.
const BOOTED_FOLDERS: [&str; 6] = ["/run", "/etc", "/var", "/root", "/tmp", "/home"];
/// Where the agent keeps its state, at the default `[paths] state`.
const STATE: &str = "/var/lib/devbox-agent";
/// The most memory and files that an agent may hold (faults O3).
const MEMORY_KIB: u64 = 64 * 1024;
const FILES: usize = 64;
/// Within what the kernel has ended what was killed, also on a busy machine.
const GONE: Duration = Duration::from_secs(5);

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
        // A tailscaled that was being started when the agent was stopped is killed with it, which takes the kernel a moment.
        let alone = || async { Ok(self.machine.processes()?.is_empty().then_some(())) };
        let ended = eventually("the end of every process", GONE, alone).await;
        ended.with_context(|| format!("the stopped agent leaves processes {:?}", self.machine.processes()))?;
        self.search_files(&mut search)?;
        ensure!(search.leaks().is_empty(), "secrets are shown: {:?}", search.leaks());
        check_logs(&self.scene.lab.layout().logs)?;
        check_state(&self.machine.root().path(STATE))?;
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

impl Installed<'_> {
    /// Ends the story of this machine: checks everything that must hold at the end of any, and powers it off in good order.
    ///
    /// # Errors
    /// When something does not hold; says what.
    pub async fn close(mut self, left: Left) -> Result<()> {
        let failed = self.machine.failed_units().await?;
        ensure!(failed.is_empty(), "units have failed: {failed:?}");
        let mut search = Search::new(self.scene.platform.ledger.secrets());
        search_telling(&self.machine, &mut search).await?;
        // Files come and go on a machine that runs.
        self.machine.freeze()?;
        let searched = search_booted(&self.machine, &mut search);
        self.machine.thaw()?;
        searched?;
        if let Some(pid) = self.agent_pid().await? {
            check_appetite(pid)?;
        }
        self.check_nodes(left).await?;
        self.machine.power_off().await?;
        search.folder(&self.machine.path("/var"))?;
        search.folder(&self.scene.lab.layout().logs)?;
        ensure!(search.leaks().is_empty(), "secrets are shown: {:?}", search.leaks());
        check_state(&self.machine.path(STATE))?;
        let violations = self.scene.platform.reports.violations();
        ensure!(violations.is_empty(), "reports broke the protocol: {violations:?}");
        self.check_keys().await
    }

    /// The agent's process, in the sandbox's PID namespace; none when it does not run.
    async fn agent_pid(&self) -> Result<Option<Pid>> {
        let number = self.machine.show(AGENT, "MainPID").await?;
        let inside = |pid: &Pid| last_id(*pid).is_some_and(|id| id == number);
        Ok(self.machine.processes()?.into_iter().find(inside))
    }
}

/// Looks through what the machine tells everybody: its journal, which is compressed on disk, and the properties of its units.
async fn search_telling(machine: &Booted, search: &mut Search) -> Result<()> {
    let journal = machine.run("journalctl", &["--output=export", "--all", "--no-pager"]).await?;
    ensure!(!journal.contains("panicked at"), "the journal of {} tells of a panic", machine.name());
    search.text(Path::new("the journal"), &journal);
    let units = machine.run("systemctl", &["show", "--all", "*"]).await?;
    search.text(Path::new("properties of units"), &units);
    Ok(())
}

/// Looks through its files, command lines and environments.
fn search_booted(machine: &Booted, search: &mut Search) -> Result<()> {
    let tokens = machine.path(TOKENS);
    if tokens.exists() {
        fs::remove_dir_all(&tokens).context("failed to take the story's own token away")?;
    }
    for folder in BOOTED_FOLDERS {
        search.folder(&machine.path(folder))?;
    }
    search.processes_of(&machine.processes()?)
}

/// A process's id within its own PID namespace (`NSpid` of proc_pid_status(5)).
fn last_id(pid: Pid) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    ids.split_whitespace().last().map(str::to_owned)
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
fn check_state(folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
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
