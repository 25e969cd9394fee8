//! What stands in for the ordinary network: a website at addresses of its own, a resolver that knows its name, and IPv6.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::ConnectInfo;
use devbox_lab::machine::{Machine, PLATFORM};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::AbortHandle;

/// Its name, and its addresses, of those for documentation (RFC 5737, RFC 3849).
pub const NAME: &str = "public.example";
pub const V4: &str = "203.0.113.80";
pub const V6: &str = "2001:db8::80";
/// The gateway's address of IPv6.
pub const GATEWAY6: &str = "fd77::1";
/// Metadata endpoints besides the one that every cloud has: Azure's, Alibaba's (within a tailnet's range), Amazon's, its pod identity, Google's.
pub const METADATA: [&str; 5] = ["168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"];

/// Where the website at an address is.
pub fn url(address: impl ToString) -> String {
    match address.to_string() {
        v6 if v6.contains(':') => format!("http://[{v6}]/"),
        v4 => format!("http://{v4}/"),
    }
}

/// The ordinary network, in the platform's place; dropping it ends its servers.
pub struct Public(Vec<AbortHandle>);

impl Public {
    /// Opens it.
    pub async fn open() -> Result<Self> {
        let addresses = [&[V4, V6, GATEWAY6], &METADATA[..]].concat();
        for address in &addresses {
            let (prefix, nodad) = match (*address == GATEWAY6, address.contains(':')) {
                (true, _) => (64, "nodad"),
                (false, true) => (128, "nodad"),
                (false, false) => (32, ""),
            };
            ip(&format!("addr add {address}/{prefix} dev br0 {nodad}"))?;
        }
        let mut servers = Vec::new();
        for address in addresses {
            let listener = TcpListener::bind((address.parse::<IpAddr>()?, 80)).await.context(address)?;
            let page = Router::new().fallback(greet).into_make_service_with_connect_info::<SocketAddr>();
            servers.push(tokio::spawn(async { axum::serve(listener, page).await }).abort_handle());
        }
        let resolver = UdpSocket::bind((PLATFORM, 53)).await.context("failed to open a resolver")?;
        servers.push(tokio::spawn(resolve(resolver)).abort_handle());
        Ok(Self(servers))
    }

    /// Gives a machine IPv6 as well.
    pub async fn connect(&self, machine: &Machine) -> Result<IpAddr> {
        let last = machine.address().octets()[3];
        let address = format!("fd77::{last}");
        on(machine, &format!("addr add {address}/64 dev eth0 nodad")).await?;
        on(machine, &format!("-6 route add default via {GATEWAY6}")).await?;
        Ok(address.parse()?)
    }
}

impl Drop for Public {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// Says to whom.
async fn greet(ConnectInfo(from): ConnectInfo<SocketAddr>) -> String {
    format!("hello {}, this is public", from.ip().to_canonical())
}

/// Runs ip(8) in the platform's network, which is the story's.
fn ip(arguments: &str) -> Result<()> {
    let output = std::process::Command::new("ip").args(arguments.split_whitespace()).output().context("ip")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Runs ip(8) on a machine, as its administrator.
pub async fn on(machine: &Machine, arguments: &str) -> Result<()> {
    let mut ip = machine.command("ip");
    ip.args(arguments.split_whitespace());
    let output = machine.exec(ip).await?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn resolve(socket: UdpSocket) -> std::io::Result<()> {
    let mut question = [0; 512];
    loop {
        let (length, from): (usize, SocketAddr) = socket.recv_from(&mut question).await?;
        if let Some(answer) = answer(&question[..length]) {
            socket.send_to(&answer, from).await?;
        }
    }
}

/// The answer to a question (RFC 1035 §4): one address of [`NAME`], and that there is no other name.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let mut end = HEADER;
    let mut labels = Vec::new();
    while let length @ 1.. = usize::from(*question.get(end)?) {
        labels.push(String::from_utf8_lossy(question.get(end + 1..end + 1 + length)?).to_lowercase());
        end += 1 + length;
    }
    let kind = u16::from_be_bytes([*question.get(end + 1)?, *question.get(end + 2)?]);
    let data = match (labels.join(".") == NAME, kind) {
        (true, 1) => V4.parse::<std::net::Ipv4Addr>().ok()?.octets().to_vec(),
        (true, 28) => V6.parse::<std::net::Ipv6Addr>().ok()?.octets().to_vec(),
        _ => Vec::new(),
    };
    let found = labels.join(".") == NAME;
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, if found { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(!data.is_empty()), 0, 0, 0, 0]);
    answer.extend(question.get(HEADER..end + 5)?);
    if !data.is_empty() {
        // The name is that of the question; class IN, a minute.
        answer.extend([0xc0, HEADER as u8]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        answer.extend(data);
    }
    Some(answer)
}
