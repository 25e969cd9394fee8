//! Makes tailscaled's UDP sockets in the host's network, because through pasta they would carry a quarter of what they can.
//!
//! The caller may make such sockets anyway, so that no privilege is lent. tailscaled's ordinary connections stay in the sandbox.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, socket};

use crate::sys::packet;
use crate::sys::seccomp::{Call, Condition, Listener, Owner, Rule, hand_over, network_of};

/// Go's net package makes its sockets non-blocking at once. wireguard-go makes blocking ones to configure its interface: they belong inside.
const GOS: u32 = (libc::SOCK_DGRAM | libc::SOCK_NONBLOCK) as u32;
/// What of a socket's type counts: the kind, and whether it is non-blocking.
const KIND: u32 = 0xf | libc::SOCK_NONBLOCK as u32;

fn rules() -> [Rule; 2] {
    let condition = |argument, mask, values: &[i32]| Condition {
        argument,
        mask,
        values: values.iter().map(|value| *value as u32).collect(),
    };
    let families = condition(0, !0, &[libc::AF_INET, libc::AF_INET6]);
    let udp = [condition(1, KIND, &[GOS as i32]), condition(2, !0, &[0, libc::IPPROTO_UDP])];
    let mark = vec![condition(1, !0, &[libc::SOL_SOCKET]), condition(2, !0, &[libc::SO_MARK])];
    [
        Rule { number: libc::SYS_socket, conditions: [families].into_iter().chain(udp).collect() },
        Rule { number: libc::SYS_setsockopt, conditions: mark },
    ]
}

/// In tailscaled, before it is executed: hands its sockets over to the broker at the other end of `socket`.
///
/// # Errors
/// Where the kernel or a container forbids it: then tailscaled makes its sockets itself, and the broker has nothing to do.
pub(super) fn use_broker(socket: &OwnedFd) -> io::Result<()> {
    let listener = hand_over(&rules())?;
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
    fn kernels_are_told_apart_by_their_release() {
        assert_eq!(version("6.18.44-cloud-amd64"), Some((6, 18)));
        assert_eq!(version("5.10.0-28-amd64"), Some((5, 10)));
        assert_eq!(version("strange"), None);
    }
}
