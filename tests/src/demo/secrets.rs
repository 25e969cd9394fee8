//! Nothing that the platform gave out in confidence stands where somebody could read it.

use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::cast::{Cast, DEVBOX};
use super::runner::RUNNER;
use super::teller::Teller;
use crate::canary::Search;
use crate::machine::Machine;
use crate::platform::ledger::SecretKind;
use crate::scene::Scene;

/// The folders that a machine does not share with the host.
pub(super) const FOLDERS: [&str; 3] = ["/run", "/etc", "/var/lib"];

pub(super) fn play(teller: &Teller, cast: &Cast, runner: &Machine) -> Result<()> {
    let mut search = search(&cast.scene);
    search.folder(&cast.scene.lab.layout().logs)?;
    // Where there is no agent, a person has put a key into a file by hand.
    for machine in [&cast.devbox, runner] {
        for folder in FOLDERS {
            search.folder(&machine.root().path(folder))?;
        }
    }
    for machine in [&cast.devbox, runner, &cast.laptop, &cast.service] {
        search.processes(machine)?;
    }
    for report in [DEVBOX, RUNNER].into_iter().flat_map(|instance| cast.scene.platform.reports.all(instance)) {
        search.text(Path::new("report"), &report.raw);
    }
    check(&search)?;
    teller.seen(format_args!(
        "none of {} tokens and keys in {} files, processes and reports",
        search.secrets(),
        search.looked()
    ));
    Ok(())
}

/// Searches what shows of a machine's processes while they run.
pub(super) fn check_processes(cast: &Cast, machine: &Machine) -> Result<()> {
    let mut search = search(&cast.scene);
    search.processes(machine)?;
    check(&search)
}

/// A search for everything that the platform gave out in confidence.
pub(super) fn search(scene: &Scene) -> Search {
    Search::new(scene.platform.ledger.secrets())
}

/// Fails when it found something, or had nothing to look for.
pub(super) fn check(search: &Search) -> Result<()> {
    for kind in [SecretKind::Jwt, SecretKind::AccessToken, SecretKind::AuthKey] {
        ensure!(search.has(kind), "expected a {kind:?} to look for, saw none");
    }
    if !search.leaks().is_empty() {
        let leaks: Vec<String> = search.leaks().iter().map(ToString::to_string).collect();
        bail!("expected no secret in any file or process, saw {}", leaks.join("; "));
    }
    ensure!(search.looked() > 0, "expected something to search, saw nothing");
    Ok(())
}
