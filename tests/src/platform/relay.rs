//! A TCP relay that stands in front of a server and is the network between: late, silent or broken.

mod pump;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::server::Peers;

/// What happens to the bytes of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// They pass.
    #[default]
    Normal,
    /// They stop; connections stay open, and new ones are taken but go nowhere, until they pass again.
    Frozen,
    /// Connections are reset, new ones too.
    Dropped,
    /// This connection is gone on the server's side, and the client is never told.
    Lost,
}

/// Whose connections are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's.
    All,
    /// Those from one address.
    From(IpAddr),
}

impl Scope {
    fn covers(self, peer: IpAddr) -> bool {
        self == Self::All || self == Self::From(peer)
    }
}

struct Open {
    peer: IpAddr,
    flow: watch::Sender<Flow>,
}

#[derive(Default)]
struct Routes {
    all: Flow,
    by_peer: HashMap<IpAddr, Flow>,
    open: HashMap<u64, Open>,
    serial: u64,
}

#[derive(Clone)]
struct Shared {
    target: SocketAddr,
    peers: Option<Peers>,
    delay_us: Arc<AtomicU64>,
    routes: Arc<Mutex<Routes>>,
}

/// A running relay; dropping it ends it with all its connections.
pub struct Relay {
    address: SocketAddr,
    shared: Shared,
    accepting: AbortHandle,
}

impl Relay {
    /// Relays from `at` to `target`; `peers` is where the server behind it looks up who is at the other end.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(at: SocketAddr, target: SocketAddr, peers: Option<Peers>) -> Result<Self> {
        let listener = StdListener::bind(at).with_context(|| format!("failed to bind a relay to {at}"))?;
        Self::on(listener, target, peers)
    }

    /// Relays from a listener that is bound already, for servers that must know their public address first.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub fn on(listener: StdListener, target: SocketAddr, peers: Option<Peers>) -> Result<Self> {
        listener.set_nonblocking(true).context("failed to set up a relay's listener")?;
        let listener = TcpListener::from_std(listener).context("failed to use a relay's listener")?;
        let address = listener.local_addr().context("failed to read a relay's address")?;
        let shared = Shared { target, peers, delay_us: Arc::default(), routes: Arc::default() };
        let accepting = tokio::spawn(accept(listener, shared.clone())).abort_handle();
        Ok(Self { address, shared, accepting })
    }

    /// Returns the address that clients use.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the latency of one way; a round trip takes twice as long, and a connection one round trip to open.
    pub fn set_delay(&self, one_way: Duration) {
        let micros = u64::try_from(one_way.as_micros()).unwrap_or(u64::MAX);
        self.shared.delay_us.store(micros, Ordering::SeqCst);
    }

    /// Stops the bytes of open and new connections, silently.
    pub fn freeze(&self, scope: Scope) {
        self.set(scope, Flow::Frozen);
    }

    /// Resets open connections, and new ones as they come.
    pub fn drop_connections(&self, scope: Scope) {
        self.set(scope, Flow::Dropped);
    }

    /// Lets everything pass again; what was frozen goes on where it stopped.
    pub fn restore(&self, scope: Scope) {
        self.set(scope, Flow::Normal);
    }

    /// Ends open connections on the server's side only, as a network does that forgets them; new ones are not touched.
    pub fn lose(&self, scope: Scope) {
        let routes = self.shared.lock();
        for open in routes.open.values().filter(|open| scope.covers(open.peer)) {
            open.flow.send_replace(Flow::Lost);
        }
    }

    /// Returns how many connections are open.
    pub fn open_connections(&self) -> usize {
        self.shared.lock().open.len()
    }

    /// Returns how many connections were ever taken.
    pub fn accepted(&self) -> u64 {
        self.shared.lock().serial
    }

    fn set(&self, scope: Scope, flow: Flow) {
        let mut routes = self.shared.lock();
        match scope {
            Scope::All => {
                routes.all = flow;
                routes.by_peer.clear();
            }
            Scope::From(peer) => drop(routes.by_peer.insert(peer, flow)),
        }
        for open in routes.open.values().filter(|open| scope.covers(open.peer)) {
            open.flow.send_if_modified(|now| *now != Flow::Lost && std::mem::replace(now, flow) != flow);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        for open in self.shared.lock().open.values() {
            open.flow.send_replace(Flow::Dropped);
        }
    }
}

impl Shared {
    fn delay(&self) -> Duration {
        Duration::from_micros(self.delay_us.load(Ordering::SeqCst))
    }

    fn enter(&self, peer: IpAddr) -> (u64, watch::Receiver<Flow>) {
        let mut routes = self.lock();
        routes.serial += 1;
        let id = routes.serial;
        let flow = routes.by_peer.get(&peer).copied().unwrap_or(routes.all);
        let (sender, receiver) = watch::channel(flow);
        routes.open.insert(id, Open { peer, flow: sender });
        (id, receiver)
    }

    fn lock(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, shared: Shared) {
    loop {
        match listener.accept().await {
            Ok((client, address)) => drop(tokio::spawn(serve(client, address.ip(), shared.clone()))),
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection to relay");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn serve(client: TcpStream, peer: IpAddr, shared: Shared) {
    let (id, flow) = shared.enter(peer);
    if let Err(error) = relay(client, peer, flow, &shared).await {
        tracing::debug!(%error, %peer, "relayed connection ended");
    }
    shared.lock().open.remove(&id);
}

async fn relay(
    client: TcpStream,
    peer: IpAddr,
    mut flow: watch::Receiver<Flow>,
    shared: &Shared,
) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    if !pump::may_pass(&mut flow).await {
        return pump::abandon(client, &mut flow).await;
    }
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(shared.target.ip(), 0))?;
    let local = socket.local_addr()?;
    // Before the connection exists, so that the server finds it at the first request.
    if let Some(peers) = &shared.peers {
        peers.insert(local, peer);
    }
    let ended = pump::run(client, socket, shared.target, flow, &|| shared.delay()).await;
    if let Some(peers) = &shared.peers {
        peers.remove(local);
    }
    ended
}
