//! The real parts by themselves, without the agent: the ground that the other stories stand on.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use devbox_lab::machine::{Lab, Machine, PLATFORM, Process, eventually, story};
use devbox_lab::platform::{Platform, PlatformConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Far more than any step here takes.
const LIMIT: Duration = Duration::from_secs(30);

async fn platform(lab: &Lab) -> anyhow::Result<Platform> {
    let headscale = lab.layout().find("headscale").context("headscale is built")?;
    Platform::start(PlatformConfig::new(&headscale, Path::new("/run/platform"), IpAddr::V4(PLATFORM))).await
}

/// Starts tailscaled with a real TUN and brings it up with a key, as a person would.
async fn join(machine: &Machine, platform: &Platform) -> anyhow::Result<Process> {
    machine.root().write("/run/key", platform.user_key("ada").await?)?;
    let mut daemon = machine.command("tailscaled");
    daemon.args(["--statedir=/var/lib/tailscale", "--socket=/run/tailscale/tailscaled.sock"]);
    let daemon = machine.spawn(daemon)?;
    let socket = machine.root().path("/run/tailscale/tailscaled.sock");
    eventually("tailscaled's socket", LIMIT, || async { Ok(socket.exists().then_some(())) }).await?;
    let mut up = machine.command("tailscale");
    up.args(["up", "--auth-key=file:/run/key", "--login-server", &platform.control_url()]);
    let output = machine.exec(up).await?;
    ensure!(output.status.success(), "tailscale up failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(daemon)
}

#[test]
fn real_nodes_reach_each_other_by_magicdns_name() {
    story(|lab| async move {
        let platform = platform(&lab).await?;
        let (devbox, laptop) = (lab.machine("devbox")?, lab.machine("laptop")?);
        let started = Instant::now();
        join(&devbox, &platform).await?;
        eprintln!("first join: {:?}", started.elapsed());
        join(&laptop, &platform).await?;

        let (tell, told) = tokio::sync::oneshot::channel();
        let served = devbox.visit(move || async move {
            let listener = TcpListener::bind("[::]:80").await?;
            tell.send(()).map_err(|()| anyhow::anyhow!("nobody waits"))?;
            let (mut caller, from) = listener.accept().await?;
            caller.write_all(b"hello").await?;
            anyhow::Ok(from)
        })?;
        told.await.context("the server did not listen")?;
        let called = laptop.visit(|| async {
            let mut greeting = String::new();
            TcpStream::connect("devbox.lab.ts.test:80").await?.read_to_string(&mut greeting).await?;
            anyhow::Ok(greeting)
        })?;
        assert_eq!(called.join().await??, "hello");
        let from = served.join().await??.ip().to_canonical();
        let nodes = platform.nodes().await?;
        assert!(!from.is_loopback() && from != IpAddr::V4(laptop.address()), "{from} came over the tailnet");
        assert_eq!(nodes.len(), 2);
        Ok(())
    });
}
