//! Carries questions of the resolver from the sandbox to the host's name servers, of which pasta would ask but the first.
//!
//! Datagrams only: an answer that does not fit into one comes truncated, and the resolver's second try, by TCP, fails.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use std::vec;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;

use crate::clock::{BootTime, Clock};
use crate::sys::packet;

/// Where the questions arrive: a link-local address, on the sandbox's loopback, that no host has (RFC 3927).
pub(super) const FORWARDER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// How many questions may be open; beyond, the oldest is given up.
const OPEN_MAX: usize = 64;

/// The longest message that is carried: EDNS (RFC 6891) resolvers ask for 4096 bytes at most.
const MESSAGE_MAX: usize = 4096;

/// How long a server may be silent before the next one is asked as well: a resolver waits five seconds for all of them (resolv.conf(5)).
const PATIENCE: Duration = Duration::from_secs(1);

/// A question that was passed on to a server.
struct Open {
    question: Vec<u8>,
    asker: SocketAddr,
    server: SocketAddr,
    socket: UdpSocket,
    /// Those that were not asked yet, and when the first of them is.
    others: vec::IntoIter<SocketAddr>,
    due: Option<BootTime>,
}

/// Passes on what arrives at the socket that comes by `from`, and the answers back, for ever.
pub(super) fn serve(from: &OwnedFd, servers: Vec<SocketAddr>, clock: &dyn Clock) -> io::Result<()> {
    let Some(inside) = packet::receive(from, MsgFlags::empty())?.and_then(|packet| packet.descriptor) else {
        return Ok(());
    };
    let inside = UdpSocket::from(inside);
    inside.set_nonblocking(true)?;
    let mut relay = Relay { inside, servers, open: Vec::new(), clock };
    loop {
        relay.turn()?;
    }
}

struct Relay<'a> {
    inside: UdpSocket,
    /// The one that answered last comes first.
    servers: Vec<SocketAddr>,
    open: Vec<Open>,
    clock: &'a dyn Clock,
}

impl Relay<'_> {
    /// Waits until there is something to do, and does one such thing.
    fn turn(&mut self) -> io::Result<()> {
        let (asked, answered) = self.ready()?;
        if let Some(index) = answered.iter().position(|answered| *answered) {
            self.answer(index);
            return Ok(());
        }
        let now = self.clock.now().boot;
        if let Some(open) = self.open.iter_mut().find(|open| open.due.is_some_and(|due| due <= now)) {
            open.due = None;
            let (question, asker, others) = (open.question.clone(), open.asker, open.others.clone());
            self.ask(question, asker, others);
        }
        if asked { self.take_in() } else { Ok(()) }
    }

    /// Whether there is a question, and which of the open ones have an answer.
    fn ready(&self) -> io::Result<(bool, Vec<bool>)> {
        let sockets = std::iter::once(&self.inside).chain(self.open.iter().map(|open| &open.socket));
        let mut descriptors: Vec<_> = sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        let due = self.open.iter().filter_map(|open| open.due).min();
        // Rounded up, so that it is due then; never more than the patience.
        let wait = |due: BootTime| PollTimeout::from(due.since(self.clock.now().boot).as_millis() as u16 + 1);
        poll(&mut descriptors, due.map_or(PollTimeout::NONE, wait))?;
        let mut ready = descriptors.iter().map(|descriptor| descriptor.any().unwrap_or_default());
        Ok((ready.next().unwrap_or_default(), ready.collect()))
    }

    /// Carries an answer back. A server that refuses is none; the next is asked at once.
    fn answer(&mut self, index: usize) {
        let Open { question, asker, server, socket, others, due } = self.open.remove(index);
        let mut message = [0; MESSAGE_MAX];
        match socket.recv(&mut message) {
            Ok(length) => {
                let _ = self.inside.send_to(&message[..length], asker);
                self.open.retain(|open| (&open.question, open.asker) != (&question, asker));
                if let Some(at) = self.servers.iter().position(|it| *it == server) {
                    self.servers[..=at].rotate_right(1);
                }
            }
            Err(error) => {
                tracing::debug!("the name server {server} does not answer: {error}");
                if due.is_some() {
                    self.ask(question, asker, others);
                }
            }
        }
    }

    fn take_in(&mut self) -> io::Result<()> {
        let mut message = [0; MESSAGE_MAX];
        let (length, asker) = match self.inside.recv_from(&mut message) {
            // A datagram that was announced may turn out to be damaged (select(2)).
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            received => received?,
        };
        self.ask(message[..length].to_vec(), asker, self.servers.clone().into_iter());
        Ok(())
    }

    /// Asks the first of these servers that can be asked.
    fn ask(&mut self, question: Vec<u8>, asker: SocketAddr, mut servers: vec::IntoIter<SocketAddr>) {
        while let Some(server) = servers.next() {
            match connected(&question, server) {
                Ok(socket) => {
                    if self.open.len() == OPEN_MAX {
                        self.open.remove(0);
                    }
                    let due = (servers.len() > 0).then(|| self.clock.now().boot + PATIENCE);
                    self.open.push(Open { question, asker, server, socket, others: servers, due });
                    return;
                }
                Err(error) => tracing::debug!("a name's question cannot be passed on to {server}: {error}"),
            }
        }
    }
}

/// Each question from a socket of its own, connected, so that only the server can answer it.
fn connected(question: &[u8], server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_nonblocking(true)?;
    socket.send(question)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn a_silent_server_and_one_that_refuses_are_passed_over_and_the_one_that_answers_is_asked_first_from_then_on() {
        let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let (silent, answering, client) = (socket(), socket(), socket());
        let refusing = socket().local_addr().expect("an address");
        let [first, last] = [&silent, &answering].map(|it| it.local_addr().expect("an address"));
        let inside = socket();
        inside.set_nonblocking(true).expect("an option");
        client.connect(inside.local_addr().expect("an address")).expect("connected");
        let mut relay = Relay { inside, servers: vec![first, refusing, last], open: Vec::new(), clock: &SystemClock };
        client.send(b"who?").expect("asked");
        relay.turn().expect("it is passed on");
        assert_eq!(relay.open.len(), 1);
        // Its time is over.
        relay.open[0].due = Some(BootTime::default());
        while relay.open.last().is_none_or(|open| open.server != last) {
            relay.turn().expect("the next is asked");
        }
        let mut message = [0; 16];
        let (length, from) = answering.recv_from(&mut message).expect("asked");
        answering.send_to(&message[..length], from).expect("answered");
        while !relay.open.is_empty() {
            relay.turn().expect("it is carried back");
        }
        assert_eq!(client.recv(&mut message).expect("an answer"), 4);
        assert_eq!(relay.servers, [last, first, refusing]);
    }
}
