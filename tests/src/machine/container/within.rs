//! Being in a booted machine: threads that go to its namespaces, as `nsenter` does, without a process more.

use std::fs::File;
use std::io;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Pid;

/// What a client or server needs to be in the machine's network and among its files. The mount namespace comes last, as it hides /proc.
const TO_VISIT: [(&str, CloneFlags); 3] =
    [("uts", CloneFlags::CLONE_NEWUTS), ("net", CloneFlags::CLONE_NEWNET), ("mnt", CloneFlags::CLONE_NEWNS)];

/// What a process needs besides to be one of the machine's.
const TO_LIVE: [(&str, CloneFlags); 3] = [
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    // It is that of children only, and such a thread can start no other.
    ("pid", CloneFlags::CLONE_NEWPID),
];

/// Moves the calling thread to the network, host name and files of the machine whose PID 1 is `leader`.
pub(super) fn visit(leader: Pid) -> io::Result<()> {
    enter(leader, &TO_VISIT)
}

/// Runs `work` in a thread whose child processes are processes of the machine.
pub(super) fn live<T: Send>(leader: Pid, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let spaces = [TO_LIVE, TO_VISIT].concat();
    thread::scope(|scope| {
        let lived = scope.spawn(|| enter(leader, &spaces).and_then(|()| work())).join();
        lived.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The root and working directory are shared by all threads of a process (CLONE_FS) until one asks for its own; the kernel lets none that
/// shares them change its mount namespace.
fn enter(leader: Pid, spaces: &[(&str, CloneFlags)]) -> io::Result<()> {
    unshare(CloneFlags::CLONE_FS)?;
    let open = |(name, kind): &(&str, CloneFlags)| Ok((File::open(format!("/proc/{leader}/ns/{name}"))?, *kind));
    let files: Vec<(File, CloneFlags)> = spaces.iter().map(open).collect::<io::Result<_>>()?;
    files.into_iter().try_for_each(|(file, kind)| Ok(setns(file, kind)?))
}
