//! The agent's memory after minutes in which everything around it keeps changing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::online::{Online, TAGS, bring_up};
use super::process::resident_mib;
use super::sheet::Sheet;
use crate::platform::instance::TailnetWish;
use crate::scene::Scene;

/// As long as CI can wait; an hour by hand.
pub const TIME: Duration = Duration::from_secs(300);
/// How long a blow is left to take effect before the agent is asked whether it has got over it.
const EFFECT: Duration = Duration::from_secs(1);
/// How long the network is away.
const AWAY: Duration = Duration::from_secs(2);
/// What the last blow leaves behind is given back within this.
const REST: Duration = Duration::from_secs(10);

/// What happens to the agent, over and over.
#[derive(Clone, Copy, Debug)]
enum Blow {
    /// The platform renames it.
    Rename,
    /// The platform changes its tags, so that it must authenticate again.
    Retag,
    /// It is told that it was resumed.
    Resume,
    /// tailscaled is killed.
    Kill,
    /// Somebody asks for a refresh.
    Refresh,
    /// The network goes and comes back.
    Flap,
}

const BLOWS: [Blow; 6] = [Blow::Rename, Blow::Kill, Blow::Refresh, Blow::Flap, Blow::Retag, Blow::Resume];

/// Deals blows until `time` is over, sees that the agent is online after each, and measures its memory all along.
///
/// # Errors
/// When the agent ends or does not come online again.
pub async fn measure(scene: &Scene, time: Duration) -> Result<Sheet> {
    let online = bring_up(scene, "soak").await?;
    online.wait().await?;
    let mut sheet = Sheet::new("soak", "MiB");
    let start = Instant::now();
    let mut dealt = 0;
    while start.elapsed() < time {
        let blow = BLOWS[dealt % BLOWS.len()];
        strike(scene, &online, blow, dealt).await.with_context(|| format!("failed to deal blow {dealt}: {blow:?}"))?;
        tokio::time::sleep(EFFECT).await;
        online.wait().await.with_context(|| format!("not online after blow {dealt}: {blow:?}"))?;
        sheet.add("rss_during", resident_mib(online.agent.pid())?);
        dealt += 1;
    }
    tokio::time::sleep(REST).await;
    sheet.add("rss_end", resident_mib(online.agent.pid())?);
    ensure!(online.agent.exit_status().is_none(), "the agent ended: {}", online.agent.log()?);
    sheet.budget("rss_end", sheet.median("rss_end"), 10.0);
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    sheet.note(format!(
        "{dealt} blows in {minutes:.0} minutes: rename, tailscaled killed, refresh, network away, other tags, resume"
    ));
    Ok(sheet)
}

async fn strike(scene: &Scene, online: &Online, blow: Blow, number: usize) -> Result<()> {
    let platform = &scene.platform;
    match blow {
        Blow::Rename => platform.set_spec(&online.instance, |spec| {
            if let TailnetWish::Join(tailnet) = &mut spec.tailnet {
                tailnet.hostname = Some(format!("soak-{number}"));
            }
        }),
        Blow::Retag => platform.set_spec(&online.instance, |spec| {
            if let TailnetWish::Join(tailnet) = &mut spec.tailnet {
                tailnet.tags = vec![TAGS[(number / BLOWS.len() + 1) % TAGS.len()].to_owned()];
            }
        }),
        Blow::Resume => platform.bump_generation(&online.instance),
        Blow::Kill => Ok(kill(tailscaled(online)?, Signal::SIGKILL).context("failed to kill tailscaled")?),
        Blow::Refresh => {
            let mut refresh = online.machine.command("devbox-agent");
            refresh.arg("refresh");
            let output = online.machine.exec(refresh).await?;
            ensure!(output.status.success(), "refresh said: {}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        }
        Blow::Flap => {
            online.machine.link_down()?;
            tokio::time::sleep(AWAY).await;
            Ok(online.machine.link_up()?)
        }
    }
}

/// The machine's tailscaled, by the name that the kernel knows it by (proc_pid_comm(5)).
fn tailscaled(online: &Online) -> Result<Pid> {
    let named =
        |pid: &Pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "tailscaled");
    online.machine.processes()?.into_iter().find(named).context("failed to find tailscaled")
}
