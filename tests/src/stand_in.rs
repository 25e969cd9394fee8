//! A stand-in for the program tailscaled, for stories about the agent alone: it does what the story says, which serves LocalAPI itself.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result};

/// The hidden verb; what tailscaled is given follows.
pub const STAND_IN: &str = "tailscaled-stand-in";
/// Names the socket at which the story gives its orders; in the agent's environment, which tailscaled inherits.
pub const ORDERS: &str = "DEVBOX_LAB_STAND_IN";

/// Says that it is ready, as tailscaled does once it listens.
pub const READY: &str = "ready";
/// Ends with status 1; what follows in the line is written to standard error first.
pub const FAIL: &str = "fail ";

/// Tells the story its arguments, in one line, and then obeys until it is told to end, or the agent is gone.
///
/// # Errors
/// When it was not started as tailscaled is.
pub fn run(arguments: &[OsString]) -> Result<ExitCode> {
    let story = env::var_os(ORDERS).with_context(|| format!("{ORDERS} is not set"))?;
    let mut story = UnixStream::connect(story).context("failed to reach the story")?;
    let arguments: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    writeln!(story, "{}", arguments.join(" ")).context("failed to tell the story")?;
    let (tell, orders) = mpsc::channel();
    let gone = tell.clone();
    let life = agents_life()?;
    thread::spawn(move || await_end(life, &gone));
    thread::spawn(move || pass_on(story, &tell));
    obey(&orders)
}

/// The pipe whose other end only the agent has.
fn agents_life() -> Result<File> {
    let number = env::var("TS_PARENT_DEATH_FD").context("TS_PARENT_DEATH_FD is not set")?;
    File::open(format!("/proc/self/fd/{number}")).context("failed to open the pipe to the agent")
}

fn await_end(mut life: File, gone: &mpsc::Sender<Option<String>>) {
    // However the reading ends, the agent is gone; and so, it may be, is whoever would hear of it.
    let read = life.read(&mut [0]);
    let told = gone.send(None);
    tracing::trace!(?read, ?told, "the agent is gone");
}

fn pass_on(story: UnixStream, orders: &mpsc::Sender<Option<String>>) {
    for order in BufReader::new(story).lines() {
        if orders.send(order.ok()).is_err() {
            return;
        }
    }
}

fn obey(orders: &mpsc::Receiver<Option<String>>) -> Result<ExitCode> {
    while let Ok(Some(order)) = orders.recv() {
        if order == READY {
            notify()?;
        } else if let Some(words) = order.strip_prefix(FAIL) {
            eprintln!("{words}");
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// sd_notify(3).
fn notify() -> Result<()> {
    let socket = env::var_os("NOTIFY_SOCKET").context("NOTIFY_SOCKET is not set")?;
    let sender = UnixDatagram::unbound().context("failed to make a socket")?;
    sender.send_to(b"READY=1\nSTATUS=stands in", socket).context("failed to notify")?;
    Ok(())
}
