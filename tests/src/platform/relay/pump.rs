//! One relayed connection: bytes move both ways through queues in which each chunk waits for its time.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Flow;

/// The most one read takes.
const CHUNK: usize = 64 * 1024;

/// How many chunks are on the way at most: 16 MiB, far more than the delays here need at the speed of loopback.
const QUEUE: usize = 256;

/// Something on its way to the other side.
enum Parcel {
    Bytes(Vec<u8>),
    End,
    Reset,
}

/// Waits while the connection is frozen; returns whether it may go on then.
pub(super) async fn may_pass(flow: &mut watch::Receiver<Flow>) -> bool {
    let moved = flow.wait_for(|flow| *flow != Flow::Frozen).await;
    moved.is_ok_and(|flow| *flow == Flow::Normal)
}

/// Ends a connection that may not go on: reset, or held without a word for as long as the client keeps it.
pub(super) async fn abandon(mut client: TcpStream, flow: &mut watch::Receiver<Flow>) -> io::Result<()> {
    if *flow.borrow() == Flow::Lost {
        let mut sink = tokio::io::sink();
        tokio::select! {
            copied = tokio::io::copy(&mut client, &mut sink) => drop(copied?),
            _ = flow.wait_for(|flow| *flow == Flow::Dropped) => {}
        }
        return Ok(());
    }
    client.set_zero_linger()
}

/// Connects to the server and relays until both sides have ended or the flow says otherwise.
pub(super) async fn run(
    mut client: TcpStream,
    socket: TcpSocket,
    target: SocketAddr,
    mut flow: watch::Receiver<Flow>,
    delay: &(impl Fn() -> Duration + Sync),
) -> io::Result<()> {
    // The kernel has shaken hands already; over the network that is simulated it would have taken one round trip.
    tokio::time::sleep(delay() * 2).await;
    let mut server = match socket.connect(target).await {
        Ok(server) => server,
        Err(error) => return client.set_zero_linger().and(Err(error)),
    };
    server.set_nodelay(true)?;
    let passed = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (up, down) = (flow.clone(), flow.clone());
        let both = async {
            tokio::try_join!(one_way(from_client, to_server, up, delay), one_way(from_server, to_client, down, delay))
        };
        tokio::select! {
            ended = both => Some(ended),
            _ = flow.wait_for(|flow| matches!(flow, Flow::Dropped | Flow::Lost)) => None,
        }
    };
    match passed {
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) => {
            client.set_zero_linger()?;
            server.set_zero_linger()?;
            Err(error)
        }
        None => {
            drop(server);
            abandon(client, &mut flow).await
        }
    }
}

async fn one_way(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    flow: watch::Receiver<Flow>,
    delay: &(impl Fn() -> Duration + Sync),
) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let collecting = async {
        collect(from, sender, delay).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = collecting => Ok(()),
        delivered = deliver(receiver, to, flow) => delivered,
    }
}

/// Reads and stamps each chunk with when it arrives at the other side.
async fn collect(
    mut from: impl AsyncRead + Unpin,
    queue: mpsc::Sender<(Instant, Parcel)>,
    delay: &(impl Fn() -> Duration + Sync),
) {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let parcel = match from.read_buf(&mut chunk).await {
            Ok(0) => Parcel::End,
            Ok(_) => Parcel::Bytes(chunk),
            Err(_) => Parcel::Reset,
        };
        let last = !matches!(parcel, Parcel::Bytes(_));
        if queue.send((Instant::now() + delay(), parcel)).await.is_err() || last {
            return;
        }
    }
}

async fn deliver(
    mut queue: mpsc::Receiver<(Instant, Parcel)>,
    mut to: impl AsyncWrite + Unpin,
    mut flow: watch::Receiver<Flow>,
) -> io::Result<()> {
    while let Some((due, parcel)) = queue.recv().await {
        tokio::time::sleep_until(due).await;
        if !may_pass(&mut flow).await {
            return Ok(());
        }
        match parcel {
            Parcel::Bytes(chunk) => to.write_all(&chunk).await?,
            Parcel::End => return to.shutdown().await,
            Parcel::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
    Ok(())
}
