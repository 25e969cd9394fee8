//! How tailscaled is called.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::memory;
use crate::config::settings::DaemonSettings;
use crate::sys::inherit::inherit;

/// Variables that are the agent's own, or hold credentials: systemd's talk with the agent and its directories, a CI job's token
/// request, and what the `tailscale` command reads keys from. Each stands for all names that begin so.
const NOT_INHERITED: [&str; 13] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_",
    "LISTEN_",
    "CREDENTIALS_DIRECTORY",
    "STATE_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "CACHE_DIRECTORY",
    "ACTIONS_ID_TOKEN",
    "TS_AUTHKEY",
    "TS_AUTH_KEY",
    "TS_CLIENT_SECRET",
    "TS_ID_TOKEN",
    "TS_PARENT_DEATH_FD",
];

/// What tailscaled is given besides its settings.
pub(super) struct Surroundings<'a> {
    /// Where it says that it is ready.
    pub notify: &'a Path,
    /// What it reads; it ends when the other end is closed.
    pub life: OwnedFd,
    /// Where both of its output streams go.
    pub output: OwnedFd,
    /// The agent's environment.
    pub environment: &'a [(OsString, OsString)],
}

/// The command that runs tailscaled: in a process group of its own, so that a terminal's Ctrl-C ends only the agent.
pub(super) fn tailscaled(daemon: &DaemonSettings, around: Surroundings<'_>) -> std::io::Result<Command> {
    let mut command = Command::new(&daemon.binary);
    command
        .arg(argument("--statedir=", daemon.state.as_os_str()))
        .arg(socket_argument(&daemon.socket))
        .arg(argument("--tun=", OsStr::new(&daemon.tun)))
        .arg(format!("--port={}", daemon.port))
        .env_clear()
        .envs(defaults(daemon))
        .envs(inherited(around.environment))
        .env("NOTIFY_SOCKET", around.notify)
        .env("TS_PARENT_DEATH_FD", around.life.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(around.output.try_clone()?)
        .stderr(around.output)
        .process_group(0)
        .kill_on_drop(true);
    if !daemon.port_mapping {
        command.env("TS_DISABLE_PORTMAPPER", "1");
    }
    inherit(&mut command, around.life);
    Ok(command)
}

/// The argument by which a tailscaled of ours is also recognised.
pub(super) fn socket_argument(socket: &Path) -> OsString {
    argument("--socket=", socket.as_os_str())
}

fn argument(name: &str, value: &OsStr) -> OsString {
    let mut argument = OsString::from(name);
    argument.push(value);
    argument
}

/// What the environment may say otherwise. The log configuration, with the node's log id, belongs to the state: a new state is a new node.
fn defaults(daemon: &DaemonSettings) -> [(&'static str, OsString); 2] {
    [("GOMEMLIMIT", memory::go_limit().into()), ("TS_LOGS_DIR", daemon.state.clone().into())]
}

fn inherited(environment: &[(OsString, OsString)]) -> impl Iterator<Item = (&OsString, &OsString)> {
    environment.iter().filter(|(name, _)| is_inherited(name)).map(|(name, value)| (name, value))
}

/// Whether tailscaled may have the variable `name` of whoever starts it.
pub(crate) fn is_inherited(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    !NOT_INHERITED.iter().any(|start| name.starts_with(start))
}
