//! PID 1's private socket: D-Bus without a bus, for root alone, from the first moment of a boot to the last of a shutdown.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use zbus::Connection;
use zbus::connection::Builder;
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};

use crate::systemd::greeted;

/// What PID 1 is called on this connection, as sender of what comes and destination of what goes.
///
/// It calls itself `org.freedesktop.systemd1` there, which is the name of a service; zbus takes only names of connections as senders, and
/// ends the connection over any other. This is that name, changed where it makes it one.
pub(super) const PID1: &str = ":rg.freedesktop.systemd1";

/// The field of a message's header that says so (D-Bus specification, "Message Protocol"): code 7, a variant of signature `s`, the text's
/// length. Its byte order is that of the length.
const SENDER_FIELD: &[u8] = b"\x07\x01s\x00";

/// What PID 1 calls itself.
const SENDER: &[u8] = b"org.freedesktop.systemd1";

/// The fixed part of a header, with the length of its fields at the end.
const HEADER: usize = 16;

/// The longest message that is read; PID 1's properties of a unit take some 30 KiB.
const MESSAGE_MAX: usize = 1 << 20;

/// The longest line of the authentication: `OK` and a GUID, or the mechanisms that would do.
const LINE_MAX: u64 = 512;

/// PID 1 answers within milliseconds; the time that units take is spent waiting for signals, not answers.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// Connects to PID 1 at `socket` (`/run/systemd/private`). It takes root and nobody else (SO_PEERCRED).
pub(super) async fn connect(socket: &Path) -> zbus::Result<Connection> {
    let stream = UnixStream::connect(socket).await?;
    greeted(Builder::socket(PrivateSocket(stream)).p2p(), ANSWER_DEADLINE).await
}

#[derive(Debug)]
struct PrivateSocket(UnixStream);

impl Socket for PrivateSocket {
    type ReadHalf = Incoming;
    type WriteHalf = Outgoing;

    fn split(self) -> Split<Incoming, Outgoing> {
        let (read, write) = self.0.into_split();
        Split::new(
            Incoming { stream: BufReader::new(read), greeted: false, unread: io::Cursor::default() },
            Outgoing(write),
        )
    }
}

/// Takes in one line of the authentication, then one message at a time.
#[derive(Debug)]
struct Incoming {
    stream: BufReader<OwnedReadHalf>,
    greeted: bool,
    unread: io::Cursor<Vec<u8>>,
}

impl Incoming {
    async fn next(&mut self) -> io::Result<Vec<u8>> {
        if self.greeted {
            return self.message().await;
        }
        self.greeted = true;
        let mut line = Vec::new();
        (&mut self.stream).take(LINE_MAX).read_until(b'\n', &mut line).await?;
        Ok(line)
    }

    async fn message(&mut self) -> io::Result<Vec<u8>> {
        let mut message = vec![0; HEADER];
        match self.stream.read_exact(&mut message).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Vec::new()),
            other => other?,
        };
        let order = ByteOrder::of(&message)?;
        let body = HEADER + order.length(&message, 12).next_multiple_of(8);
        let end = body.saturating_add(order.length(&message, 4));
        if end > MESSAGE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "PID 1 sent a message that is too long"));
        }
        message.resize(end, 0);
        self.stream.read_exact(&mut message[HEADER..]).await?;
        name_connection(&mut message[HEADER..body], order);
        Ok(message)
    }
}

#[async_trait]
impl ReadHalf for Incoming {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        if self.unread.position() == self.unread.get_ref().len() as u64 {
            self.unread = io::Cursor::new(self.next().await?);
        }
        Ok((io::Read::read(&mut self.unread, buffer)?, Vec::new()))
    }
}

#[derive(Debug)]
struct Outgoing(OwnedWriteHalf);

#[async_trait]
impl WriteHalf for Outgoing {
    async fn sendmsg(&mut self, buffer: &[u8], _: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.0.write(buffer).await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}

/// The first byte of a message says how its numbers are written.
#[derive(Clone, Copy)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    fn of(message: &[u8]) -> io::Result<Self> {
        match message.first() {
            Some(b'l') => Ok(Self::Little),
            Some(b'B') => Ok(Self::Big),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "PID 1 sent something that is no D-Bus message")),
        }
    }

    fn number(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    fn length(self, message: &[u8], at: usize) -> usize {
        let bytes = [message[at], message[at + 1], message[at + 2], message[at + 3]];
        self.number(bytes) as usize
    }
}

/// Makes the sender's name among a header's fields one of a connection. No text in a header has control characters, so what looks like the
/// field is the field.
fn name_connection(fields: &mut [u8], order: ByteOrder) {
    let text = SENDER_FIELD.len() + 4;
    let found = fields.windows(text + SENDER.len() + 1).position(|window| {
        window.starts_with(SENDER_FIELD)
            && order.length(window, SENDER_FIELD.len()) == SENDER.len()
            && window[text..] == [SENDER, b"\0"].concat()
    });
    if let Some(start) = found {
        fields[start + text] = b':';
    }
}

#[cfg(test)]
mod tests;
