//! What is run on a devbox by hand, and tailscaled as its kernel sees it.

use std::fs;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Devbox, LIMIT};
use crate::machine::eventually;
use crate::machine::sandbox::exit_code;

/// Where tailscaled listens on a machine of a [`Scene`](crate::scene::Scene).
const DAEMON: &str = "--socket=/run/tailscale/tailscaled.sock";

/// What a command answered.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; 128 and more for a signal.
    pub code: u8,
    /// Its standard output.
    pub answer: String,
    /// Its standard error.
    pub talk: String,
}

impl Devbox<'_> {
    /// Runs `devbox-agent` with arguments.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn ask(&self, arguments: &[&str]) -> Result<Said> {
        let mut command = self.machine.command("devbox-agent");
        command.args(arguments);
        self.say(command).await
    }

    /// Runs `devbox-agent` with arguments, which must end with `code`.
    ///
    /// # Errors
    /// When it ends otherwise.
    pub async fn expect(&self, arguments: &[&str], code: u8) -> Result<Said> {
        let said = self.ask(arguments).await?;
        ensure!(said.code == code, "devbox-agent {} did not end with {code}: {said:?}", arguments.join(" "));
        Ok(said)
    }

    /// Runs the `tailscale` command as an admin on this machine would.
    ///
    /// # Errors
    /// When it fails.
    pub async fn tailscale(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.machine.command("tailscale");
        command.arg(DAEMON).args(arguments);
        let said = self.say(command).await?;
        ensure!(said.code == 0, "tailscale {} failed: {said:?}", arguments.join(" "));
        Ok(said.answer)
    }

    /// Runs a command of the machine's to its end.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn say(&self, command: Command) -> Result<Said> {
        let Output { status, stdout, stderr } = self.machine.exec(command).await?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Said { code: exit_code(status), answer: text(stdout), talk: text(stderr) })
    }

    /// tailscaled's process, once there is one.
    ///
    /// # Errors
    /// When there is none.
    pub async fn tailscaled(&self) -> Result<Pid> {
        let look = || async { self.find_tailscaled() };
        eventually("tailscaled", LIMIT, look).await.with_context(|| self.tale())
    }

    fn find_tailscaled(&self) -> Result<Option<Pid>> {
        let named = |pid: &Pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|it| it == "tailscaled\n");
        Ok(self.machine.processes()?.into_iter().find(named))
    }

    /// Sends tailscaled a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn signal_tailscaled(&self, signal: Signal) -> Result<()> {
        let pid = self.tailscaled().await?;
        kill(pid, signal).with_context(|| format!("failed to send {signal} to tailscaled"))
    }
}
