//! What the kernel knows of a process.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result};
use nix::unistd::Pid;

/// A process's resident memory in MiB (`VmRSS`, proc_pid_status(5)).
///
/// # Errors
/// When the process has ended.
pub fn resident_mib(pid: Pid) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.with_context(|| format!("failed to read the memory of process {pid}: has it ended?"))?;
    let kib = field(&status, "VmRSS:").with_context(|| format!("failed to find the memory of process {pid}"))?;
    Ok(kib as f64 / 1024.0)
}

/// Counts the voluntary context switches of all threads of a process, of those too that end between two looks.
#[derive(Debug, Default)]
pub struct Switches {
    of_thread: HashMap<String, u64>,
}

impl Switches {
    /// Looks, and returns the sum over all threads ever seen. A thread that lives shorter than the time between two looks is missed.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn look(&mut self, pid: Pid) -> Result<u64> {
        let threads = fs::read_dir(format!("/proc/{pid}/task"));
        for thread in threads.with_context(|| format!("failed to list the threads of process {pid}: has it ended?"))? {
            let path = thread.context("failed to list a thread")?.path();
            // One that has just ended keeps its last count.
            let Ok(status) = fs::read_to_string(path.join("status")) else { continue };
            let count = field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            self.of_thread.insert(path.to_string_lossy().into_owned(), count);
        }
        Ok(self.of_thread.values().sum())
    }
}

/// The number of a line of `/proc/PID/status`.
fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "VmRSS:\t    4224 kB\nvoluntary_ctxt_switches:\t17\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(field(status, "VmRSS:"), Some(4224));
        assert_eq!(field(status, "voluntary_ctxt_switches:"), Some(17));
        assert_eq!(field(status, "VmSwap:"), None);
    }

    #[test]
    fn this_process_has_memory_and_switches() {
        let me = Pid::this();
        assert!(resident_mib(me).expect("it runs") > 0.1);
        let mut switches = Switches::default();
        let first = switches.look(me).expect("it runs");
        assert!(switches.look(me).expect("it runs") >= first);
    }
}
