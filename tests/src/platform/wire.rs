//! The bytes between a server and its socket, where an answer can be cut, dripped or made endless.
//!
//! HTTP libraries refuse to write a broken answer, so what is broken here is broken below them: every connection passes through
//! a pump that does to the bytes what was armed for the answer at hand.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex, split};
use tokio::net::TcpStream;

/// How much the server may write ahead of the pump.
const BUFFER: usize = 64 * 1024;

/// Pause between the pieces of an endless answer, so that what kernel buffers hold does not hide when the client cut it.
const ENDLESS_PAUSE: Duration = Duration::from_millis(5);

/// How many bytes one piece of an endless answer has.
const ENDLESS_PIECE: usize = 4096;

/// What is done to the bytes of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// The connection ends before the first byte.
    Close,
    /// Head and this many bytes of the body, then the connection ends.
    Truncate(usize),
    /// This many bytes a second, from the first byte on.
    Drip(u32),
    /// The head at once, then this many bytes of the body a second.
    DripBody(u32),
    /// The body goes on for ever, in chunks (RFC 9112 §7.1).
    EndlessChunks,
    /// The head announces a body of this many bytes, and blanks follow until they are all there.
    Announce(u64),
}

/// How much went out on one connection, and whether it has ended.
#[derive(Clone, Default)]
pub struct Sent {
    bytes: Arc<AtomicU64>,
    closed: Arc<AtomicBool>,
}

impl Sent {
    /// Returns how many bytes were handed to the socket.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Returns whether the connection is over.
    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}

/// One connection that a server has open.
#[derive(Clone, Default)]
pub struct Connection {
    armed: Arc<Mutex<Option<Wire>>>,
    sent: Sent,
}

impl Connection {
    /// Says what to do to the answer that comes next; none is an ordinary answer.
    pub fn arm(&self, wire: Option<Wire>) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = wire;
    }

    /// Returns the counter of what went out here.
    pub fn sent(&self) -> Sent {
        self.sent.clone()
    }

    fn armed(&self) -> Option<Wire> {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
        to.write_all(bytes).await?;
        self.sent.bytes.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        to.flush().await
    }
}

/// The open connections of one server by the address at their other end.
#[derive(Clone, Default)]
pub struct Connections {
    open: Arc<Mutex<HashMap<SocketAddr, Connection>>>,
}

impl Connections {
    /// Returns the connection from an address; a fresh one when it has just ended.
    pub fn get(&self, address: SocketAddr) -> Connection {
        self.lock().get(&address).cloned().unwrap_or_default()
    }

    fn open(&self, address: SocketAddr) -> Connection {
        let connection = Connection::default();
        self.lock().insert(address, connection.clone());
        connection
    }

