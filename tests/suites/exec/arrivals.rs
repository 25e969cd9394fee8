//! What arrives at a place of the network, counted there: an answer would not tell of a datagram, nor of a connection whose answers get lost.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use devbox_lab::machine::{Machine, PLATFORM, eventually};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn6, setsockopt, socket, sockopt};
use tokio::net;
use tokio::task::AbortHandle;

use crate::job::LIMIT;

/// Where the counters listen, and where [`sending`] leads.
const PORT: u16 = 4711;

/// Sends a datagram to each address and begins a connection to it, by a plain socket and by one that is bound to the way out; the datagrams say
/// which. The last address must answer: whoever forwards has then seen everything before it. All is done twice, because the first time a question
/// for a neighbour may let a later packet overtake.
const SENDER: &str = r#"use Socket qw(:all); use Fcntl;
my ($port, @to) = @ARGV; my @kept;
sub begin { my ($to, $way, $kind) = @_;
  my ($error, $found) = getaddrinfo($to, $port, { flags => AI_NUMERICHOST, socktype => $kind }); die "$to: $error\n" if $error;
  socket(my $socket, $found->{family}, $kind, 0) or die "socket: $!\n";
  if ($way eq "bound") { setsockopt($socket, SOL_SOCKET, 25, "eth0\0") or die "SO_BINDTODEVICE: $!\n" }
  fcntl($socket, F_SETFL, O_NONBLOCK);
  if ($kind == SOCK_DGRAM) { setsockopt($socket, SOL_SOCKET, SO_BROADCAST, 1); send($socket, "$way $to", 0, $found->{addr}) }
  else { connect($socket, $found->{addr}) }
  push @kept, $socket; $socket }
for (1, 2) { for my $way ("plain", "bound") { my $last;
  for my $to (@to) { begin($to, $way, SOCK_DGRAM); $last = begin($to, $way, SOCK_STREAM) }
  my $wanted = ""; vec($wanted, fileno($last), 1) = 1; select(undef, $wanted, undef, 20) or die "no answer: $way $to[-1]\n";
  my $errno = unpack("i", getsockopt($last, SOL_SOCKET, SO_ERROR)); die "no connection: $way $to[-1]: $errno\n" if $errno } }
print "sent\n"
"#;

/// A shell's script that sends to all of these, after it has tried to open the way to the host's loopback as far as its user may.
pub fn sending(to: &[String]) -> String {
    let open = "echo 1 2>/dev/null >/proc/sys/net/ipv4/conf/all/route_localnet";
    format!("({open}) 2>/dev/null; exec perl -e '{SENDER}' {PORT} {}", to.join(" "))
}

/// What arrives of these addresses by these ways: a datagram that says so, and a connection where there can be one.
pub fn expected(ways: &[&str], to: &[String]) -> BTreeSet<String> {
    let mut all: BTreeSet<String> =
        ways.iter().flat_map(|way| to.iter().map(move |to| format!("{way} {to}"))).collect();
    let one = |to: &&String| to.parse().is_ok_and(|to: IpAddr| !to.is_multicast() && to != Ipv4Addr::BROADCAST);
    all.extend(to.iter().filter(one).map(|to| format!("connection {to}")));
    all
}

type Sockets = ([UdpSocket; 2], TcpListener);
/// What came from where.
type Seen = Arc<Mutex<Vec<(SocketAddr, String)>>>;

/// Counts datagrams and connections to every address of a machine, or of the platform.
pub struct Arrivals {
    at: SocketAddr,
    seen: Seen,
    server: AbortHandle,
}

impl Arrivals {
    /// Begins to count on a machine.
    pub async fn at(machine: &Machine) -> Result<Self> {
        let sockets = machine.visit(|| async { bind() })?.join().await?;
        Self::count(sockets?, (machine.address(), PORT).into())
    }

    /// Begins to count in the platform's network, which is the story's.
    pub fn at_platform() -> Result<Self> {
        Self::count(bind()?, (PLATFORM, PORT).into())
    }

    fn count((datagrams, connections): Sockets, at: SocketAddr) -> Result<Self> {
        let seen = Seen::default();
        let [four, six] = datagrams.map(net::UdpSocket::from_std);
        let (four, six, connections) = (four?, six?, net::TcpListener::from_std(connections)?);
        let noted = Arc::clone(&seen);
        let server = tokio::spawn(async move {
            tokio::try_join!(hear(four, &noted), hear(six, &noted), answer(connections, &noted))
        });
        Ok(Self { at, seen, server: server.abort_handle() })
    }

    /// What has arrived since the last time: datagrams by what they say, connections as `connection ADDRESS`. What is still in a queue counts:
    /// a datagram and a connection behind it are waited for.
    pub async fn take(&self) -> Result<BTreeSet<String>> {
        let datagram = net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        datagram.connect(self.at).await?;
        datagram.send(b"last").await?;
        let connection = net::TcpStream::connect(self.at).await.context("the counter does not answer")?;
        let own = [datagram.local_addr()?, connection.local_addr()?];
        let all = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let look = || async { Ok(own.iter().all(|own| all().iter().any(|(from, _)| from == own)).then_some(())) };
        eventually("the counter", LIMIT, look).await?;
        let seen = std::mem::take(&mut *all());
        Ok(seen.into_iter().filter(|(from, _)| !own.contains(from)).map(|(_, what)| what).collect())
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// One socket a family: one of both gets no multicast of IPv4.
fn bind() -> Result<Sockets> {
    let four = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).context("failed to count datagrams")?;
    let six = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&six, sockopt::Ipv6V6Only, &true)?;
    socket::bind(six.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, PORT, 0, 0)))?;
    let datagrams = [four, six.into()];
    let connections = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).context("failed to count connections")?;
    datagrams.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
    connections.set_nonblocking(true)?;
    Ok((datagrams, connections))
}

async fn hear(datagrams: net::UdpSocket, seen: &Seen) -> std::io::Result<()> {
    let mut text = [0; 128];
    loop {
        let (length, from) = datagrams.recv_from(&mut text).await?;
        note(seen, from, String::from_utf8_lossy(&text[..length]).into_owned());
    }
}

async fn answer(connections: net::TcpListener, seen: &Seen) -> std::io::Result<()> {
    loop {
        let (connection, from) = connections.accept().await?;
        note(seen, from, format!("connection {}", connection.local_addr()?.ip().to_canonical()));
    }
}

fn note(seen: &Seen, from: SocketAddr, what: String) {
    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
    seen.lock().unwrap_or_else(PoisonError::into_inner).push((from, what));
}
