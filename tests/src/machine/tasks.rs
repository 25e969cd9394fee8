//! The processes of one machine, found in the sandbox's `/proc` by their UTS namespace.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long the kernel may take to stop or end processes; a second even on a loaded machine.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two looks; signals take effect in microseconds.
const PAUSE: Duration = Duration::from_millis(1);

/// Every live process in the UTS namespace `uts`, zombies excluded.
pub fn living(uts: &str) -> io::Result<Vec<Pid>> {
    Ok(tasks(uts)?.into_iter().filter(|(_, state)| *state != 'Z' && *state != 'X').map(|(pid, _)| pid).collect())
}

/// Sends `signal` to all until none is left that `done` does not hold for, the ones forked meanwhile included.
fn drive(uts: &str, signal: Signal, done: impl Fn(char) -> bool) -> io::Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let left: Vec<_> = tasks(uts)?.into_iter().filter(|(_, state)| !done(*state)).collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("processes {left:?} did not obey {signal}")));
        }
        for (pid, _) in left {
            send(pid, signal)?;
        }
        thread::sleep(PAUSE);
    }
}

/// Kills all and waits for their end.
pub fn kill_all(uts: &str) -> io::Result<()> {
    drive(uts, Signal::SIGKILL, |state| matches!(state, 'Z' | 'X'))
}

/// Stops all, as a hypervisor that pauses a machine would: no handler runs.
pub fn freeze(uts: &str) -> io::Result<()> {
    drive(uts, Signal::SIGSTOP, |state| matches!(state, 'T' | 't' | 'Z' | 'X'))
}

/// Continues all that are stopped.
pub fn thaw(uts: &str) -> io::Result<()> {
    drive(uts, Signal::SIGCONT, |state| state != 'T')
}

/// Sends a signal; a process that has ended meanwhile is no error.
pub fn send(pid: Pid, signal: Signal) -> io::Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn tasks(uts: &str) -> io::Result<Vec<(Pid, char)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        // A process that ends while being looked at is as good as gone.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        let state = state(&stat);
        let Ok(space) = fs::read_link(format!("/proc/{pid}/ns/uts")) else {
            continue;
        };
        if space.as_os_str() == uts {
            found.push((Pid::from_raw(pid), state));
        }
    }
    Ok(found)
}

/// The state letter: after the command name, which may itself hold spaces and parentheses (proc_pid_stat(5)).
fn state(stat: &str) -> char {
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('X')
}

#[cfg(test)]
mod tests {
    use super::state;

    #[test]
    fn the_state_follows_the_last_parenthesis_of_the_name() {
        assert_eq!(state("12 (a) b) T 1 12"), 'T');
        assert_eq!(state("7 (sh) Z 1"), 'Z');
    }

    #[test]
    fn a_line_cut_short_counts_as_dead() {
        assert_eq!(state("12 (sh"), 'X');
    }
}
