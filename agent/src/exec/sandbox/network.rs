//! The sandbox's network namespace, and when it has a way out.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};

use super::mounts::NETWORK;
use super::relay::FORWARDER;
use crate::exec::host::DNS;
use crate::sys::{interface, packet};

/// The interface that leads nowhere; as it is called where pasta makes one.
const NOWHERE: &str = "eth0";

/// A second address of the loopback (netdevice(7)).
const LOOPBACK_ALIAS: &str = "lo:1";

/// For a host without an IPv4 address of its own (TEST-NET-1, RFC 5737).
const TEST_NET: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Leaves the host's network for one with a loopback interface and nothing else.
pub(super) fn build() -> io::Result<Network> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    interface::up("lo")?;
    // So that ping works without a capability (icmp(7)); where /proc is read-only, it does not.
    if let Err(error) = fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0") {
        tracing::debug!("pings are not allowed inside: {error}");
    }
    mount(Some("/proc/self/ns/net"), NETWORK, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Network::watch()
}

/// The sandbox's network, which tells when a route is added (rtnetlink(7)).
#[derive(Debug)]
pub(super) struct Network {
    routes: OwnedFd,
    /// The interface is there as long as the file is open.
    tap: Option<File>,
}

impl Network {
    fn watch() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        let groups = libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_ROUTE;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups as u32))?;
        Ok(Self { routes: socket, tap: None })
    }

    /// Makes an interface in which packets get lost, so that tailscaled sees a network: with the host's own address, because that is the one
    /// of the sockets that the broker makes for it.
    pub fn lead_nowhere(&mut self, address: Option<Ipv4Addr>) -> io::Result<()> {
        self.tap = Some(interface::tap(NOWHERE)?);
        interface::lead_everywhere(NOWHERE, address.unwrap_or(TEST_NET))
    }

    /// Whether there is a default route. What the kernel has told meanwhile is taken in first, so that the next change is told anew.
    pub fn leads_out(&self) -> io::Result<bool> {
        let mut message = [0; 4096];
        while recv(self.routes.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT).is_ok() {}
        let table = |file: &str, is_default: fn(&str) -> bool| match fs::read_to_string(file) {
            Ok(table) => Ok(table.lines().any(is_default)),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        };
        Ok(table("/proc/self/net/route", is_default)? || table("/proc/self/net/ipv6_route", is_default6)?)
    }

    /// Has questions of the resolver arrive at the relay.
    pub fn resolve_by(&self, relay: &OwnedFd) -> io::Result<()> {
        interface::add_lone_address(LOOPBACK_ALIAS, FORWARDER)?;
        let inside = UdpSocket::bind((FORWARDER, DNS))?;
        packet::send(relay, b"socket", Some(inside.as_raw_fd()))
    }
}

impl AsFd for Network {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.routes.as_fd()
    }
}

/// A line of `/proc/net/route`: interface, destination, gateway, …
fn is_default(line: &str) -> bool {
    line.split_whitespace().nth(1) == Some("00000000")
}

/// A line of `/proc/net/ipv6_route`; the kernel's own route of last resort is one of the loopback.
fn is_default6(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let network = (words.next(), words.next());
    network == (Some("00000000000000000000000000000000"), Some("00")) && !line.trim_end().ends_with(" lo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_is_told_from_every_other() {
        assert!(!is_default("Iface\tDestination\tGateway"));
        assert!(is_default("eth0\t00000000\t0100000A\t0003"));
        assert!(!is_default("eth0\t0000000A\t00000000\t0001"));
        let line = |prefix: &str, interface: &str| format!("{} {prefix} 0 0 0 0 0 0 0 {interface}", "0".repeat(32));
        assert!(is_default6(&line("00", "eth0")));
        assert!(!is_default6(&line("00", "lo")), "the kernel's own");
        assert!(!is_default6(&line("40", "eth0")));
    }
}
