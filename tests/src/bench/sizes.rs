//! How much the agent takes: on disk, and in memory when it has nothing to do.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::online::bring_up;
use super::process::resident_mib;
use super::sheet::Sheet;
use crate::scene::Scene;

/// What a join leaves behind is given back within this.
const REST: Duration = Duration::from_secs(10);
/// Between two looks.
const GLANCE: Duration = Duration::from_secs(1);
/// The binary's budget in MiB: 5 MB.
const BINARY_MAX: f64 = 5e6 / 1048576.0;

/// Measures the stripped release binary, and the resident memory of an agent at rest.
///
/// # Errors
/// When the agent does not come online.
pub async fn measure(scene: &Scene, runs: usize) -> Result<Sheet> {
    let online = bring_up(scene, "sizes").await?;
    online.wait().await?;
    let mut sheet = Sheet::new("sizes", "MiB");
    let binary = &scene.lab.layout().agent;
    let bytes = fs::metadata(binary).with_context(|| format!("failed to look at {}", binary.display()))?.len();
    sheet.add("binary", bytes as f64 / 1048576.0);
    tokio::time::sleep(REST).await;
    for _ in 0..runs {
        sheet.add("rss_idle", resident_mib(online.agent.pid())?);
        tokio::time::sleep(GLANCE).await;
    }
    sheet.budget("binary", sheet.median("binary"), (BINARY_MAX * 1e4).round() / 1e4);
    sheet.budget("rss_idle", sheet.median("rss_idle"), 10.0);
    Ok(sheet)
}