    fn close(&self, address: SocketAddr) {
        if let Some(connection) = self.lock().remove(&address) {
            connection.sent.closed.store(true, Ordering::SeqCst);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, Connection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts connections as `inner` does and puts a pump between them and the server.
#[derive(Clone)]
pub struct PumpAcceptor<A> {
    inner: A,
    connections: Connections,
}

impl<A> PumpAcceptor<A> {
    /// Returns an acceptor that lists what it accepts in `connections`.
    pub fn new(inner: A, connections: Connections) -> Self {
        Self { inner, connections }
    }
}

impl<A, S> Accept<TcpStream, S> for PumpAcceptor<A>
where
    A: Accept<TcpStream, S>,
    A::Stream: AsyncRead + AsyncWrite + Send + 'static,
    A::Service: 'static,
    A::Future: Send + 'static,
{
    type Stream = DuplexStream;
    type Service = A::Service;
    type Future = Pin<Box<dyn Future<Output = io::Result<(DuplexStream, A::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let peer = stream.set_nodelay(true).and_then(|()| stream.peer_addr());
        let accepted = self.inner.accept(stream, service);
        let connections = self.connections.clone();
        Box::pin(async move {
            let peer = peer?;
            let (outside, service) = accepted.await?;
            let (server_end, pump_end) = duplex(BUFFER);
            let connection = connections.open(peer);
            tokio::spawn(async move {
                pump(outside, pump_end, &connection).await;
                connections.close(peer);
            });
            Ok((server_end, service))
        })
    }
}

/// Moves bytes both ways until the answer's side ends; how it ended is the client's business, not ours.
async fn pump(outside: impl AsyncRead + AsyncWrite, inside: DuplexStream, connection: &Connection) {
    let (mut from_client, mut to_client) = split(outside);
    let (mut from_server, mut to_server) = split(inside);
    let upstream = async {
        let copied = tokio::io::copy(&mut from_client, &mut to_server).await;
        let closed = to_server.shutdown().await;
        tracing::trace!(?copied, ?closed, "client has sent all");
        std::future::pending::<()>().await;
    };
    let downstream = downstream(&mut from_server, &mut to_client, connection);
    tokio::select! {
        () = upstream => {}
        ended = downstream => tracing::trace!(?ended, "connection has ended"),
    }
}

async fn downstream(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    connection: &Connection,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        let bytes = &buffer[..read];
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        match connection.armed() {
            None => connection.write(to, bytes).await?,
            Some(Wire::Close) => return Ok(()),
            Some(Wire::Drip(rate)) => drip(rate, bytes, to, connection).await?,
            Some(Wire::DripBody(rate)) => {
                let (head, rest) = read_head(bytes, from).await?;
                connection.write(to, &head).await?;
                connection.arm(Some(Wire::Drip(rate)));
                drip(rate, &rest, to, connection).await?;
            }
            Some(Wire::Truncate(keep)) => return truncate(keep, bytes, from, to, connection).await,
            Some(Wire::EndlessChunks) => {
                let head = replace_length(&read_head(bytes, from).await?.0, "transfer-encoding: chunked");
                connection.write(to, &head).await?;
                return endless_chunks(to, connection).await;
            }
            Some(Wire::Announce(length)) => {
                let head = replace_length(&read_head(bytes, from).await?.0, &format!("content-length: {length}"));
                connection.write(to, &head).await?;
                return blanks(length, to, connection).await;
            }
        }
    }
}

/// Reads on until the head is complete; returns it with its blank line, and what followed it.
async fn read_head(first: &[u8], from: &mut (impl AsyncRead + Unpin)) -> io::Result<(Vec<u8>, Vec<u8>)> {
    const END: &[u8] = b"\r\n\r\n";
    let mut bytes = first.to_vec();
    loop {
        if let Some(at) = bytes.windows(END.len()).position(|window| window == END) {
            let rest = bytes.split_off(at + END.len());
            return Ok((bytes, rest));
        }
        if from.read_buf(&mut bytes).await? == 0 {
            return Ok((bytes, Vec::new()));
        }
    }
}

async fn truncate(
    keep: usize,
    first: &[u8],
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    connection: &Connection,
) -> io::Result<()> {
    let (head, mut body) = read_head(first, from).await?;
    while body.len() < keep && from.read_buf(&mut body).await? > 0 {}
    body.truncate(keep);
    connection.write(to, &head).await?;
    connection.write(to, &body).await
}

async fn drip(rate: u32, bytes: &[u8], to: &mut (impl AsyncWrite + Unpin), connection: &Connection) -> io::Result<()> {
    // Fifty pieces a second at most: finer pauses would mostly measure the timer.
    let piece = (rate / 50).max(1);
    let pause = Duration::from_secs(1) * piece / rate.max(1);
    for part in bytes.chunks(piece as usize) {
        connection.write(to, part).await?;
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

/// Rewrites a head so that it announces the body in another way.
fn replace_length(head: &[u8], line: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(head);
    let framing = |line: &&str| {
        let line = line.to_ascii_lowercase();
        !line.is_empty() && !line.starts_with("content-length:") && !line.starts_with("transfer-encoding:")
    };
    let kept: Vec<&str> = text.split("\r\n").filter(framing).collect();
    format!("{}\r\n{line}\r\n\r\n", kept.join("\r\n")).into_bytes()
}

async fn endless_chunks(to: &mut (impl AsyncWrite + Unpin), connection: &Connection) -> io::Result<()> {
    let chunk = format!("{ENDLESS_PIECE:x}\r\n{}\r\n", " ".repeat(ENDLESS_PIECE));
    loop {
        connection.write(to, chunk.as_bytes()).await?;
        tokio::time::sleep(ENDLESS_PAUSE).await;
    }
}

async fn blanks(length: u64, to: &mut (impl AsyncWrite + Unpin), connection: &Connection) -> io::Result<()> {
    let piece = " ".repeat(ENDLESS_PIECE);
    let mut left = length;
    while left > 0 {
        let now = left.min(ENDLESS_PIECE as u64);
        connection.write(to, &piece.as_bytes()[..now as usize]).await?;
        left -= now;
        tokio::time::sleep(ENDLESS_PAUSE).await;
    }
    Ok(())
}
