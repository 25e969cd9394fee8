//! Waits for a peer as the command would reach it: with its resolver and its routes.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::time::Duration;

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, setsockopt, socket};
use nix::sys::time::TimeVal;

/// How long one attempt may take: a relayed peer answers within a few hundred milliseconds.
const ATTEMPT: Duration = Duration::from_secs(1);

/// How long between attempts: about what a name or a path takes to appear.
const PAUSE: Duration = Duration::from_millis(50);

/// A peer, and the port on which it must accept a connection; without one it must answer a ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    host: String,
    port: Option<u16>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text.parse::<IpAddr>().is_ok();
        let (host, port) = match text.rsplit_once(':').filter(|_| !bare) {
            Some((host, port)) => {
                let port = port.parse().map_err(|_| format!("{port} is no port; expected HOST or HOST:PORT"))?;
                (host.trim_start_matches('[').trim_end_matches(']'), Some(port))
            }
            None => (text, None),
        };
        if host.is_empty() {
            Err("expected HOST or HOST:PORT".to_owned())
        } else {
            Ok(Self { host: host.to_owned(), port })
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

impl Target {
    /// Returns when it has answered; whoever waits for that has the deadline, and is told why it does not, when that changes.
    pub(super) fn wait(&self, mut tell: impl FnMut(String) -> io::Result<()>) -> io::Result<()> {
        let named = self.host.parse::<IpAddr>().is_err();
        // Until the first attempt is over, which takes a resolver's patience where there is no name server.
        let mut told = if named { Unanswered::Unresolved } else { Unanswered::Silent }.to_string();
        tell(told.clone())?;
        while let Err(why) = self.attempt() {
            let why = why.to_string();
            if why != told {
                tell(why.clone())?;
                told = why;
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn attempt(&self) -> Result<(), Unanswered> {
        let mut last = Unanswered::Nameless(io::ErrorKind::NotFound.into());
        let addresses = (self.host.as_str(), self.port.unwrap_or_default()).to_socket_addrs();
        for address in addresses.map_err(Unanswered::Nameless)? {
            let answered = match self.port {
                Some(_) => TcpStream::connect_timeout(&address, ATTEMPT).map(drop),
                None => ping(address),
            };
            match answered {
                Ok(()) => return Ok(()),
                Err(error) => last = Unanswered::of(error),
            }
        }
        Err(last)
    }
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("the resolver does not answer; is the machine's name server in reach?")]
    Unresolved,
    #[error("{0}; is it in the tailnet, and may this node see it?")]
    Nameless(io::Error),
    #[error("it refuses the connection; does it listen on that port?")]
    Refused,
    #[error("nothing comes back; is it running, and do the tailnet's access rules let this node reach it?")]
    Silent,
    #[error("{0}")]
    Other(io::Error),
}

impl Unanswered {
    fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            // The latter is what a socket's own time limit ends with (socket(7), SO_RCVTIMEO).
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Silent,
            _ => Self::Other(error),
        }
    }
}

/// An echo request of a ping socket (icmp(7)), which fills in identifier and checksum and sees its own answers only.
fn ping(to: SocketAddr) -> io::Result<()> {
    const REQUEST: u8 = 8;
    const REQUEST6: u8 = 128;
    let (family, protocol, request) = match to {
        SocketAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, REQUEST),
        SocketAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, REQUEST6),
    };
    let socket: OwnedFd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(ATTEMPT.as_secs() as i64, 0))?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(to))?;
    let mut socket = std::fs::File::from(socket);
    socket.write_all(&[request, 0, 0, 0, 0, 0, 0, 1])?;
    socket.read(&mut [0; 64]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_with_or_without_a_port() {
        for (text, host, port) in [
            ("db", "db", None),
            ("db:5432", "db", Some(5432)),
            ("100.64.0.7:80", "100.64.0.7", Some(80)),
            ("fd7a::1", "fd7a::1", None),
            ("[fd7a::1]:80", "fd7a::1", Some(80)),
        ] {
            assert_eq!(text.parse(), Ok(Target { host: host.to_owned(), port }), "{text}");
        }
        for text in ["", ":80", "db:http", "db:70000"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
