//! Debian packages that the lab runs programs of.

use std::io;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use nix::unistd::geteuid;
use tempfile::TempDir;

use super::programs;
use super::progress::Progress;

/// Programs, and the packages that hold them.
pub type Needs = [(&'static str, &'static str)];

/// What the lab runs everywhere. tailscaled asks for nothing more: without iptables it speaks netlink.
pub const USUAL: &Needs = &[("ip", "iproute2")];
/// What `exec` runs, and what the stories of it do with it.
pub const EXEC: &Needs = &[("pasta", "passt"), ("nft", "nftables"), ("curl", "curl"), ("initdb", "postgresql")];
/// What makes and boots machines of their own.
pub const TO_BOOT: &Needs = &[
    ("mmdebstrap", "mmdebstrap"),
    ("systemd-nspawn", "systemd-container"),
    ("dpkg-deb", "dpkg"),
    ("journalctl", "systemd"),
];
/// What the stories of `exec` run besides: commands of jobs, and a peer's servers.
pub const COMMANDS: &Needs = &[
    ("dpkg-deb", "dpkg"),
    ("ping", "iputils-ping"),
    ("dig", "bind9-dnsutils"),
    ("git", "git"),
    ("ssh", "openssh-client"),
    ("sshd", "openssh-server"),
];

/// What packages enable and start their services with. A program of the lab is run by the lab: nobody who tests is given a service by it.
const SERVICES: [&str; 4] = ["deb-systemd-helper", "deb-systemd-invoke", "invoke-rc.d", "update-rc.d"];

/// Why packages are missing.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// Not root, or not Debian: a person must install them.
    #[error("failed to find installed packages: run `sudo apt-get install -y --no-install-recommends {0}`")]
    Missing(String),
    /// The packages' services could not be kept from starting.
    #[error("failed to keep services of packages from starting")]
    Services(#[source] io::Error),
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

/// The packages of programs that are not there.
fn missing(needs: &Needs) -> Vec<&'static str> {
    needs.iter().filter(|(program, _)| programs::find(program).is_none()).map(|(_, package)| *package).collect()
}

/// Installs what is missing, when root; says so beforehand. No service of theirs is enabled or started.
pub fn install_missing(progress: &Progress, needs: &Needs) -> Result<(), PackageError> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    if !geteuid().is_root() || programs::find("apt-get").is_none() {
        return Err(PackageError::Missing(missing.join(" ")));
    }
    let step = progress.step(format!("installing Debian packages: {}", missing.join(" ")));
    let installed = install(&missing);
    step.end(if installed.is_ok() { "done" } else { "failed" });
    installed
}

fn install(packages: &[&str]) -> Result<(), PackageError> {
    let disarmed = disarm_services().map_err(PackageError::Services)?;
    let path = format!("DPkg::Path={}:{}", disarmed.path().display(), programs::SYSTEM_PATH);
    apt(&["update"])?;
    apt(&[&["install", "-y", "--no-install-recommends", "-o", &path], packages].concat())
}

/// A folder in which everything that deals with services is `true`, to come first in the PATH of packages' scripts.
fn disarm_services() -> io::Result<TempDir> {
    let folder = tempfile::tempdir()?;
    for name in SERVICES {
        symlink("/bin/true", folder.path().join(name))?;
    }
    Ok(folder)
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
