//! What a person waits for: the status command, from its start to its end.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::online::bring_up;
use super::sheet::Sheet;
use crate::machine::Machine;
use crate::scene::{SOCKET, Scene};

/// Each command takes some milliseconds, so there are more runs of it than of a join.
const RUNS_MIN: usize = 20;

/// Runs `devbox-agent status` and `tailscale status --json` in turn on a node that is online.
///
/// # Errors
/// When the agent does not come online or a command fails.
pub async fn measure(scene: &Scene, runs: usize) -> Result<Sheet> {
    let online = bring_up(scene, "status").await?;
    online.wait().await?;
    let mut sheet = Sheet::new("status", "ms");
    for round in 0..=runs.max(RUNS_MIN) {
        for series in ["agent", "tailscale_status_json"] {
            let took = time(&online.machine, command(&online.machine, series)).await?;
            // The first round fills the page cache.
            if round > 0 {
                sheet.add(series, took);
            }
        }
    }
    let (name, ratio) = sheet.ratio("agent", "tailscale_status_json");
    sheet.budget(name, ratio, 0.5);
    sheet.budget("agent (ms)", sheet.median("agent"), 10.0);
    Ok(sheet)
}

fn command(machine: &Machine, series: &str) -> Command {
    if series == "agent" {
        let mut status = machine.command("devbox-agent");
        status.arg("status");
        return status;
    }
    let mut status = machine.command("tailscale");
    status.arg(format!("--socket={SOCKET}")).args(["status", "--json"]);
    status
}

/// Milliseconds from before fork to after the last byte and the exit.
async fn time(machine: &Machine, command: Command) -> Result<f64> {
    let start = Instant::now();
    let output = machine.exec(command).await?;
    let took = start.elapsed();
    ensure!(output.status.success(), "failed to read the status: {}", String::from_utf8_lossy(&output.stderr));
    Ok(took.as_secs_f64() * 1e3)
}
