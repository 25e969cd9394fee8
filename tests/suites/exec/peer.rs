//! A machine that is in the tailnet by a person's hand, and what it serves there.

use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use devbox_lab::machine::{Machine, Process, Visit};
use devbox_lab::scene::{SOCKET, Scene};
use devbox_lab::tools::programs;
use devbox_lab::web::Site;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::io::ReaderStream;

use crate::job::{OWN, says};

/// Where [`Peer::serves_git`] and [`Peer::serves_numbers`] listen.
pub const GIT: u16 = 81;
pub const NUMBERS: u16 = 82;
/// Where [`Peer::echoes`] listens: the echo protocol's port (RFC 862).
pub const ECHO: u16 = 7;
/// What its website says.
pub const PAGE: &str = "the peer";
/// A gibibyte in which every line differs, so that nothing can be lost, doubled or moved.
pub const NUMBERED: &str = "seq 130000000 | head -c 1G";

/// A peer with a website, in the tailnet as `peer`.
pub struct Peer {
    pub machine: Machine,
    pub v4: IpAddr,
    pub v6: IpAddr,
    _site: Site,
    _daemon: Process,
}

impl Peer {
    /// Makes it and waits until it is in the tailnet.
    pub async fn join(scene: &Scene) -> Result<Self> {
        let machine = scene.machine("peer")?;
        let daemon = scene.join_by_hand(&machine, &scene.platform.tagged_key(&["tag:db"], false).await?).await?;
        let nodes = scene.platform.nodes().await?;
        let node = nodes.iter().find(|node| node.given_name == "peer").context("control does not know the peer")?;
        let addresses: Vec<IpAddr> = node.ip_addresses.iter().map(|it| it.parse()).collect::<Result<_, _>>()?;
        let find = |v4: bool| addresses.iter().copied().find(|it| it.is_ipv4() == v4).context("an address is missing");
        let site = Site::open(&machine, 80, PAGE).await?;
        Ok(Self { v4: find(true)?, v6: find(false)?, machine, _site: site, _daemon: daemon })
    }

    /// Runs a shell's script on the peer, as a user there.
    pub async fn script(&self, script: &str) -> Result<String> {
        let mut shell = self.command("bash");
        shell.args(["-c", &format!("set -e; mkdir -p {OWN}; cd {OWN}; {script}")]);
        let output = self.machine.exec(shell).await?;
        ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A program, run by a user there.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.machine.ordinary(program);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null");
        command
    }

    /// Advertises routes by a flag of `tailscale set`, and approves them as an admin does.
    pub async fn advertise(&self, scene: &Scene, flag: &str, routes: &[&str]) -> Result<()> {
        let mut set = self.machine.command("tailscale");
        set.arg(format!("--socket={SOCKET}")).args(["set", flag]);
        let output = self.machine.exec(set).await?;
        ensure!(output.status.success(), "tailscale set {flag}: {}", String::from_utf8_lossy(&output.stderr));
        let nodes = scene.platform.nodes().await?;
        let node = nodes.iter().find(|node| node.given_name == "peer").context("control does not know the peer")?;
        scene.platform.headscale.api.approve_routes(&node.id, routes).await
    }

    /// Starts a server, which says so when it is ready.
    pub async fn serves(&self, server: Command, ready: &str) -> Result<Process> {
        let server = self.machine.spawn(server)?;
        says(&server, ready).await?;
        Ok(server)
    }

    /// Sends every datagram back.
    pub fn echoes(&self) -> Result<Visit<std::io::Result<()>>> {
        Ok(self.machine.visit(|| async {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, ECHO)).await?;
            let mut bytes = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut bytes).await?;
                socket.send_to(&bytes[..length], from).await?;
            }
        })?)
    }

    /// Serves the repositories in the story's folder, with git's own CGI program.
    pub fn serves_git(&self) -> Result<Visit<std::io::Result<()>>> {
        Ok(self.machine.visit(|| async { serve(GIT, Router::new().fallback(git)).await })?)
    }

    /// Serves [`NUMBERED`].
    pub fn serves_numbers(&self) -> Result<Visit<std::io::Result<()>>> {
        Ok(self.machine.visit(|| async { serve(NUMBERS, Router::new().fallback(numbers)).await })?)
    }
}

async fn serve(port: u16, router: Router) -> std::io::Result<()> {
    axum::serve(TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await?, router).await
}

async fn numbers() -> Response {
    let mut seq = tokio::process::Command::new("sh");
    seq.args(["-c", NUMBERED]).stdout(std::process::Stdio::piped()).kill_on_drop(true);
    match seq.spawn() {
        Ok(mut child) => match child.stdout.take() {
            Some(numbers) => {
                // It ends when nobody reads any more.
                tokio::spawn(async move { child.wait().await });
                Body::from_stream(ReaderStream::with_capacity(numbers, 1 << 16)).into_response()
            }
            None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        },
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn git(request: Request) -> Response {
    let answer = cgi(request).await;
    answer.unwrap_or_else(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")).into_response())
}

/// git-http-backend(1), by the Common Gateway Interface (RFC 3875).
async fn cgi(request: Request) -> Result<Response> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut git = tokio::process::Command::new("git");
    git.arg("http-backend")
        .env_clear()
        .env("PATH", programs::SYSTEM_PATH)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    git.env("GIT_PROJECT_ROOT", OWN).env("GIT_HTTP_EXPORT_ALL", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    git.env("REQUEST_METHOD", head.method.as_str()).env("PATH_INFO", head.uri.path());
    git.env("QUERY_STRING", head.uri.query().unwrap_or_default()).env("CONTENT_TYPE", header("content-type"));
    git.env("HTTP_CONTENT_ENCODING", header("content-encoding")).env("GIT_PROTOCOL", header("git-protocol"));
    let mut git = git.spawn().context("failed to run git")?;
    let body = axum::body::to_bytes(body, 1 << 20).await?;
    git.stdin.take().context("git has no input")?.write_all(&body).await?;
    let answer = git.wait_with_output().await?.stdout;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("git answers without a head")?;
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&answer[..end]).lines() {
        let (name, value) = line.split_once(": ").context("a header without a value")?;
        response = match name {
            "Status" => response.status(value.split(' ').next().unwrap_or_default()),
            _ => response.header(name, value),
        };
    }
    Ok(response.body(Body::from(answer[end + 4..].to_vec()))?)
}
