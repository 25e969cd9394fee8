//! The lab's network: one bridge in the platform's namespace, one veth pair a machine.

use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::tools::programs;

/// The platform's address on the lab's network 10.77.0.0/24.
pub const PLATFORM: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The metadata endpoint's address, as clouds use it (link-local, RFC 3927).
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// First machine's last octet; those below are left to the platform.
const FIRST_MACHINE: u8 = 10;

/// `BR_STATE_FORWARDING` of linux/if_bridge.h.
const FORWARDING: &str = "3";
/// How long the bridge may take to notice a link; milliseconds when idle.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at the bridge.
const GLANCE: Duration = Duration::from_millis(1);

/// Why the network could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The `ip` command is not installed.
    #[error("failed to find `ip`: install the package iproute2")]
    NoIp,
    /// The `ip` command could not be run.
    #[error("failed to run ip")]
    Run(#[source] io::Error),
    /// The `ip` command refused a line.
    #[error("failed to change the network: ip said: {said}; asked for: {asked}")]
    Refused {
        /// The commands of the batch.
        asked: String,
        /// Its standard error.
        said: String,
    },
    /// The bridge did not take up a link.
    #[error("failed to see the bridge forward for port{port} within {}", humantime::format_duration(LIMIT))]
    NotForwarding {
        /// The port's number.
        port: usize,
    },
    /// All addresses are taken.
    #[error("failed to find an address for machine {0}: the network has room for 200")]
    Full(usize),
}

/// The address of the machine with this index.
pub fn address(index: usize) -> Result<Ipv4Addr, NetworkError> {
    match u8::try_from(index) {
        Ok(i) if i < 200 => Ok(Ipv4Addr::new(10, 77, 0, FIRST_MACHINE + i)),
        _ => Err(NetworkError::Full(index)),
    }
}

/// Raises the platform's side, in the calling thread's network namespace. The bridge has a fixed MAC address: without
/// one it takes the lowest of its ports', so each new machine would make the others' ARP entries stale.
pub fn raise_platform() -> Result<(), NetworkError> {
    batch(&format!(
        "link set lo up\n\
         link add br0 address 02:77:00:00:00:01 type bridge\n\
         addr add {PLATFORM}/24 dev br0\n\
         addr add {METADATA}/32 dev br0\n\
         link set br0 up\n"
    ))
}

/// Lays a cable: one end on the bridge, the other as `eth0` in the namespace of the thread `tid`. Called in the platform's namespace.
pub fn plug(index: usize, tid: Pid) -> Result<(), NetworkError> {
    batch(&cable(index, &tid))
}

fn cable(index: usize, namespace: &dyn Display) -> String {
    let end = FIRST_MACHINE as usize + index;
    format!(
        "link add port{index} type veth peer name eth0 address 02:77:00:00:01:{end:02x} netns {namespace}\n\
         link set port{index} master br0 up\n"
    )
}

/// A network namespace with a name on disk, which outlives the processes in it: whoever boots a machine makes it beforehand. Dropping it
/// removes it, its cable and every device in it.
#[derive(Debug)]
pub struct NamedSpace {
    name: String,
    index: usize,
}

impl NamedSpace {
    /// Makes the namespace `name` with a cable to the bridge and its loopback device up.
    pub fn create(name: &str, index: usize) -> Result<Self, NetworkError> {
        batch(&format!("netns add {name}\n"))?;
        let space = Self { name: name.to_owned(), index };
        batch(&cable(index, &name))?;
        space.batch("link set lo up\n")?;
        Ok(space)
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Gives `eth0` its address and routes, and waits until the bridge forwards for it.
    pub fn link_up(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
        self.batch(&up_with(address))?;
        await_forwarding(self.index)
    }

    /// Takes `eth0` down.
    pub fn link_down(&self) -> Result<(), NetworkError> {
        self.batch(DOWN)
    }

    fn batch(&self, lines: &str) -> Result<(), NetworkError> {
        ip(&["-netns", &self.name, "-batch", "-"], lines)
    }
}

impl Drop for NamedSpace {
    fn drop(&mut self) {
        let removed = batch(&format!("link del port{}\nnetns del {}\n", self.index, self.name));
        if let Err(error) = removed {
            tracing::warn!(name = self.name, %error, "failed to remove a network namespace");
        }
    }
}

/// Waits until the bridge forwards for a machine whose link has just come up: the kernel tells the bridge by a work queue, and
/// what is sent before that is lost, which costs TCP a second. Called in the platform's namespace.
pub fn await_forwarding(index: usize) -> Result<(), NetworkError> {
    let file = format!("/sys/class/net/port{index}/brport/state");
    let deadline = Instant::now() + LIMIT;
    while fs::read_to_string(&file).is_ok_and(|state| state.trim() != FORWARDING) {
        if Instant::now() > deadline {
            return Err(NetworkError::NotForwarding { port: index });
        }
        thread::sleep(GLANCE);
    }
    Ok(())
}

/// Removes a cable, both ends of it. Called in the platform's namespace.
pub fn unplug(index: usize) -> Result<(), NetworkError> {
    batch(&format!("link del port{index}\n"))
}

/// Raises the loopback device of a machine, IPv6 included. Called in the machine's namespace.
pub fn raise_loopback() -> Result<(), NetworkError> {
    batch("link set lo up\n")
}

/// Gives `eth0` its address and routes; safe to repeat. Called in the machine's namespace.
pub fn link_up(address: Ipv4Addr) -> Result<(), NetworkError> {
    batch(&up_with(address))
}

fn up_with(address: Ipv4Addr) -> String {
    format!(
        "addr replace {address}/24 dev eth0\n\
         link set eth0 up\n\
         route replace default via {PLATFORM}\n\
         route replace {METADATA}/32 dev eth0 src {address}\n"
    )
}

const DOWN: &str = "link set eth0 down\n";

/// Takes `eth0` down, and its routes with it: sending then fails at once with ENETUNREACH. Called in the machine's namespace.
pub fn link_down() -> Result<(), NetworkError> {
    batch(DOWN)
}

/// Runs `ip -batch` in the calling thread's network namespace: one process for all lines.
fn batch(lines: &str) -> Result<(), NetworkError> {
    ip(&["-batch", "-"], lines)
}

fn ip(arguments: &[&str], lines: &str) -> Result<(), NetworkError> {
    let ip = programs::find("ip").ok_or(NetworkError::NoIp)?;
    let mut child = Command::new(ip)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NetworkError::Run)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes()).map_err(NetworkError::Run)?;
    }
    let output = child.wait_with_output().map_err(NetworkError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(NetworkError::Refused { asked: lines.trim().replace('\n', "; "), said })
}
