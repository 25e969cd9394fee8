//! Ending zombies as PID 1.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

/// How long an ended child may belong to whoever in this process waits for it, before it counts as nobody's.
///
/// tokio fetches the status of its own children in the turn of the event loop in which they end; 50 ms is many turns.
const OWNERS_TIME: Duration = Duration::from_millis(50);

/// Reaps processes that were orphaned to this one, when it is PID 1 (a container without an init); otherwise returns at once.
///
/// Children that this process started itself are left to their owners, who need their exit status.
pub async fn reap_as_init() -> io::Result<()> {
    if nix::unistd::getpid() != Pid::from_raw(1) {
        return Ok(());
    }
    let mut children = signal(SignalKind::child())?;
    loop {
        sweep().await?;
        children.recv().await;
    }
}

/// Reaps every ended child that nobody else waits for.
async fn sweep() -> io::Result<()> {
    while let Some(pid) = ended_child()? {
        tokio::time::sleep(OWNERS_TIME).await;
        tokio::task::yield_now().await;
        if ended_child()? == Some(pid) {
            reap(pid)?;
        }
    }
    Ok(())
}

/// The first child that has ended, left as it is (`WNOWAIT`).
fn ended_child() -> io::Result<Option<Pid>> {
    match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT) {
        Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => Ok(None),
        Ok(status) => Ok(status.pid()),
        Err(errno) => Err(errno.into()),
    }
}

fn reap(pid: Pid) -> io::Result<()> {
    match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
        Ok(_) => {
            tracing::debug!("reaped an orphan, process {pid}");
            Ok(())
        }
        Err(Errno::ECHILD) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::process::Command;

    use super::*;

    const INNER: &str = "DEVBOX_AGENT_TEST_SUBREAPER";

    /// Orphans fall to a subreaper as to PID 1, but its children include those of other tests: so the story runs in a process of its own.
    #[test]
    fn orphans_are_reaped_and_own_children_keep_their_status() {
        let output = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "sys::reaper::tests::story", "--include-ignored"])
            .env(INNER, "1")
            .output()
            .expect("the test runs itself");
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
    }

    #[tokio::test]
    #[ignore = "run by orphans_are_reaped_and_own_children_keep_their_status"]
    async fn story() {
        assert!(std::env::var_os(INNER).is_some(), "this test changes its process");
        nix::sys::prctl::set_child_subreaper(true).expect("subreaper");
        let orphan = orphan().await;
        waitid(Id::Pid(orphan), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).expect("it is ours now, and ends");
        let mut own = Command::new("sh").args(["-c", "exit 7"]).spawn().expect("sh");
        let (swept, status) = tokio::join!(sweep(), own.wait());
        swept.expect("sweep");
        assert_eq!(status.expect("its owner gets the status").code(), Some(7));
        assert_eq!(waitid(Id::Pid(orphan), WaitPidFlag::WEXITED), Err(Errno::ECHILD), "the orphan is gone");
    }

    /// A process whose parent has ended; it ends itself only then, so that its parent cannot have reaped it.
    async fn orphan() -> Pid {
        let script = "exec 3<&0; sh -c 'read line <&3; exit 3' >/dev/null & echo $!";
        let mut parent = Command::new("sh");
        let parent = parent.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut parent = parent.spawn().expect("sh");
        let held = parent.stdin.take();
        let output = parent.wait_with_output().await.expect("sh");
        drop(held);
        Pid::from_raw(String::from_utf8(output.stdout).expect("text").trim().parse().expect("a pid"))
    }

    #[tokio::test]
    async fn who_is_not_pid_1_reaps_nothing() {
        reap_as_init().await.expect("it returns at once");
    }
}
