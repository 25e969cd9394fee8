//! What has to be there, and why the kernel says no.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::errno::Errno;
use tokio::process::Command;

use super::control::{Part, Step};
use super::sandbox::Programs;
use crate::tailscaled::supported;

/// Searched after PATH: an ordinary user's lacks where distributions keep tailscaled and nft.
const ALSO: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A program that is not there.
#[derive(Debug, thiserror::Error)]
#[error("{program} is not installed: {remedy}")]
pub(super) struct Missing {
    program: String,
    remedy: &'static str,
}

/// Finds the programs that the sandbox runs. Whether they can do what is needed shows when they run.
pub(super) fn programs(tailscaled: &Path, path: Option<&OsStr>, pasta: bool) -> Result<Programs, Missing> {
    let find =
        |name: &Path, remedy| find(name, path).ok_or_else(|| Missing { program: name.display().to_string(), remedy });
    Ok(Programs {
        tailscaled: find(tailscaled, "install tailscale, or correct [daemon] binary")?,
        pasta: pasta.then(|| find("pasta".as_ref(), "install the package passt")).transpose()?,
        nft: find("nft".as_ref(), "install the package nftables")?,
    })
}

/// A program that is there and will not do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    /// It does not start.
    #[error("failed to run {}", program.display())]
    Broken {
        program: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// It lacks an option.
    #[error("{} is too old: it has no {option}; upgrade passt to 2023-02 or later", program.display())]
    Pasta { program: PathBuf, option: &'static str },
    /// The agent does not drive it.
    #[error("{} is version {version}, older than [daemon] min_version: upgrade tailscale", program.display())]
    Tailscaled { program: PathBuf, version: String },
}

/// Asks the programs what they can do; a run finds out by itself, so that only `--check` asks.
pub(super) async fn fit(programs: &Programs, min_version: (u32, u32)) -> Result<(), Unfit> {
    const OPTION: &str = "--no-map-gw";
    // Its --version says nothing unless it writes to a terminal; the help comes on one stream or the other.
    if let Some(program) = programs.pasta.clone()
        && !said(&program, "--help").await?.contains(OPTION)
    {
        return Err(Unfit::Pasta { program, option: OPTION });
    }
    let program = programs.tailscaled.clone();
    let version = said(&program, "--version").await?.lines().next().unwrap_or_default().trim().to_owned();
    if supported(&version, min_version) { Ok(()) } else { Err(Unfit::Tailscaled { program, version }) }
}

/// What a program says; it is killed when nobody waits for that any more.
async fn said(program: &Path, option: &str) -> Result<String, Unfit> {
    let output = Command::new(program).arg(option).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = output.await.map_err(|source| Unfit::Broken { program: program.to_owned(), source })?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// The program's real path: what lies below /run and /etc is out of sight in the sandbox.
fn find(name: &Path, path: Option<&OsStr>) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if name.components().count() > 1 {
        return fs::canonicalize(name).ok().filter(executable);
    }
    let directories = std::env::split_paths(path.unwrap_or_default()).chain(ALSO.map(PathBuf::from));
    directories.map(|directory| directory.join(name)).find(executable).and_then(|found| fs::canonicalize(found).ok())
}

/// What the kernel says of its limits.
pub(super) trait Limits {
    /// A file below `/proc/sys`, or `None` where there is none: then nothing is limited by it.
    fn read(&self, name: &str) -> Option<String>;
}

/// This kernel.
pub(super) struct Kernel;

impl Limits for Kernel {
    fn read(&self, name: &str) -> Option<String> {
        Some(fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().to_owned())
    }
}

/// What to do about what nobody foresaw.
const UNEXPECTED: &str = "this is unexpected: please report it, with what --set log.level=debug says";

/// The limit on user namespaces, and those on the others, each ENOSPC when it is reached (namespaces(7)).
const COUNTS: [&str; 4] = ["user", "pid", "mnt", "net"];

/// What nft says where the kernel has no nf_tables at all, and where it lacks a part of them.
const NO_NF_TABLES: [&str; 3] = ["Protocol not supported", "Operation not supported", "No such file or directory"];

/// What to do about a part of the sandbox that has ended.
pub(super) fn remedy_of(part: Part, said: &str) -> &'static str {
    match part {
        Part::Pasta => "upgrade passt, or reach the tailnet alone with --tailnet-only, which needs no pasta",
        Part::Firewall if NO_NF_TABLES.iter().any(|words| said.contains(words)) => {
            "the kernel must have nf_tables: load the module, or ask whoever runs the host of this container"
        }
        Part::Firewall => UNEXPECTED,
        Part::Tailscaled => "run it again with --set log.level=debug for its log; dmesg says whether memory ran out",
        Part::Broker => {
            "dmesg says whether memory ran out; where the kernel does not allow it, leave --tailnet-only out"
        }
        Part::Relay | Part::Init => "dmesg says whether memory ran out",
    }
}

