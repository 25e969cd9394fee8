//! The processes of one run, found as the kernel shows them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use devbox_lab::machine::{Machine, eventually};
use nix::unistd::Pid;

/// How long a tree may take to be complete, once its command runs.
const COMPLETE: Duration = Duration::from_secs(10);

/// What [`Tree::part`] finds.
pub const PARTS: [&str; 7] = ["session", "sandbox", "pasta", "tailscaled", "broker", "init", "command"];

/// The processes of a run, by name.
#[derive(Debug)]
pub struct Tree(Vec<(&'static str, Pid)>);

impl Tree {
    /// The tree of the run that `session` is the outermost process of; its command must run.
    pub async fn of(machine: &Machine, session: Pid) -> Result<Self> {
        let look = || async { Ok(find(machine, session)) };
        let found = eventually("every process of a run", COMPLETE, look).await;
        found.with_context(|| shown(machine))
    }

    /// One of [`PARTS`].
    pub fn part(&self, name: &str) -> Result<Pid> {
        let found = self.0.iter().find(|(part, _)| *part == name);
        found.map(|(_, pid)| *pid).with_context(|| format!("there is no {name} in {self:?}"))
    }
}

/// Nothing is there when the run is not complete.
fn find(machine: &Machine, session: Pid) -> Option<Tree> {
    let all = machine.processes().ok()?;
    let child = |of: Pid, wanted: &dyn Fn(Pid) -> bool| {
        all.iter().copied().find(|pid| parent(*pid) == Some(of) && wanted(*pid))
    };
    let named = |name: &'static str| move |pid: Pid| comm(pid).is_some_and(|comm| comm.starts_with(name));
    let sandbox = child(session, &|_| true)?;
    // It is PID 1 of a namespace below the sandbox's.
    let init = child(sandbox, &|pid| depth(pid) > depth(sandbox))?;
    // The broker has the sandbox's program, as init does, and the host's network.
    let broker = child(sandbox, &|pid| named("devbox-agent")(pid) && pid != init)?;
    Some(Tree(vec![
        ("session", session),
        ("sandbox", sandbox),
        ("pasta", child(sandbox, &named("pas"))?),
        ("tailscaled", child(sandbox, &named("tailscaled"))?),
        ("broker", broker),
        ("init", init),
        ("command", child(init, &|_| true)?),
    ]))
}

/// Every process with its parent, for the failure of a story.
fn shown(machine: &Machine) -> String {
    let processes = machine.processes().unwrap_or_default().into_iter();
    format!("{:?}", processes.map(|pid| (pid.as_raw(), parent(pid), depth(pid), comm(pid))).collect::<Vec<_>>())
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
