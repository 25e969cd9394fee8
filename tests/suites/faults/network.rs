//! Rows F2 and F11: the machine's own network, and proxies it is told of.

use std::sync::Arc;
use std::sync::Mutex;

use anyhow::{Result, ensure};
use devbox_lab::machine::{Link, METADATA, Machine, PLATFORM, story};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::patient::Patient;

/// Runs a line of the shell in the machine.
async fn shell(machine: &Machine, line: &str) -> Result<()> {
    let mut command = machine.command("sh");
    command.args(["-c", line]);
    let output = machine.exec(command).await?;
    ensure!(output.status.success(), "`{line}` failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn a_black_hole_holds_nothing_up_and_heals() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        // Packets leave, for an address on the link that nobody has.
        let neighbour = format!("{METADATA} lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
        shell(&patient.machine, &format!("ip neigh replace {neighbour}")).await?;
        patient.start()?;
        patient.gives("metadata_unreachable", "failed to connect").await?;
        shell(&patient.machine, &format!("ip neigh del {METADATA} dev eth0")).await?;
        patient.heals().await.map(drop)
    });
}

#[test]
fn a_network_that_comes_up_late_is_used_at_once() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        patient.machine.link_down()?;
        patient.start()?;
        patient.gives("metadata_unreachable", "failed to connect").await?;
        patient.machine.link_up()?;
        patient.heals().await.map(drop)
    });
}

#[test]
fn a_machine_that_boots_without_a_network_waits_for_it() {
    story(|lab| async move {
        let mut patient = Patient::admit_with(lab, Link::Down).await?;
        patient.start()?;
        patient.gives("metadata_unreachable", "failed to connect").await?;
        patient.machine.link_up()?;
        patient.heals().await.map(drop)
    });
}

#[test]
fn a_proxy_in_the_environment_never_hears_of_metadata_or_the_api() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        let proxy = TcpListener::bind((PLATFORM, 3128)).await?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listening = tokio::spawn(listen(proxy, heard.clone()));
        let url = format!("http://{PLATFORM}:3128");
        // tailscaled is a program of its own and tries a proxy on its way to control; here it needs none.
        let control = patient.scene.platform.control_relay.address().to_string();
        let names = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
        let mut environment: Vec<_> = names.map(|name| (name, url.as_str())).to_vec();
        environment.extend([("NO_PROXY", control.as_str()), ("no_proxy", control.as_str())]);
        patient.start_with(&environment)?;
        patient.heals().await?;
        listening.abort();
        let heard = heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let daemons_own = format!("CONNECT {control} ");
        let agents: Vec<_> = heard.iter().filter(|words| !words.starts_with(&daemons_own)).collect();
        ensure!(agents.is_empty(), "the proxy was asked: {agents:?}");
        Ok(())
    });
}

/// Takes down how each caller begins.
async fn listen(proxy: TcpListener, heard: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    loop {
        let (mut caller, _) = proxy.accept().await?;
        let mut start = [0; 200];
        let length = caller.read(&mut start).await?;
        let words = String::from_utf8_lossy(&start[..length]).into_owned();
        heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(words);
    }
}
