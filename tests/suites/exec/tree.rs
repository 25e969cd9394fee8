//! The processes of one run, found as the kernel shows them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use devbox_lab::machine::eventually;
use nix::unistd::Pid;

/// How long a tree may take to be complete, once its command runs.
const COMPLETE: Duration = Duration::from_secs(10);

/// The processes of a run, by name.
#[derive(Debug)]
pub struct Tree(Vec<(&'static str, Pid)>);

impl Tree {
    /// The tree of the run that `session` is the outermost process of; its command must run.
    pub async fn of(session: Pid) -> Result<Self> {
        let look = || async { find(session) };
        let found = eventually("every process of a run", COMPLETE, look).await;
        found.with_context(shown)
    }

    /// The process of a run that has this name, as the kernel has it.
    pub fn named(name: &str) -> Result<Pid> {
        let found = nested()?.into_iter().find(|pid| is_called(*pid, name));
        found.with_context(|| format!("no run has a {name}: {}", shown()))
    }

    /// Waits until a process of this name is there, in this state.
    pub async fn until(name: &str, wanted: char) -> Result<()> {
        let look = || async { Ok(Self::named(name).is_ok_and(|pid| state(pid) == Some(wanted)).then_some(())) };
        eventually(&format!("{name} in the state {wanted}"), COMPLETE, look).await.with_context(shown)
    }

    /// The PID 1 of the command of a run, which may wait for its peer.
    pub async fn init(session: Pid) -> Result<Pid> {
        let below = |pid: &Pid| parent(*pid).and_then(parent) == Some(session) && depth(*pid) > depth(session) + 1;
        let look = || async { Ok(nested()?.into_iter().find(below)) };
        eventually("the PID 1 of a run's command", COMPLETE, look).await.with_context(shown)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Pid> {
        self.0.iter().map(|(_, pid)| *pid).collect()
    }

    /// One of `session`, `sandbox`, `pasta`, `tailscaled`, `broker`, `relay`, `init` and `command`; no `pasta` where the tailnet is all
    /// that is reached.
    pub fn part(&self, name: &str) -> Result<Pid> {
        let found = self.0.iter().find(|(part, _)| *part == name);
        found.map(|(_, pid)| *pid).with_context(|| format!("there is no {name} in {self:?}"))
    }
}

/// Whether the lab can look into processes that are closed to tracing, such as a run's session: only where its root is the system's.
pub fn sees_closed_processes() -> Result<bool> {
    let map = fs::read_to_string("/proc/self/uid_map").context("failed to read the lab's uid map")?;
    Ok(map.split_whitespace().nth(1) == Some("0"))
}

/// Every process of any run, in the order of their numbers: they alone are in PID namespaces below the story's. pasta makes itself namespaces of other kinds, by which it could
/// not be found.
pub fn nested() -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("failed to list processes")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        found.extend(number.map(Pid::from_raw).filter(|pid| depth(*pid) > 1 && state(*pid) != Some('Z')));
    }
    found.sort();
    Ok(found)
}

/// Nothing when the run is not complete.
fn find(session: Pid) -> Result<Option<Tree>> {
    let all = nested()?;
    let child = |of: Pid, wanted: &dyn Fn(Pid) -> bool| {
        all.iter().copied().find(|pid| parent(*pid) == Some(of) && wanted(*pid))
    };
    let named = |name: &'static str| move |pid: Pid| comm(pid).is_some_and(|comm| comm.starts_with(name));
    let tree = || {
        let sandbox = child(session, &|_| true)?;
        // It is PID 1 of a namespace below the sandbox's.
        let init = child(sandbox, &|pid| depth(pid) > depth(sandbox))?;
        // Broker and relay have the same program as init, and are made in this order.
        let broker = child(sandbox, &|pid| named("devbox-agent")(pid) && pid != init)?;
        let relay = child(sandbox, &|pid| named("devbox-agent")(pid) && pid != init && pid > broker);
        let pasta = child(sandbox, &named("pas"));
        let network = [("pasta", pasta), ("relay", relay)].into_iter().filter_map(|(name, pid)| Some((name, pid?)));
        let others = vec![
            ("session", session),
            ("sandbox", sandbox),
            ("tailscaled", child(sandbox, &named("tailscaled"))?),
            ("broker", broker),
            ("init", init),
            ("command", child(init, &|_| true)?),
        ];
        Some(Tree(others.into_iter().chain(network).collect()))
    };
    Ok(tree())
}

/// Every process with its parent, for the failure of a story.
fn shown() -> String {
    let all = nested().unwrap_or_default().into_iter();
    format!("{:?}", all.map(|pid| (pid.as_raw(), parent(pid), depth(pid), comm(pid))).collect::<Vec<_>>())
}

/// The letter of a process's state (proc_pid_stat(5)).
pub fn state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether a process has this name, as the kernel has it.
pub fn is_called(pid: Pid, name: &str) -> bool {
    comm(pid).is_some_and(|comm| comm.trim() == name)
}

fn comm(pid: Pid) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok()
}

fn status(pid: Pid, key: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::to_owned)
}

fn parent(pid: Pid) -> Option<Pid> {
    status(pid, "PPid")?.trim().parse().ok().map(Pid::from_raw)
}

/// In how many PID namespaces it has a number.
fn depth(pid: Pid) -> usize {
    status(pid, "NSpid").map_or(0, |ids| ids.split_whitespace().count())
}
