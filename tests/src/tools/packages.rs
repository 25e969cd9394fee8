//! Debian packages that the lab runs programs of.

use std::io;
use std::process::{Command, Output};

use nix::unistd::geteuid;

use super::programs;
use super::progress::Progress;

/// Programs, and the packages that hold them.
pub type Needs = [(&'static str, &'static str)];

/// What the lab runs everywhere. tailscaled asks for nothing more: without iptables it speaks netlink.
pub const USUAL: &Needs = &[("ip", "iproute2")];
/// What makes and boots machines of their own.
pub const TO_BOOT: &Needs = &[
    ("mmdebstrap", "mmdebstrap"),
    ("systemd-nspawn", "systemd-container"),
    ("dpkg-deb", "dpkg"),
    ("journalctl", "systemd"),
];

/// Why packages are missing.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// Not root, or not Debian: a person must install them.
    #[error("failed to find installed packages: run `sudo apt-get install -y --no-install-recommends {0}`")]
    Missing(String),
    /// apt-get could not be run.
    #[error("failed to run apt-get {0}")]
    Run(String, #[source] io::Error),
    /// apt-get refused.
    #[error("failed to install packages: apt-get {what} said: {said}")]
    Refused {
        /// Its arguments.
        what: String,
        /// The end of its output.
        said: String,
    },
}

/// Installs what is missing, when root; says so beforehand.
pub fn install_missing(progress: &Progress, needs: &Needs) -> Result<(), PackageError> {
    let missing: Vec<_> =
        needs.iter().filter(|(program, _)| programs::find(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !geteuid().is_root() || programs::find("apt-get").is_none() {
        return Err(PackageError::Missing(missing.join(" ")));
    }
    let step = progress.step(format!("installing Debian packages: {}", missing.join(" ")));
    let installed = apt(&["update"])
        .and_then(|()| apt(&[&["install", "-y", "--no-install-recommends"], missing.as_slice()].concat()));
    step.end(if installed.is_ok() { "done" } else { "failed" });
    installed
}

fn apt(arguments: &[&str]) -> Result<(), PackageError> {
    let what = arguments.join(" ");
    let run = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").output();
    match run {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(PackageError::Refused { what, said: last_words(&output) }),
        Err(error) => Err(PackageError::Run(what, error)),
    }
}

fn last_words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = text.trim().lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}
