//! What every HTTP server of the platform has: a listener, faults, a log of its requests, and the true peer of each.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum_server::Handle;
use axum_server::accept::DefaultAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};

use super::fault::Faults;
use super::requests::{RequestLog, Seen};
use super::wire::{Connection, Connections, PumpAcceptor};

/// The longest request body a server reads before it refuses with 413; above all that the protocols here allow.
const BODY_LIMIT: usize = 2 * 1024 * 1024;

/// The machine at the other end of a request, also when it came through a relay; in a request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// For whom a relay has opened which connection.
///
/// A server behind a relay sees the relay's address; identity by source address needs the true one.
#[derive(Clone, Default)]
pub struct Peers {
    behind: Arc<Mutex<HashMap<SocketAddr, IpAddr>>>,
}

impl Peers {
    /// Notes for whom the connection from `local` is; to be called before it connects.
    pub fn insert(&self, local: SocketAddr, peer: IpAddr) {
        self.lock().insert(local, peer);
    }

    /// Forgets a connection that has ended.
    pub fn remove(&self, local: SocketAddr) {
        self.lock().remove(&local);
    }

    fn resolve(&self, address: SocketAddr) -> IpAddr {
        self.lock().get(&address).copied().unwrap_or_else(|| address.ip())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, IpAddr>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One running server; dropping it ends it with all its connections.
pub struct Server {
    address: SocketAddr,
    /// What it does instead of the ordinary.
    pub faults: Faults,
    /// What it was asked.
    pub log: RequestLog,
    /// Where relays in front of it note their clients.
    pub peers: Peers,
    handle: Handle<SocketAddr>,
}

#[derive(Clone)]
struct Guard {
    faults: Faults,
    log: RequestLog,
    peers: Peers,
    connections: Connections,
    headers: Arc<[(HeaderName, HeaderValue)]>,
}

impl Server {
    /// Serves `router` in the clear; `headers` are added to every answer that lacks them.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub fn plain(listener: TcpListener, router: Router, headers: &[(HeaderName, HeaderValue)]) -> io::Result<Self> {
        Self::start(listener, router, headers, None)
    }

    /// The same over TLS; the certificate may be exchanged through `tls` later.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub fn tls(
        listener: TcpListener,
        router: Router,
        headers: &[(HeaderName, HeaderValue)],
        tls: RustlsConfig,
    ) -> io::Result<Self> {
        Self::start(listener, router, headers, Some(tls))
    }

    fn start(
        listener: TcpListener,
        router: Router,
        headers: &[(HeaderName, HeaderValue)],
        tls: Option<RustlsConfig>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let handle = Handle::new();
        let connections = Connections::default();
        let guard = Guard {
            faults: Faults::default(),
            log: RequestLog::default(),
            peers: Peers::default(),
            connections: connections.clone(),
            headers: headers.into(),
        };
        let app = router.layer(from_fn_with_state(guard.clone(), watch));
        let service = app.into_make_service_with_connect_info::<SocketAddr>();
        let server = axum_server::from_tcp(listener)?.handle(handle.clone()).http1_only();
        match tls {
            None => {
                let acceptor = PumpAcceptor::new(DefaultAcceptor, connections);
                tokio::spawn(server.acceptor(acceptor).serve(service));
            }
            Some(tls) => {
                let acceptor = PumpAcceptor::new(RustlsAcceptor::new(tls), connections);
                tokio::spawn(server.acceptor(acceptor).serve(service));
            }
        }
        Ok(Self { address, faults: guard.faults, log: guard.log, peers: guard.peers, handle })
    }

    /// Returns where it listens; what clients use is the relay in front of it, if there is one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

async fn watch(
    State(guard): State<Guard>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let peer = guard.peers.resolve(address);
    let connection = guard.connections.get(address);
    connection.arm(None);
    let route = format!("{} {}", request.method(), request.uri().path());
    let (index, mut request) = match guard.note(peer, &route, &connection, request).await {
        Ok(noted) => noted,
        Err(error) => return (StatusCode::PAYLOAD_TOO_LARGE, error.to_string()).into_response(),
    };
    request.extensions_mut().insert(Peer(peer));
    let fault = guard.faults.take(&route);
    let response = fault.carry_out(&connection, &guard.headers, request, next).await;
    guard.log.answered(index, response.status().as_u16());
    response
}

impl Guard {
    /// Writes a request down, which needs its whole body, and returns it with its place in the log.
    async fn note(
        &self,
        peer: IpAddr,
        route: &str,
        connection: &Connection,
        request: Request,
    ) -> Result<(usize, Request), axum::Error> {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let mut seen = Seen::new(peer, route.to_owned(), query, connection.sent());
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        seen.headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let bytes = axum::body::to_bytes(body, BODY_LIMIT).await?;
        seen.body = String::from_utf8_lossy(&bytes).into_owned();
        Ok((self.log.add(seen), Request::from_parts(parts, Body::from(bytes))))
    }
}
