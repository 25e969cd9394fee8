//! A machine that boots: Debian with its own systemd, D-Bus, logind, resolved and journal, in a container of systemd-nspawn. Its
//! clock and kernel are the host's, so it can neither suspend nor have its clock set.

mod disk;
mod journal;
mod power;
mod systemctl;
mod within;

use std::fs::{self, File};
use std::future::Future;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::unistd::Pid;

use self::disk::Disk;
pub use self::journal::Entry;
use self::power::Power;
use crate::machine::inhabitant::Visit;
use crate::machine::logs::Logs;
use crate::machine::namespace::program_name;
use crate::machine::process::Process;
use crate::machine::{cgroup, network};
use crate::tools::{Layout, programs};

/// Room for what a machine writes; a story that fills its disk need not write for long.
const DISK_SIZE: u64 = 512 << 20;

/// A machine that boots. Dropping it cuts its power, and keeps only its logs: the console of each boot, and the whole journal.
#[derive(Debug)]
pub struct Booted {
    name: String,
    index: usize,
    address: Ipv4Addr,
    power: Option<Power>,
    disk: Disk,
    logs: Logs,
}

impl Booted {
    /// Makes a machine, switched off, with the address that goes with `index`.
    pub(super) fn create(layout: &Layout, index: usize, name: &str, image: &Path) -> Result<Self> {
        let disk = Disk::create(name, image, DISK_SIZE).context("failed to make a machine's disk")?;
        let logs = Logs::new(layout.logs.clone(), name);
        Ok(Self { name: name.to_owned(), index, address: network::address(index)?, power: None, disk, logs })
    }

