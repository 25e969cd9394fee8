//! A person at a terminal: script(1) holds it, and what is typed goes through its line discipline.

use std::io::{PipeWriter, Write};

use anyhow::{Context, Result, ensure};
use devbox_lab::machine::{Process, eventually};
use nix::sys::signal::Signal;

use crate::job::{Job, LIMIT, code_of};

/// Ctrl-C, Ctrl-D and Ctrl-Z.
pub const INTERRUPT: &str = "\x03";
pub const END: &str = "\x04";
pub const SUSPEND: &str = "\x1a";

/// A terminal with a program at it.
pub struct Terminal {
    script: Process,
    keys: PipeWriter,
}

impl Terminal {
    /// Opens a terminal at which a shell's command line runs, as the user.
    pub fn open(job: &Job<'_>, line: &str) -> Result<Self> {
        let (typed, keys) = std::io::pipe()?;
        let mut script = job.command("script");
        script.args(["--quiet", "--return", "--flush", "--command", line, "/dev/null"]).stdin(typed);
        script.env("SHELL", "/bin/sh").env("TERM", "dumb").env("PS1", "$ ").env("HISTFILE", "");
        Ok(Self { script: job.machine.spawn(script)?, keys })
    }

    /// Types.
    pub fn types(&mut self, keys: &str) -> Result<()> {
        self.keys.write_all(keys.as_bytes()).context("failed to type")
    }

    /// What was shown so far.
    pub fn shown(&self) -> Result<String> {
        Ok(self.script.log()?)
    }

    /// Waits until words have been shown so often.
    pub async fn shows(&self, words: &str, times: usize) -> Result<()> {
        let look = || async {
            let enough = self.shown()?.matches(words).count() >= times;
            ensure!(enough || self.script.exit_status().is_none(), "the terminal closed");
            Ok(enough.then_some(()))
        };
        let found = eventually(&format!("{words:?} on the terminal"), LIMIT, look).await;
        found.with_context(|| format!("it shows: {:?}", self.shown().unwrap_or_default()))
    }

    /// Waits until a shell has shown its prompt: while it takes the terminal back, a key may get lost.
    pub async fn prompts(&self) -> Result<()> {
        let look = || async { Ok(self.shown()?.ends_with("$ ").then_some(())) };
        let found = eventually("a prompt", LIMIT, look).await;
        found.with_context(|| format!("it shows: {:?}", self.shown().unwrap_or_default()))
    }

    /// Waits until the program has ended; returns its exit code.
    pub async fn closes(&self) -> Result<u8> {
        code_of(&self.script).await
    }

    /// Whether the program runs.
    pub fn is_open(&self) -> bool {
        self.script.exit_status().is_none()
    }

    /// Takes the terminal away, as when a window is closed.
    pub async fn hang_up(self) -> Result<()> {
        self.script.signal(Signal::SIGTERM)?;
        self.closes().await.map(drop)
    }
}
