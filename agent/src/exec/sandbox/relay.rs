//! Carries questions of the resolver from the sandbox to the host's name server, where there is no pasta that does it.
//!
//! Datagrams only: an answer that does not fit into one comes truncated, and the resolver's second try, by TCP, fails.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;

use crate::sys::packet;

/// The name service's port (RFC 1035).
pub(super) const PORT: u16 = 53;

/// How many questions may be open; beyond, the oldest is given up.
const OPEN_MAX: usize = 64;

/// The longest message that is carried: EDNS (RFC 6891) resolvers ask for 4096 bytes at most.
const MESSAGE_MAX: usize = 4096;

/// A question that was passed on, and who asked it.
struct Open {
    socket: UdpSocket,
    asker: SocketAddr,
}

/// Passes on what arrives at the socket that comes by `from`, and the answers back, for ever.
pub(super) fn serve(from: &OwnedFd, server: IpAddr) -> io::Result<()> {
    let Some(inside) = packet::receive(from, MsgFlags::empty())?.and_then(|packet| packet.descriptor) else {
        return Ok(());
    };
    let inside = UdpSocket::from(inside);
    inside.set_nonblocking(true)?;
    let mut open: Vec<Open> = Vec::new();
    let mut message = [0; MESSAGE_MAX];
    loop {
        let ready = ready(&inside, &open)?;
        for index in (0..open.len()).rev().filter(|index| ready[index + 1]) {
            let Open { socket, asker } = open.swap_remove(index);
            // A server that is not there is no answer; the resolver asks again.
            if let Ok(length) = socket.recv(&mut message) {
                let _ = inside.send_to(&message[..length], asker);
            }
        }
        if ready[0] {
            let (length, asker) = match inside.recv_from(&mut message) {
                // A datagram that was announced may turn out to be damaged (select(2)).
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                received => received?,
            };
            if open.len() == OPEN_MAX {
                open.remove(0);
            }
            match ask(&message[..length], server) {
                Ok(socket) => open.push(Open { socket, asker }),
                Err(error) => tracing::debug!("a name's question cannot be passed on to {server}: {error}"),
            }
        }
    }
}

/// Which of the sockets have something: the inside one first.
fn ready(inside: &UdpSocket, open: &[Open]) -> io::Result<Vec<bool>> {
    let sockets = std::iter::once(inside).chain(open.iter().map(|open| &open.socket));
    let mut descriptors: Vec<_> = sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
    poll(&mut descriptors, PollTimeout::NONE)?;
    Ok(descriptors.iter().map(|descriptor| descriptor.any().unwrap_or_default()).collect())
}

/// Each question from a socket of its own, connected, so that only the server can answer it.
fn ask(question: &[u8], server: IpAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((server, PORT))?;
    socket.set_nonblocking(true)?;
    socket.send(question)?;
    Ok(socket)
}