/// What to do about a step that failed, with `errno` if the kernel refused. The causes are told apart by looking; each was tried, but for those
/// of Docker.
pub(super) fn remedy(step: Step, errno: Option<Errno>, limits: &impl Limits) -> String {
    let Some(errno) = errno else { return UNEXPECTED.to_owned() };
    match (step, errno) {
        (Step::Namespaces | Step::Network, Errno::ENOSPC) => count(limits),
        (Step::Namespaces, Errno::EPERM | Errno::ENOSYS | Errno::EACCES) => forbidden(limits),
        (Step::IdMaps | Step::Mounts | Step::Network, Errno::EPERM | Errno::EACCES) => denied(limits),
        (Step::Tun, Errno::ENOENT) => {
            "load the module tun, or give the container the device: --device /dev/net/tun".to_owned()
        }
        (Step::Tun, Errno::ENODEV) => "the device has no driver behind it: load the module tun".to_owned(),
        (Step::Tun, _) => {
            "this user must be able to open it: chmod 666 /dev/net/tun, as distributions have it".to_owned()
        }
        (Step::Namespaces | Step::Processes, Errno::EAGAIN) => {
            "too many processes: see ulimit -u and the control group's pids.max".to_owned()
        }
        _ => UNEXPECTED.to_owned(),
    }
}

fn count(limits: &impl Limits) -> String {
    let zero = COUNTS.iter().find(|kind| limits.read(&format!("user/max_{kind}_namespaces")).as_deref() == Some("0"));
    match zero {
        Some(kind) => format!("user.max_{kind}_namespaces is 0: sysctl -w user.max_{kind}_namespaces=15000"),
        None => "a limit of namespaces is reached: see sysctl user.max_user_namespaces and its like".to_owned(),
    }
}

fn forbidden(limits: &impl Limits) -> String {
    if limits.read("kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return "kernel.unprivileged_userns_clone is 0: sysctl -w kernel.unprivileged_userns_clone=1".to_owned();
    }
    "something forbids user namespaces: in a container allow them (Docker: --security-opt seccomp=unconfined); a chroot cannot have them".to_owned()
}

fn denied(limits: &impl Limits) -> String {
    if limits.read("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        return "AppArmor restricts user namespaces to programs with a profile: load the one of devbox-agent's package (/etc/apparmor.d/devbox-agent)"
            .to_owned();
    }
    "something forbids it, such as a container's or a security module's profile: see dmesg".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Said(&'static str, &'static str);

    impl Limits for Said {
        fn read(&self, name: &str) -> Option<String> {
            (name == self.0).then(|| self.1.to_owned())
        }
    }

    #[test]
    fn the_remedy_names_the_limit_that_is_the_cause() {
        let nothing = Said("", "");
        for (step, errno, limits, expected) in [
            (Step::Namespaces, Errno::ENOSPC, Said("user/max_user_namespaces", "0"), "user.max_user_namespaces is 0"),
            (Step::Namespaces, Errno::ENOSPC, Said("user/max_net_namespaces", "0"), "user.max_net_namespaces is 0"),
            (
                Step::Namespaces,
                Errno::EPERM,
                Said("kernel/unprivileged_userns_clone", "0"),
                "unprivileged_userns_clone=1",
            ),
            (
                Step::IdMaps,
                Errno::EPERM,
                Said("kernel/apparmor_restrict_unprivileged_userns", "1"),
                "/etc/apparmor.d/devbox-agent",
            ),
            (Step::Mounts, Errno::EACCES, Said("kernel/apparmor_restrict_unprivileged_userns", "1"), "AppArmor"),
            (Step::Tun, Errno::EACCES, nothing, "chmod 666 /dev/net/tun"),
        ] {
            let said = remedy(step, Some(errno), &limits);
            assert!(said.contains(expected), "{step:?} {errno}: {said}");
        }
    }

    #[test]
    fn a_kernel_without_nf_tables_is_told_from_rules_that_nft_refuses() {
        let said = remedy_of(Part::Firewall, "Unable to initialize Netlink socket: Protocol not supported");
        assert!(said.contains("nf_tables"), "{said}");
        assert_eq!(remedy_of(Part::Firewall, "Error: syntax error, unexpected junk"), UNEXPECTED);
    }

    #[test]
    fn a_program_is_found_where_distributions_keep_it_and_by_its_real_path() {
        let directory = tempfile::tempdir().expect("a directory");
        let real = directory.path().join("real");
        fs::write(&real, "").expect("a file");
        std::os::unix::fs::symlink(&real, directory.path().join("link")).expect("a link");
        assert_eq!(find("link".as_ref(), Some(directory.path().as_os_str())), None, "it is not executable");
        fs::set_permissions(&real, fs::Permissions::from_mode(0o755)).expect("executable");
        let real = fs::canonicalize(real).expect("a path");
        assert_eq!(find("link".as_ref(), Some(directory.path().as_os_str())), Some(real));
        let missing = programs("no-such-tailscaled".as_ref(), None, true).expect_err("it is not there");
        assert!(missing.to_string().contains("install tailscale"), "{missing}");
    }
}
