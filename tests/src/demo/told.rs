//! The agent's two faces: the command for a person, the reports for the platform.

use std::time::SystemTime;

use anyhow::{Result, ensure};
use devbox_agent::cli::words;

use super::cast::{Cast, DEVBOX};
use super::change::check_logins;
use super::teller::Teller;
use crate::platform::report::Report;

pub(super) async fn play(teller: &Teller, cast: &Cast) -> Result<()> {
    let mut command = cast.devbox.command("devbox-agent");
    command.arg("status");
    let output = cast.devbox.exec(command).await?;
    let page = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "expected exit code 0 of devbox-agent status, saw {}", output.status);
    ensure!(page.contains("on the tailnet as web-api"), "expected the node's name in the status, saw {page}");
    teller.seen("devbox-agent status");
    teller.detail(page.trim_end());

    let reports = &cast.scene.platform.reports;
    let (all, violations) = (reports.all(DEVBOX), reports.violations());
    ensure!(violations.is_empty(), "expected every report as the protocol has it, saw {violations:?}");
    check_logins(cast)?;
    teller.seen(format_args!("{} reports of the devbox, all in order and of the published schema", all.len()));
    for line in story(&all) {
        teller.detail(line);
    }
    Ok(())
}

/// The phases in their order, each with when it was first reported, counted from the first report.
fn story(reports: &[Report]) -> Vec<String> {
    let first = reports.first().map_or(SystemTime::UNIX_EPOCH, |report| report.received);
    let mut lines = Vec::new();
    let mut last = String::new();
    for report in reports {
        let reason = report.reason().map(|code| format!(" ({code})")).unwrap_or_default();
        let name = report.status["node"]["name"].as_str().unwrap_or_default();
        let said = format!("{}{reason} {name}", report.phase());
        if said != last {
            let at = report.received.duration_since(first).unwrap_or_default();
            lines.push(format!("{:>7}  {}", words::took(at), said.trim_end()));
            last = said;
        }
    }
    lines
}
