//! Machines: where the agent and its tailscaled run. A [`Machine`] is a set of Linux namespaces, made in no time by any user; a
//! [`Booted`] one has an init and a disk of its own, and needs root. Virtual machines belong beside them.
//!
//! Everything of one story lives in one [`sandbox`]: private user, PID, mount and network namespaces,
//! so that nothing survives it and nothing reaches the host. The sandbox's own network namespace is
//! the platform's; each machine has one of its own, joined by a veth pair to the platform's bridge.

pub mod cgroup;
mod container;
mod enter;
mod files;
mod inhabitant;
mod init;
mod lab;
mod logs;
mod namespace;
mod network;
mod process;
pub mod sandbox;
mod tasks;
mod tun;

pub use container::{Booted, Entry};
pub use enter::{EnterError, enter_running};
pub use files::Root;
pub use inhabitant::Visit;
pub use init::{InitError, run as run_init};
pub use lab::{Lab, eventually, inside, story};
pub use namespace::{Link, Machine, MachineError, ORDINARY};
pub use network::{METADATA, NetworkError, PLATFORM};
pub use process::{Process, ProcessError};
pub use tun::{TunError, bind_own_node};
