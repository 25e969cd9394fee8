//! How often the agent wakes when there is nothing to do: probe, watchdog, long poll and heartbeat included.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::online::bring_up;
use super::process::Switches;
use super::sheet::Sheet;
use crate::scene::Scene;

/// As the budget has it.
pub const TIME: Duration = Duration::from_secs(600);
/// After a join, until everything that it began has ended.
const REST: Duration = Duration::from_secs(30);
/// Between two looks; a thread of tokio's pool lives 10 s at least.
const GLANCE: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);

/// Counts the agent's voluntary context switches, minute by minute.
///
/// # Errors
/// When the agent does not come online, or ends.
pub async fn measure(scene: &Scene, time: Duration) -> Result<Sheet> {
    let online = bring_up(scene, "idle").await?;
    online.wait().await?;
    tokio::time::sleep(REST).await;
    let mut sheet = Sheet::new("idle", "voluntary context switches a minute");
    let mut switches = Switches::default();
    let first = switches.look(online.agent.pid())?;
    let (start, mut before) = (Instant::now(), first);
    while start.elapsed() < time {
        let minute = Instant::now();
        while minute.elapsed() < MINUTE {
            tokio::time::sleep(GLANCE.min(MINUTE.saturating_sub(minute.elapsed()))).await;
            switches.look(online.agent.pid())?;
        }
        let now = switches.look(online.agent.pid())?;
        sheet.add("agent", (now - before) as f64);
        eprintln!("idle: {} switches in the last minute", now - before);
        before = now;
    }
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    sheet.budget("agent (mean)", (before - first) as f64 / minutes, 30.0);
    sheet.note(format!("{minutes:.0} minutes; each minute is a run; the budget is for the mean over 10 minutes"));
    Ok(sheet)
}
