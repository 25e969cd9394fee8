//! A server on loopback that does what a test scripts, byte by byte, and remembers what it was asked.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Url;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::task::AbortHandle;

/// A request as it stood on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The method and the target, such as `GET /path?query`.
    pub line: String,
    /// The header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Request {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// One thing that the server does with a connection.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Sends bytes.
    Send(Vec<u8>),
    /// Sends bytes one by one, waiting after each.
    Drip(Vec<u8>, Duration),
    /// Sends the same bytes until the client goes.
    Endless(Vec<u8>),
    /// Sends nothing more and keeps the connection.
    Hang,
    /// Closes the connection.
    Close,
}

/// An answer of `status` with header lines and a body.
pub(crate) fn reply(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<Step> {
    let mut text = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    vec![Step::Send(format!("{text}\r\n{body}").into_bytes())]
}

/// What is known of a server's traffic.
#[derive(Default)]
struct Seen {
    requests: Vec<Request>,
    connections: usize,
    sent: usize,
}

/// The server; it stops when dropped.
pub(crate) struct Server {
    address: Option<SocketAddr>,
    seen: Arc<Mutex<Seen>>,
    task: AbortHandle,
}

type Script = Arc<dyn Fn(usize, &Request) -> Vec<Step> + Send + Sync>;

impl Server {
    /// Answers every request with what `script` says; it is given the number of requests that came before.
    pub async fn start(script: impl Fn(usize, &Request) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (script, shared): (Script, _) = (Arc::new(script), seen.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, script.clone(), shared.clone()));
            }
        });
        Self { address: Some(address), seen, task: task.abort_handle() }
    }

    /// The same on a unix socket.
    pub fn unix(path: &Path, script: impl Fn(usize, &Request) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(path).expect("the test's directory takes a socket");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (script, shared): (Script, _) = (Arc::new(script), seen.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, script.clone(), shared.clone()));
            }
        });
        Self { address: None, seen, task: task.abort_handle() }
    }

    /// Where it listens.
    pub fn url(&self) -> Url {
        let address = self.address.expect("only a TCP server has a URL");
        format!("http://{address}").parse().expect("an address makes a URL")
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.lock().expect("no test panics while it holds this").requests.clone()
    }

    /// The method and target of each request so far.
    pub fn lines(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.line).collect()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.seen.lock().expect("no test panics while it holds this").connections
    }

    /// How many bytes the server could send.
    pub fn sent(&self) -> usize {
        self.seen.lock().expect("no test panics while it holds this").sent
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An address that nobody listens at, kept so that no other test gets it.
pub(crate) struct Nobody(TcpSocket);

impl Nobody {
    /// Reserves an address.
    pub fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("the kernel speaks IPv4");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback has a free port");
        Self(socket)
    }

    /// Where nobody listens.
    pub fn url(&self) -> Url {
        let address = self.0.local_addr().expect("a bound socket has an address");
        format!("http://{address}").parse().expect("an address makes a URL")
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, script: Script, seen: Arc<Mutex<Seen>>) {
    seen.lock().expect("no test panics while it holds this").connections += 1;
    while let Some(request) = read(&mut stream).await {
        let before = {
            let mut seen = seen.lock().expect("no test panics while it holds this");
            seen.requests.push(request.clone());
            seen.requests.len() - 1
        };
        for step in script(before, &request) {
            if play(&mut stream, step, &seen).await.is_none() {
                return;
            }
        }
    }
}

/// Plays one step; `None` when the connection is done.
async fn play<S: AsyncWrite + Unpin>(stream: &mut S, step: Step, seen: &Mutex<Seen>) -> Option<()> {
    let mut write = async |bytes: &[u8]| {
        stream.write_all(bytes).await.ok()?;
        seen.lock().expect("no test panics while it holds this").sent += bytes.len();
        Some(())
    };
    match step {
        Step::Send(bytes) => write(&bytes).await,
        Step::Drip(bytes, pause) => {
            for byte in bytes {
                write(&[byte]).await?;
                tokio::time::sleep(pause).await;
            }
            Some(())
        }
        Step::Endless(bytes) => loop {
            write(&bytes).await?;
        },
        Step::Hang => std::future::pending().await,
        Step::Close => None,
    }
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        more(stream, &mut bytes).await?;
    };
    let text = String::from_utf8(bytes[..head].to_vec()).expect("our client sends ASCII headers");
    let mut lines = text.split("\r\n");
    let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_owned();
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut request = Request { line, headers, body: String::new() };
    let length = request.header("content-length").map_or(0, |length| length.parse().expect("a number"));
    while bytes.len() < head + 4 + length {
        more(stream, &mut bytes).await?;
    }
    request.body = String::from_utf8(bytes[head + 4..].to_vec()).expect("our client sends text");
    Some(request)
}

async fn more<S: AsyncRead + Unpin>(stream: &mut S, bytes: &mut Vec<u8>) -> Option<()> {
    let mut chunk = [0; 4096];
    let count = stream.read(&mut chunk).await.ok().filter(|count| *count > 0)?;
    bytes.extend_from_slice(&chunk[..count]);
    Some(())
}
