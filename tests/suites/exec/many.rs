//! Many runs at once, of one user on one machine.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use devbox_lab::machine::{Process, story};
use devbox_lab::scene::Scene;
use serde_json::Value;

use crate::job::{Job, code_of};
use crate::peer::{PAGE, Peer};

const RUNS: usize = 20;

#[test]
fn twenty_runs_at_once_are_twenty_nodes_and_share_nothing() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (job, peer) = (Job::new(&scene, "ci").await?, Peer::join(&scene).await?);
        let url = format!("http://{}/", peer.v4);
        let mut runs: Vec<(Process, String)> = Vec::new();
        for number in 0..RUNS {
            let record = job.write(&format!("record-{number}"), "")?;
            let options = ["--json", &record, "--join-timeout", "100s", "--wait-for", "peer:80"];
            runs.push((job.machine.spawn(job.exec(&options, &["curl", "-fsS", "--max-time", "20", &url]))?, record));
        }
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for (run, record) in runs {
            let code = code_of(&run).await?;
            let page = run.log()?;
            ensure!(code == 0 && page.ends_with(PAGE), "{code}: {page}");
            let lines = std::fs::read_to_string(job.machine.root().path(record))?;
            let started: Value = serde_json::from_str(lines.lines().next().context("nothing is recorded")?)?;
            let seen = page.trim_start_matches("hello ").split(',').next().unwrap_or_default().to_owned();
            ensure!(started["node"]["addresses"].to_string().contains(&seen), "{seen} is not of {started}");
            names.insert(started["node"]["name"].to_string());
            addresses.insert(seen);
        }
        assert_eq!((names.len(), addresses.len()), (RUNS, RUNS));
        job.close().await
    });
}
