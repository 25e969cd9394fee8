//! Makes tailscaled's own sockets in the host's network: through pasta its packets would have a quarter of the throughput, and
//! each of its exchanges would take 40 ms longer (measured with Debian 12's pasta).
//!
//! The mark says which: tailscaled marks every socket whose traffic must go around the tunnel, and no other. What it asks of name servers is not
//! marked, because they may be in the tailnet. The caller may make such sockets anyway, so that no privilege is lent.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, setsockopt,
    socket, sockopt,
};

use crate::sys::packet;
use crate::sys::seccomp::{Call, Condition, Listener, Owner, Rule, hand_over, network_of};

/// `setsockopt(…, SOL_SOCKET, SO_MARK, …)`. Go's net package calls it after it has made a socket, and before it uses or waits for it.
fn marking() -> Rule {
    let condition = |argument, value: i32| Condition { argument, value: value as u32 };
    Rule { number: libc::SYS_setsockopt, conditions: vec![condition(1, libc::SOL_SOCKET), condition(2, libc::SO_MARK)] }
}

/// In tailscaled, before it is executed: hands its sockets over to the broker at the other end of `socket`. Where a container forbids that, a
/// dispensable broker has nothing to do, and everything of tailscaled's goes through pasta; `log` is told.
///
/// # Errors
/// Where it is forbidden and the broker is not dispensable.
pub(super) fn use_broker(socket: &OwnedFd, dispensable: bool, log: &OwnedFd) -> io::Result<()> {
    match hand_over(&[marking()]) {
        Ok(listener) => packet::send(socket, b"listener", Some(listener.as_raw_fd())),
        Err(error) if dispensable => writeln!(File::from(log.try_clone()?), "no socket broker, pasta instead: {error}"),
        Err(error) => Err(error),
    }
}

/// Answers until tailscaled has ended. A dispensable broker leaves alone what it may not look at: that goes through pasta.
///
/// # Errors
/// When a call could not be answered: tailscaled would wait for ever, so that the run must end.
pub(super) fn serve(from: OwnedFd, dispensable: bool) -> io::Result<()> {
    let Some(packet) = packet::receive(&from, MsgFlags::empty())? else { return Ok(()) };
    let (Some(listener), Some(pid)) = (packet.descriptor, packet.sender) else { return Ok(()) };
    drop(from);
    let own = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let (tailscaled, network) = (Owner::open(pid)?, network_of(&own)?);
    let broker = Broker { listener: listener.into(), tailscaled, network, dispensable };
    while let Some(call) = broker.listener.receive()? {
        broker.mark(call)?;
    }
    Ok(())
}

struct Broker {
    listener: Listener,
    tailscaled: Owner,
    /// The host's network.
    network: u64,
    dispensable: bool,
}

impl Broker {
    /// Puts a socket of the host's network in the place of the one that is to be marked. There it needs no mark, and may have none; told
    /// that it failed, tailscaled would bind all its sockets to an interface.
    fn mark(&self, call: Call) -> io::Result<()> {
        let number = call.arguments[0];
        let socket = match self.tailscaled.descriptor(number) {
            Ok(socket) => socket,
            // Closed meanwhile, or its owner has ended.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ESRCH)) => {
                return self.listener.proceed(call);
            }
            Err(_) if self.dispensable => return self.listener.proceed(call),
            Err(error) => return Err(error),
        };
        if network_of(&socket)? == self.network {
            return self.listener.answer_with(call, Ok(()));
        }
        match twin(&socket)? {
            Some(twin) => {
                self.listener.replace(call, &twin, number as u32)?;
                self.listener.answer_with(call, Ok(()))
            }
            None => self.listener.proceed(call),
        }
    }
}

/// A socket like this one, in this process's network; none for what is neither TCP nor UDP, such as a packet socket.
fn twin(of: &impl AsFd) -> io::Result<Option<OwnedFd>> {
    let kind = getsockopt(&of.as_fd(), sockopt::SockType)?;
    let family = getsockname::<SockaddrStorage>(of.as_fd().as_raw_fd())?.family();
    let (Some(family @ (AddressFamily::Inet | AddressFamily::Inet6)), SockType::Stream | SockType::Datagram) =
        (family, kind)
    else {
        return Ok(None);
    };
    let twin = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    // What Go has set by then; a datagram socket alone may broadcast.
    if family == AddressFamily::Inet6 {
        setsockopt(&twin, sockopt::Ipv6V6Only, &getsockopt(&of.as_fd(), sockopt::Ipv6V6Only)?)?;
    }
    setsockopt(&twin, sockopt::Broadcast, &getsockopt(&of.as_fd(), sockopt::Broadcast)?)?;
    Ok(Some(twin))
}

/// Whether this kernel tells one network from another by a number (Linux 5.14); all else is older.
pub(super) fn possible() -> bool {
    socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .is_ok_and(|socket| network_of(&socket).is_ok())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_twin_is_of_the_same_kind_and_has_the_same_options() {
        let socket = UdpSocket::bind("[::1]:0").expect("a socket");
        socket.set_broadcast(true).expect("an option");
        let twin = twin(&socket).expect("made").expect("a twin");
        assert_eq!(getsockopt(&twin, sockopt::SockType), Ok(SockType::Datagram));
        assert_eq!(getsockopt(&twin, sockopt::Broadcast), Ok(true));
        assert_eq!(getsockopt(&twin, sockopt::Ipv6V6Only), getsockopt(&socket, sockopt::Ipv6V6Only));
        let (unix, _) = std::os::unix::net::UnixDatagram::pair().expect("sockets");
        assert!(super::twin(&unix).expect("looked at").is_none(), "not of the internet");
    }
}
