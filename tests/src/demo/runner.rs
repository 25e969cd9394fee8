//! A machine that lives for one job, and whose node goes with it.

use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::LIMIT;
use super::cast::{Cast, PORT, WORKSPACE, describe, listed, node_of, online, online_after};
use super::secrets;
use super::teller::Teller;
use crate::machine::{Machine, Process, eventually};
use crate::platform::instance::{InstanceSpec, Tailnet};
use crate::web::reach;

/// The credential of runners.
const CREDENTIAL: &str = "lab-ci";
/// The runner's `instance.id`.
const RUNNER: &str = "i-job-1";

/// Returns the runner's machine, in which nothing runs any more.
pub(super) async fn play(teller: &Teller, cast: &Cast) -> Result<Machine> {
    let platform = &cast.scene.platform;
    platform.add_credential(CREDENTIAL, WORKSPACE, &["tag:ci"]);
    let machine = cast.scene.machine("job-1")?;
    let spec = InstanceSpec::new(RUNNER, "runner", WORKSPACE, IpAddr::V4(machine.address()));
    platform.add_instance(spec.named("job-1").joining(Tailnet::new(CREDENTIAL, &["tag:ci"])));
    let agent = cast.scene.start_agent(&machine)?;
    let document = online(&cast.scene, RUNNER, &agent, |_| true).await.context("expected the runner online")?;
    teller.took("the runner is on the tailnet, as an ephemeral node", online_after(&document)?);
    teller.detail(describe(node_of(&document)?));
    let node = listed(&cast.scene, "job-1").await?.context("expected the runner at Headscale, saw none")?;
    let ephemeral = node.pre_auth_key.is_some_and(|key| key.ephemeral);
    ensure!(ephemeral && node.tags == ["tag:ci"], "expected an ephemeral node with tag:ci, saw {:?}", node.tags);

    let (start, url) = (Instant::now(), format!("http://packages:{PORT}/"));
    let page = reach(&machine, &url, LIMIT).await?;
    ensure!(page.ends_with("this is the package registry"), "expected the package registry, saw {page:?}");
    teller.took(format_args!("its job: GET {url}, a private service"), start.elapsed());
    secrets::check_processes(cast, &machine)?;
    stop(teller, cast, &agent, &node.id).await?;
    Ok(machine)
}

async fn stop(teller: &Teller, cast: &Cast, agent: &Process, node: &str) -> Result<()> {
    let start = Instant::now();
    agent.signal(Signal::SIGTERM)?;
    let status = tokio::time::timeout(LIMIT, agent.wait()).await.context("expected the agent to stop")??;
    ensure!(status.code() == Some(0), "expected exit code 0, saw {:?}, signal {:?}", status.code(), status.signal());
    teller.took("stopped (SIGTERM): the agent exits with 0", start.elapsed());
    eventually("Headscale to forget the runner", LIMIT, || async {
        let nodes = cast.scene.platform.nodes().await?;
        Ok(nodes.iter().all(|listed| listed.id != node).then_some(()))
    })
    .await?;
    teller.took("Headscale no longer lists it", start.elapsed());
    Ok(())
}
