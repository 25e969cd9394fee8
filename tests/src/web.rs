//! Web servers and clients within machines: what people and jobs use the tailnet for.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::ConnectInfo;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::machine::{Booted, Machine, Visit};

/// How long one request may take: what is sent while a tunnel is being made anew is lost, and asking again is quicker than waiting for TCP to.
const ATTEMPT: Duration = Duration::from_secs(1);
/// Between two attempts of [`reach`].
const PAUSE: Duration = Duration::from_millis(20);

/// A web server in a machine; dropping it ends it.
#[derive(Debug)]
pub struct Site {
    _server: Visit<io::Result<()>>,
}

impl Site {
    /// Listens on a port of all addresses of the machine. Every page says `text` and to whom: `hello 100.64.0.2, this is TEXT`.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn open(machine: &Machine, port: u16, text: &str) -> Result<Self> {
        let (text, (tell, told)) = (text.to_owned(), oneshot::channel());
        let server = machine.visit(move || serve(port, text, tell))?;
        Self::opened(server, told).await.with_context(|| format!("failed to open a site on {}", machine.name()))
    }

    /// The same in a machine that boots.
    ///
    /// # Errors
    /// When the port is taken, or the machine is off.
    pub async fn open_in(machine: &Booted, port: u16, text: &str) -> Result<Self> {
        let (text, (tell, told)) = (text.to_owned(), oneshot::channel());
        let server = machine.visit(move || serve(port, text, tell))?;
        Self::opened(server, told).await.with_context(|| format!("failed to open a site on {}", machine.name()))
    }

    async fn opened(server: Visit<io::Result<()>>, told: oneshot::Receiver<io::Result<()>>) -> Result<Self> {
        told.await.context("its thread has ended")??;
        Ok(Self { _server: server })
    }
}

/// Serves the page, and tells whether it listens.
async fn serve(port: u16, text: String, tell: oneshot::Sender<io::Result<()>>) -> io::Result<()> {
    let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => listener,
        Err(error) => {
            // Whoever opened the site has gone if this cannot be told.
            drop(tell.send(Err(error)));
            return Ok(());
        }
    };
    drop(tell.send(Ok(())));
    let page = move |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { greeting(peer, &text) };
    axum::serve(listener, Router::new().fallback(page).into_make_service_with_connect_info::<SocketAddr>()).await
}

fn greeting(peer: SocketAddr, text: &str) -> String {
    format!("hello {}, this is {text}", peer.ip().to_canonical())
}

/// Opens a page from within a machine once, with the machine's own network and resolver.
///
/// # Errors
/// When the name is not known, nobody answers within a second, or the answer is no success.
pub async fn get(machine: &Machine, url: &str) -> Result<String> {
    let asked = url.to_owned();
    let page = machine.visit(move || async move {
        // Nothing here speaks TLS, and without certificates to load a client is made in no time.
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(ATTEMPT).build()?;
        client.get(asked).send().await?.error_for_status()?.text().await
    })?;
    page.join().await?.with_context(|| format!("failed to open {url} from {}", machine.name()))
}

/// The same, again and again until it succeeds.
///
/// # Errors
/// When `limit` is over; with the last attempt's error.
pub async fn reach(machine: &Machine, url: &str, limit: Duration) -> Result<String> {
    let start = Instant::now();
    loop {
        match get(machine, url).await {
            Ok(page) => return Ok(page),
            Err(error) if start.elapsed() > limit => {
                return Err(error.context(format!("gave up after {}", humantime::format_duration(limit))));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