    /// Its name in the lab. Its host name is its own affair.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the lab's network; outside the tailnet.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Where the story finds the machine's file `path`. Absolute links in it lead astray.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let root = match &self.power {
            Some(power) => PathBuf::from(format!("/proc/{}/root", power.leader)),
            None => self.disk.root(),
        };
        root.join(path.as_ref().strip_prefix("/").unwrap_or(path.as_ref()))
    }

    /// Writes one of the machine's files, and the folders above it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Result<()> {
        let path = path.as_ref();
        let (file, failed) = (self.path(path), || format!("failed to write {} of {}", path.display(), self.name));
        file.parent().map_or(Ok(()), fs::create_dir_all).with_context(failed)?;
        fs::write(file, contents).with_context(failed)
    }

    /// Adds a CA certificate in PEM to the machine's trust store.
    ///
    /// # Errors
    /// When it cannot be added.
    pub fn trust(&self, pem: &str) -> Result<()> {
        self.disk.trust(pem).context("failed to install a CA")
    }

    /// A command as it would run in the machine, by root, in `/`, with nothing of the caller's environment. Add arguments and environment, then
    /// [`Booted::spawn`] or [`Booted::exec`] it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir("/")
            .env_clear()
            .env("PATH", programs::SYSTEM_PATH)
            .env("LANG", "C.UTF-8")
            .env("HOME", "/root");
        command.stdin(Stdio::null());
        command
    }

    /// Starts a command; its output goes to a log of its own in the story's folder.
    ///
    /// # Errors
    /// When the machine is off or the command cannot be started.
    pub fn spawn(&self, command: Command) -> Result<Process> {
        let name = program_name(&command);
        self.logged(&name, command, |command| self.start(command))
    }

    /// Runs a command to its end and returns its status and what it wrote.
    ///
    /// # Errors
    /// When the machine is off or the command cannot be run.
    pub async fn exec(&self, mut command: Command) -> Result<Output> {
        let program = program_name(&command);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.start(command)?;
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output()).await;
        ended.context("failed to wait in a thread")?.with_context(|| format!("failed to wait for {program}"))
    }

    /// Runs a program with arguments, which must succeed, and returns what it wrote to standard output.
    ///
    /// # Errors
    /// When it does not succeed; with what it said.
    pub async fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(program);
        command.args(arguments);
        let Output { status, stdout, stderr } = self.exec(command).await?;
        let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        let asked = arguments.join(" ");
        ensure!(status.success(), "failed to run {program} {asked} on {}: {status}: {err}{out}", self.name);
        Ok(out.into_owned())
    }

    /// Runs a future within the machine, on a thread of its own: a client or server that uses the machine's network and resolver.
    ///
    /// # Errors
    /// When the machine is off or a thread cannot be started.
    pub fn visit<F, T>(&self, work: impl FnOnce() -> F + Send + 'static) -> Result<Visit<T>>
    where
        F: Future<Output = T>,
        T: Send + 'static,
    {
        let leader = self.power()?.leader;
        Visit::start(move || within::visit(leader), work).context("failed to start a thread in the machine")
    }

    /// The machine's entries of this boot that `matches` of journalctl(1) let through, oldest first; `-b -1` among them turns to the boot before.
    ///
    /// # Errors
    /// When journalctl fails.
    pub async fn journal(&self, matches: &[&str]) -> Result<Vec<Entry>> {
        let boot: &[&str] = if matches.contains(&"-b") { &[] } else { &["-b"] };
        let all = [&["--output=json", "--all", "--no-pager"], boot, matches].concat();
        Ok(self.run("journalctl", &all).await?.lines().filter_map(Entry::parse).collect())
    }

    /// The network comes up, or back: address and routes included.
    ///
    /// # Errors
    /// When the machine is off or the network cannot be changed.
    pub fn link_up(&self) -> Result<()> {
        Ok(self.power()?.space.link_up(self.address)?)
    }

    /// The network goes: sending fails at once.
    ///
    /// # Errors
    /// When the machine is off or the network cannot be changed.
    pub fn link_down(&self) -> Result<()> {
        Ok(self.power()?.space.link_down()?)
    }

    /// The ids of its live processes, in the sandbox's PID namespace.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn processes(&self) -> Result<Vec<Pid>> {
        match &self.power {
            Some(power) => power.branch.processes().context("failed to list the machine's processes"),
            None => Ok(Vec::new()),
        }
    }

    /// Stops every process where it stands, as a hypervisor that pauses a machine would.
    ///
    /// # Errors
    /// When the machine is off or the kernel refuses.
    pub fn freeze(&self) -> Result<()> {
        self.power()?.branch.freeze(true).context("failed to freeze the machine")
    }

    /// Lets every process go on.
    ///
    /// # Errors
    /// When the machine is off or the kernel refuses.
    pub fn thaw(&self) -> Result<()> {
        self.power()?.branch.freeze(false).context("failed to thaw the machine")
    }

    /// Starts a process by `start`, with a log that is called `name`.
    fn logged(
        &self,
        name: &str,
        mut command: Command,
        start: impl FnOnce(Command) -> Result<Child>,
    ) -> Result<Process> {
        let (path, file) = self.new_log(name)?;
        let both = file.try_clone().with_context(|| format!("failed to share log {}", path.display()))?;
        command.stdout(file).stderr(both);
        let started = Instant::now();
        Process::watch(start(command)?, started, path).with_context(|| format!("failed to watch {name}"))
    }

    fn new_log(&self, name: &str) -> Result<(PathBuf, File)> {
        let made = self.logs.create(name);
        made.map_err(|(path, error)| {
            anyhow::Error::from(error).context(format!("failed to create log {}", path.display()))
        })
    }

    fn power(&self) -> Result<&Power> {
        self.power.as_ref().with_context(|| format!("failed to reach {}: it is off", self.name))
    }

    /// Starts a process of the machine. It belongs to its control group too, but not to any unit.
    fn start(&self, mut command: Command) -> Result<Child> {
        let (power, program) = (self.power()?, program_name(&command));
        let child = within::live(power.leader, || command.spawn())
            .with_context(|| format!("failed to run {program} on {}", self.name))?;
        match cgroup::admit(&power.visitors(), Pid::from_raw(child.id().cast_signed())) {
            // It has ended already.
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(child),
            admitted => admitted.map(|()| child).context("failed to move a process to the machine's control group"),
        }
    }

    /// Writes the journal of all boots to a log, for whoever wants to know why a story failed.
    fn keep_journal(&self) -> Result<()> {
        let (path, file) = self.new_log("journal")?;
        let mut journalctl = Command::new("journalctl");
        journalctl.arg(format!("--root={}", self.disk.root().display()));
        journalctl.args(["--output=short-monotonic", "--no-hostname", "--no-pager", "--all"]);
        let status = journalctl.stdin(Stdio::null()).stdout(file).stderr(Stdio::null()).status();
        let status = status.context("failed to run journalctl")?;
        ensure!(status.success(), "failed to write {}: journalctl ended with {status}", path.display());
        Ok(())
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        drop(self.power.take());
        if let Err(error) = self.keep_journal() {
            tracing::warn!(machine = self.name, "failed to keep the journal: {error:#}");
        }
    }
}
