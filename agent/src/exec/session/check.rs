//! `--check`: whether commands can be run on this machine, seen by doing everything but joining.

use std::time::Duration;

use super::lines::{Lines, lost};
use super::link::Link;
use crate::exec::Request;
use crate::exec::control::News;
use crate::exec::failure::Failure;
use crate::exec::preflight;
use crate::exec::sandbox::Programs;

/// How long pasta and nft may take together: 60 ms on an idle machine.
const LIMIT: Duration = Duration::from_secs(5);

/// Succeeds when the sandbox's network is ready, and its programs are recent enough.
pub(super) async fn run(
    request: &Request,
    link: &Link,
    outputs: [Lines; 2],
    programs: &Programs,
) -> Result<u8, Failure> {
    preflight::fit(programs, request.settings.daemon.min_version)?;
    match tokio::time::timeout(LIMIT, ready(link, outputs)).await {
        Ok(ready) => ready?,
        Err(_) => {
            let what = "the sandbox's network had no way out".to_owned();
            return Err(Failure::TimedOut { what, limit: LIMIT, reason: None });
        }
    }
    eprintln!("devbox-agent exec: commands can be run on this machine");
    Ok(0)
}

async fn ready(link: &Link, mut outputs: [Lines; 2]) -> Result<(), Failure> {
    loop {
        match link.next().await? {
            (News::Ready, _) => return Ok(()),
            (News::Lost { part, ended }, _) => return Err(lost(&mut outputs, part, ended).await),
            _ => {}
        }
    }
}
