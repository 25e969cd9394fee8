//! Makes tailscaled's UDP sockets in the host's network, because through pasta they would carry a quarter of what they can. Where there is no
//! pasta, it makes tailscaled's connections there too, and nothing else of the sandbox has a way out.
//!
//! The caller may make such sockets anyway, so that no privilege is lent.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, getsockopt, socket, sockopt,
};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::sys::packet;
use crate::sys::seccomp::{Call, Condition, Listener, Owner, Rule, hand_over, network_of};

/// Go's net package makes its sockets non-blocking at once. wireguard-go makes blocking ones to configure its interface: they belong inside.
const GOS: u32 = (libc::SOCK_DGRAM | libc::SOCK_NONBLOCK) as u32;
/// What of a socket's type counts: the kind, and whether it is non-blocking.
const KIND: u32 = 0xf | libc::SOCK_NONBLOCK as u32;

/// What tailscaled has its sockets made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Packets; what it connects to goes through pasta.
    Packets,
    /// Its connections as well.
    Everything,
}

fn rules(extent: Extent) -> Vec<Rule> {
    let condition = |argument, mask, values: &[i32]| Condition {
        argument,
        mask,
        values: values.iter().map(|value| *value as u32).collect(),
    };
    let families = condition(0, !0, &[libc::AF_INET, libc::AF_INET6]);
    let udp = [condition(1, KIND, &[GOS as i32]), condition(2, !0, &[0, libc::IPPROTO_UDP])];
    let mark = vec![condition(1, !0, &[libc::SOL_SOCKET]), condition(2, !0, &[libc::SO_MARK])];
    let mut rules = vec![
        Rule { number: libc::SYS_socket, conditions: [families].into_iter().chain(udp).collect() },
        Rule { number: libc::SYS_setsockopt, conditions: mark },
    ];
    if extent == Extent::Everything {
        rules.push(Rule { number: libc::SYS_connect, conditions: Vec::new() });
    }
    rules
}

/// In tailscaled, before it is executed: hands its sockets over to the broker at the other end of `socket`.
///
/// # Errors
/// Where the kernel or a container forbids it: then tailscaled makes its sockets itself, and the broker has nothing to do.
pub(super) fn use_broker(socket: &OwnedFd, extent: Extent) -> io::Result<()> {
    let listener = hand_over(&rules(extent))?;
    packet::send(socket, b"listener", Some(listener.as_raw_fd()))
}

/// Answers until tailscaled has ended.
///
/// # Errors
/// When a call could not be answered: tailscaled would wait for ever, so that the run must end.
pub(super) fn serve(from: OwnedFd) -> io::Result<()> {
    packet::with_senders(&from)?;
    let Some(packet) = packet::receive(&from, MsgFlags::empty())? else { return Ok(()) };
    let (Some(listener), Some(pid)) = (packet.descriptor, packet.sender) else { return Ok(()) };
    drop(from);
    let own = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let broker = Broker { listener: listener.into(), tailscaled: Owner::open(pid)?, network: network_of(&own)? };
    while let Some(call) = broker.listener.receive()? {
        broker.answer(call)?;
    }
    Ok(())
}

struct Broker {
    listener: Listener,
    tailscaled: Owner,
    /// The host's network.
    network: u64,
}

impl Broker {
    fn answer(&self, call: Call) -> io::Result<()> {
        match call.number {
            libc::SYS_socket => self.make(call),
            libc::SYS_connect => self.connect(call),
            _ => self.mark(call),
        }
    }

    fn make(&self, call: Call) -> io::Result<()> {
        let [family, kind, ..] = call.arguments;
        let family = if family == libc::AF_INET as u64 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::from_bits_truncate(kind as i32) | SockFlag::SOCK_CLOEXEC;
        match socket(family, SockType::Datagram, flags, SockProtocol::Udp) {
            Ok(made) => self.listener.give(call, &made),
            Err(errno) => self.listener.answer_with(call, Err(errno)),
        }
    }

