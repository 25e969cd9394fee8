//! `--check`: whether commands can be run on this machine, seen by doing everything but joining.

use std::time::Duration;

use super::lines::{Lines, lost};
use super::link::Link;
use crate::exec::Request;
use crate::exec::control::News;
use crate::exec::failure::Failure;
use crate::exec::preflight;
use crate::exec::sandbox::Programs;

/// How long pasta and nft may take together, and what they and tailscaled say of themselves: each 60 ms on an idle machine.
const LIMIT: Duration = Duration::from_secs(5);

/// Succeeds when the sandbox's network is ready, and its programs are recent enough.
pub(super) async fn run(
    request: &Request,
    link: &Link,
    outputs: [Lines; 2],
    programs: &Programs,
) -> Result<u8, Failure> {
    let late = |what: &str| Failure::TimedOut { what: what.to_owned(), limit: LIMIT, reason: None };
    let fit = tokio::time::timeout(LIMIT, preflight::fit(programs, request.settings.daemon.min_version)).await;
    fit.map_err(|_| late("pasta and tailscaled did not say what they are"))??;
    let ready = tokio::time::timeout(LIMIT, ready(link, outputs)).await;
    ready.map_err(|_| late("the sandbox's network had no way out"))??;
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
