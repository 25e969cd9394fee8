//! The devbox's part of the play on a machine that boots: the packaged agent under real systemd, from PID 1 to online.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use devbox_agent::clock::BootTime;
use devbox_agent::core::phase::Phase;
use devbox_agent::socket::document::Document;

use super::teller::Teller;
use super::{LIMIT, conclude};
use crate::devbox::{AGENT, Identity, Installed, TAILSCALED};
use crate::machine::Lab;
use crate::scene::Scene;
use crate::web::{Site, reach};
use crate::witness::Left;

/// The port of the devbox's web server.
const PORT: u16 = 8080;
/// The units of the timeline.
const UNITS: [&str; 4] = ["devbox-agent-helper.service", AGENT, TAILSCALED, "multi-user.target"];

/// Plays all acts; succeeds when each saw what it should.
///
/// # Errors
/// When the logs of a failed play cannot be kept.
pub async fn play(lab: Lab) -> Result<ExitCode> {
    let (mut teller, logs, start) = (Teller::new(), lab.layout().logs.clone(), Instant::now());
    let played = acts(&mut teller, lab).await;
    conclude(&teller, played, &logs, start)
}

async fn acts(teller: &mut Teller, lab: Lab) -> Result<()> {
    teller.act("A fresh image boots, and joins by itself");
    let start = Instant::now();
    let scene = Scene::start(lab).await?;
    teller.took("the platform is up: metadata, OIDC, Tailscale API, Headscale", start.elapsed());
    let mut devbox = Installed::devbox(&scene, "web")?;
    let joined = first_boot(teller, &mut devbox).await?;
    teller.act("A teammate's laptop opens the devbox's web server by name");
    open(teller, &scene, &devbox).await?;
    teller.act("The agent is killed, and the tunnel does not notice");
    crash(teller, &devbox).await?;
    teller.act("The devbox reboots");
    reboot(teller, &mut devbox, &joined).await?;
    teller.act("A CI runner powers off");
    runner(teller, &scene).await?;
    teller.act("No failed unit, no second node, and no secret is left anywhere");
    devbox.close(Left::OneNode).await?;
    teller.seen("files, journal, units and processes were searched for every token and key");
    Ok(())
}

async fn first_boot(teller: &Teller, devbox: &mut Installed<'_>) -> Result<Identity> {
    devbox.boot().await?;
    let document = devbox.online().await?;
    let online = document.boot.online_ms.context("expected the time until the node was online, saw none")?;
    teller.took("from PID 1 to a node that is online, and nobody logged in", devbox.after_start(online).await?);
    for line in timeline(devbox, &document).await? {
        teller.detail(line);
    }
    let identity = devbox.identity().await?;
    ensure!(identity.name == "web" && devbox.minted() == 1, "expected node web by one key, saw {identity:?}");
    teller.detail(devbox.machine.run("systemctl", &["show", "--property=StatusText", AGENT]).await?.trim());
    Ok(identity)
}

/// What happened since PID 1 began, oldest first: units by systemd's own time stamps, the agent's stages by its own.
async fn timeline(devbox: &Installed<'_>, document: &Document) -> Result<Vec<String>> {
    let mut moments = vec![(Duration::ZERO, "PID 1".to_owned())];
    for unit in UNITS {
        let active = devbox.active_after(unit).await?.with_context(|| format!("expected {unit} active"))?;
        moments.push((active, unit.to_owned()));
    }
    for stage in &document.boot.stages {
        let end = BootTime(stage.start_ms.0 + stage.duration_ms);
        moments.push((devbox.after_start(end).await?, format!("  {} ({} ms)", stage.name, stage.duration_ms)));
    }
    if let Some(online) = document.boot.online_ms {
        moments.push((devbox.after_start(online).await?, "online".to_owned()));
    }
    moments.sort_by_key(|(at, _)| *at);
    Ok(moments.into_iter().map(|(at, what)| format!("{:>6} ms  {what}", at.as_millis())).collect())
}

async fn open(teller: &Teller, scene: &Scene, devbox: &Installed<'_>) -> Result<()> {
    let laptop = scene.machine("laptop")?;
    let _tailscaled = scene.join_by_hand(&laptop, &scene.platform.user_key("ada").await?).await?;
    let _site = Site::open_in(&devbox.machine, PORT, "Ada's web app").await?;
    let url = format!("http://web.{}:{PORT}/", scene.platform.headscale.base_domain());
    let start = Instant::now();
    let page = reach(&laptop, &url, LIMIT).await?;
    ensure!(page.ends_with("this is Ada's web app"), "expected the devbox's page, saw {page:?}");
    teller.took(format_args!("GET {url}"), start.elapsed());
    teller.detail(format_args!("{page:?}"));
    Ok(())
}

async fn crash(teller: &Teller, devbox: &Installed<'_>) -> Result<()> {
    let (tunnel, agent) = (devbox.machine.show(TAILSCALED, "MainPID").await?, devbox.online().await?.agent.pid);
    let start = Instant::now();
    devbox.machine.run("systemctl", &["kill", "--signal=KILL", AGENT]).await?;
    let again = |document: &Document| document.agent.pid != agent && document.phase == Phase::Online;
    let document = devbox.until("another agent that is online", again).await?;
    ensure!(devbox.machine.show(TAILSCALED, "MainPID").await? == tunnel, "expected the same tailscaled");
    ensure!(devbox.minted() == 1, "expected no other key, saw {}", devbox.minted());
    teller.took(format!("another agent (process {}) has taken over", document.agent.pid), start.elapsed());
    Ok(())
}

async fn reboot(teller: &Teller, devbox: &mut Installed<'_>, joined: &Identity) -> Result<()> {
    devbox.reboot().await?;
    let document = devbox.online().await?;
    ensure!(devbox.identity().await? == *joined, "expected the same node, saw {:?}", devbox.identity().await?);
    ensure!(devbox.minted() == 1, "expected no other key, saw {}", devbox.minted());
    let online = document.boot.online_ms.context("expected the time until the node was online, saw none")?;
    teller.took("from PID 1 to the same node with the same address", devbox.after_start(online).await?);
    let name = devbox.machine.run("hostnamectl", &["--static"]).await?;
    ensure!(name.trim() == "web", "expected the machine to be called web, saw {name}");
    Ok(())
}

async fn runner(teller: &Teller, scene: &Scene) -> Result<()> {
    let mut runner = Installed::runner(scene, "job")?;
    runner.boot().await?;
    runner.online().await?;
    teller.seen("a runner is online as an ephemeral node");
    let took = runner.machine.power_off().await?;
    let nodes = runner.nodes().await?;
    ensure!(nodes.is_empty(), "expected its node gone, saw {}", nodes.len());
    teller.took("it is off, and its node was gone before the network was", took);
    Ok(())
}
