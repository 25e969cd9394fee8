//! An agent that is online: what most benches begin with.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};

use super::observer::Observer;
use crate::machine::{Machine, Process};
use crate::platform::instance::{InstanceSpec, Tailnet};
use crate::scene::{SOCKET, Scene};

/// The credential that agents use.
pub const CLIENT: &str = "lab-client";
/// The workspace of their instances.
pub const WORKSPACE: &str = "acme";
/// The tags that they may have; all ask for the first.
pub const TAGS: [&str; 2] = ["tag:devbox", "tag:web"];
/// The real daemon that all series share.
pub const TAILSCALED: &str = "tailscaled 1.102.3";
/// How long anything may take to come online; seconds on a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A machine with an agent that is online.
pub struct Online {
    /// The machine.
    pub machine: Machine,
    /// The agent.
    pub agent: Process,
    /// The instance that it is.
    pub instance: String,
}

/// Tells the platform of the instance that `machine` is, and returns its id: new with each machine.
pub fn provision(scene: &Scene, machine: &Machine) -> String {
    let id = format!("i-{}", machine.name());
    let spec = InstanceSpec::new(&id, "devbox", WORKSPACE, IpAddr::V4(machine.address()));
    scene.platform.add_instance(spec.named(machine.name()).joining(Tailnet::new(CLIENT, &TAGS[..1])));
    id
}

/// Takes an instance, and every node, from the platform: the next run meets what the first one met.
///
/// # Errors
/// When Headscale does not answer.
pub async fn forget(scene: &Scene, instance: &str) -> Result<()> {
    scene.platform.instances.remove(instance);
    for node in scene.platform.nodes().await? {
        scene.platform.headscale.api.delete_node(&node.id).await?;
    }
    Ok(())
}

/// Makes a machine with an agent and waits until it is online.
///
/// # Errors
/// When it does not come online; with the agent's log.
pub async fn bring_up(scene: &Scene, name: &str) -> Result<Online> {
    let machine = scene.machine(name)?;
    let instance = provision(scene, &machine);
    let observer = Observer::start(machine.root().path(SOCKET));
    let agent = scene.start_agent(&machine)?;
    if let Err(error) = observer.online(LIMIT).await {
        return Err(error.context(agent.log()?));
    }
    Ok(Online { machine, agent, instance })
}

impl Online {
    /// Waits until the agent itself says that it is online.
    ///
    /// # Errors
    /// When it does not say so in time; with its words.
    pub async fn wait(&self) -> Result<()> {
        let mut wait = self.machine.command("devbox-agent");
        wait.args(["wait-online", "--timeout"]).arg(humantime::format_duration(LIMIT).to_string());
        let output = self.machine.exec(wait).await?;
        let said = || format!("{}\n{}", String::from_utf8_lossy(&output.stderr), self.agent.log().unwrap_or_default());
        output.status.success().then_some(()).with_context(said)
    }
}
