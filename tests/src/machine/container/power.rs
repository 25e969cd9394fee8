//! Switching a booted machine on and off.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;

use super::Booted;
use crate::machine::cgroup::{Branch, members};
use crate::machine::lab::eventually;
use crate::machine::namespace::Link;
use crate::machine::network::NamedSpace;
use crate::machine::process::Process;

/// The sandbox's control groups ([`crate::machine::init`]).
const CGROUPS: &str = "/sys/fs/cgroup";
/// Where PID 1 of systemd puts itself, below the group that nspawn gives to the machine.
const INIT: &str = "payload/init.scope";
/// Processes that the story starts in the machine.
const VISITORS: &str = "visitors";
/// How long PID 1 may take to start: 0.1 s, and more on a machine that boots others.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Longer than systemd's own limit for a unit that does not stop (DefaultTimeoutStopSec, 90 s).
const STOP_LIMIT: Duration = Duration::from_secs(100);
/// What nspawn ends with, under `--keep-unit`, when the machine asks for a reboot (EXIT_FORCE_RESTART of nspawn's source: its unit
/// would have RestartForceExitStatus=133).
const REBOOT: i32 = 133;

/// A machine that is on. Dropping it cuts the power: the control group goes first, and with it every process.
#[derive(Debug)]
pub(super) struct Power {
    nspawn: Process,
    /// PID 1 of the machine, in the sandbox's PID namespace.
    pub(super) leader: Pid,
    pub(super) branch: Branch,
    pub(super) space: NamedSpace,
    words: Vec<String>,
}

impl Power {
    /// The control group for processes that the story starts.
    pub(super) fn visitors(&self) -> PathBuf {
        self.branch.path().join(VISITORS)
    }
}

impl Booted {
    /// Switches the machine on, with its network up, and waits until PID 1 runs; see [`Booted::settle`] for the rest of the boot.
    ///
    /// # Errors
    /// When it is on already or does not start.
    pub async fn boot(&mut self) -> Result<()> {
        self.boot_with(&[], Link::Up).await
    }

    /// The same with words for the kernel command line, as systemd in a container reads it: from the arguments of PID 1. And with a network that
    /// is there from the start or not.
    ///
    /// # Errors
    /// When it is on already or does not start.
    pub async fn boot_with(&mut self, words: &[&str], link: Link) -> Result<()> {
        ensure!(self.power.is_none(), "failed to boot {}: it is on", self.name);
        ensure!(
            Path::new(CGROUPS).join("cgroup.procs").exists(),
            "failed to boot {}: this sandbox is not root's",
            self.name
        );
        let space = NamedSpace::create(&self.name, self.index)?;
        if link == Link::Up {
            space.link_up(self.address)?;
        }
        let branch = Branch::grow(Path::new(CGROUPS), &self.name).context("failed to make a control group")?;
        let nspawn = self.start_nspawn(&space, &branch, words)?;
        let leader = find_leader(&nspawn, &branch).await.with_context(|| format!("failed to boot {}", self.name))?;
        fs::create_dir(branch.path().join(VISITORS)).context("failed to make a control group")?;
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        self.power = Some(Power { nspawn, leader, branch, space, words });
        Ok(())
    }

    /// Asks the machine to reboot, waits until it is down in good order, and boots it again with the same words and its network up.
    ///
    /// # Errors
    /// When it does not.
    pub async fn reboot(&mut self) -> Result<()> {
        let words = self.power()?.words.clone();
        let status = self.shut_down("reboot").await?;
        ensure!(status.code() == Some(REBOOT), "failed to reboot {}: nspawn ended with {status}", self.name);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.boot_with(&words, Link::Up).await
    }

    /// Asks the machine to power off and waits until it is down in good order; returns how long that took.
    ///
    /// # Errors
    /// When it does not.
    pub async fn power_off(&mut self) -> Result<Duration> {
        let asked = Instant::now();
        let status = self.shut_down("poweroff").await?;
        ensure!(status.success(), "failed to power {} off: nspawn ended with {status}", self.name);
        Ok(asked.elapsed())
    }

    /// Cuts the power: no process gets to do anything more. What it has written stays, as on a disk whose cache was flushed.
    ///
    /// # Errors
    /// When it is off already or the kernel refuses.
    pub async fn cut_power(&mut self) -> Result<()> {
        let power = self.power()?;
        power.branch.kill().context("failed to kill the machine")?;
        let status = power.nspawn.wait().await?;
        ensure!(status.signal().is_some(), "failed to cut the power of {}: it went down by itself", self.name);
        self.power = None;
        Ok(())
    }

    async fn shut_down(&mut self, verb: &str) -> Result<ExitStatus> {
        // systemctl only asks, and may be gone before it can say that it did.
        let mut systemctl = self.command("systemctl");
        systemctl.arg(verb);
        let asked = self.exec(systemctl).await?;
        let ended = tokio::time::timeout(STOP_LIMIT, self.power()?.nspawn.wait()).await;
        let told = || format!("{} did not go down: systemctl {verb} said {asked:?}", self.name);
        let status = ended.with_context(told)??;
        self.power = None;
        Ok(status)
    }

    /// Without a terminal nspawn would not let the machine write to its console; read-only it does. It makes the machine's control groups
    /// in the one that it is started in, so a shell goes there first.
    fn start_nspawn(&self, space: &NamedSpace, branch: &Branch, words: &[&str]) -> Result<Process> {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 0 > \"$0\" && exec systemd-nspawn \"$@\""]);
        command.arg(branch.path().join("cgroup.procs"));
        command.arg(format!("--directory={}", self.disk.root().display())).arg(format!("--machine={}", self.name));
        command.arg(format!("--network-namespace-path={}", space.path().display()));
        command.args(["--boot", "--quiet", "--register=no", "--keep-unit", "--console=read-only"]);
        command.args(["--bind=/dev/net/tun", "--capability=CAP_NET_ADMIN,CAP_NET_RAW"]);
        command.arg("--").args(words);
        // Where the host has control groups of both versions, nspawn would choose the older.
        command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        self.logged("console", command, |mut command| command.spawn().context("failed to run sh"))
    }
}

/// Waits until systemd has taken its place in the machine's control group.
async fn find_leader(nspawn: &Process, branch: &Branch) -> Result<Pid> {
    let folder = branch.path().join(INIT);
    let look = || async {
        let ended = nspawn.exit_status();
        ensure!(ended.is_none(), "nspawn ended with {ended:?}: {}", nspawn.log()?);
        let found = if folder.exists() { members(&folder)? } else { Vec::new() };
        Ok(found.into_iter().find(|pid| is_first(*pid)))
    };
    eventually("PID 1", START_LIMIT, look).await
}

/// Whether a process is number 1 of its own PID namespace (`NSpid` of proc_pid_status(5)).
fn is_first(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .is_some_and(|ids| ids.split_whitespace().last() == Some("1"))
}