    /// Puts a socket of the host's network in the place of the one that is to be connected. Go waits for it only after this call.
    fn connect(&self, call: Call) -> io::Result<()> {
        let [number, at, length, ..] = call.arguments;
        let Some(to) = self.outside(call.thread, number, at, length) else { return self.listener.proceed(call) };
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let connected = socket(family, SockType::Stream, flags, None).and_then(|made| {
            let connected = connect(made.as_raw_fd(), &SockaddrStorage::from(to));
            let replaced = self.listener.replace(call, &made, number as u32);
            replaced.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default())).and(connected)
        });
        self.listener.answer_with(call, connected)
    }

    /// Where a TCP socket is to be connected to, when that is neither inside nor in the tailnet.
    fn outside(&self, thread: i32, number: u64, at: u64, length: u64) -> Option<SocketAddr> {
        let socket = self.tailscaled.descriptor(number).ok()?;
        if getsockopt(&socket, sockopt::SockType).ok()? != SockType::Stream {
            return None;
        }
        let mut bytes = [0; SOCKADDR_MAX];
        let remote = RemoteIoVec { base: at as usize, len: SOCKADDR_MAX.min(length as usize) };
        process_vm_readv(Pid::from_raw(thread), &mut [IoSliceMut::new(&mut bytes)], &[remote]).ok()?;
        address(&bytes).filter(|address| !is_inside(address.ip()))
    }

    /// A socket of the host's network needs no mark, and may have none; told that it failed, tailscaled would bind all its sockets to an
    /// interface. Inside, the mark is what tells tailscaled from the command.
    fn mark(&self, call: Call) -> io::Result<()> {
        let socket = self.tailscaled.descriptor(call.arguments[0]);
        match socket.and_then(|socket| network_of(&socket.as_fd())) {
            Ok(network) if network == self.network => self.listener.answer_with(call, Ok(())),
            _ => self.listener.proceed(call),
        }
    }
}

/// The size of a sockaddr_in6.
const SOCKADDR_MAX: usize = 28;

/// A sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)).
fn address(bytes: &[u8; SOCKADDR_MAX]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    match i32::from(u16::from_ne_bytes([bytes[0], bytes[1]])) {
        libc::AF_INET => Some((Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[4..8]).ok()?), port).into()),
        libc::AF_INET6 => {
            let scope = u32::from_ne_bytes(bytes[24..28].try_into().ok()?);
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[8..24]).ok()?);
            Some(SocketAddrV6::new(ip, port, 0, scope).into())
        }
        _ => None,
    }
}

/// The loopback, and the addresses of tailnets (100.64.0.0/10, fd7a:115c:a1e0::/48).
fn is_inside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.is_loopback() || v6.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0],
    }
}

/// Whether this kernel gives a descriptor and answers the call in one step: without it, a socket could be lost between the two (Linux 5.14).
pub(super) fn possible() -> bool {
    let Ok(kernel) = nix::sys::utsname::uname() else { return false };
    version(&kernel.release().to_string_lossy()).is_some_and(|version| version >= (5, 14))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next()?, numbers.next()?) {
        (Ok(major), Ok(minor)) => Some((major, minor)),
        _ => None,
    }
}

/// What a broker that could not serve ends with.
pub(super) fn code(served: io::Result<()>) -> u8 {
    match served {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().map_or(1, |errno| (errno as u8).max(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_kernel_has_them_and_told_apart() {
        let mut v4 = [0; SOCKADDR_MAX];
        v4[..8].copy_from_slice(&[2, 0, 0x01, 0xbb, 192, 0, 2, 7]);
        assert_eq!(address(&v4), Some("192.0.2.7:443".parse().expect("an address")));
        let mut v6 = [0; SOCKADDR_MAX];
        v6[..4].copy_from_slice(&[10, 0, 0, 80]);
        v6[8..10].copy_from_slice(&[0xfd, 0x7a]);
        assert_eq!(address(&v6), Some("[fd7a::]:80".parse().expect("an address")));
        assert_eq!(address(&[1; SOCKADDR_MAX]), None, "another family");
        for (ip, inside) in [("127.0.0.1", true), ("100.127.0.1", true), ("100.128.0.1", false), ("192.0.2.7", false)] {
            assert_eq!(is_inside(ip.parse().expect("an address")), inside, "{ip}");
        }
        for (ip, inside) in [("::1", true), ("fd7a:115c:a1e0::53", true), ("fd7a:115c:a1e1::53", false)] {
            assert_eq!(is_inside(ip.parse().expect("an address")), inside, "{ip}");
        }
    }

    #[test]
    fn kernels_are_told_apart_by_their_release() {
        assert_eq!(version("6.18.44-cloud-amd64"), Some((6, 18)));
        assert_eq!(version("5.10.0-28-amd64"), Some((5, 10)));
        assert_eq!(version("strange"), None);
    }
}
