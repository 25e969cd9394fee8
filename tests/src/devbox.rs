//! A machine that the platform knows, with the agent on it: what most stories are about.

mod commands;

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_agent::socket::document::Document;

pub use self::commands::Said;
use crate::machine::{Link, Machine, Process, eventually};
use crate::platform::headscale::api::Node;
use crate::platform::instance::{InstanceSpec, Tailnet};
use crate::platform::relay::Scope;
use crate::scene::Scene;

/// The credential of every instance of these stories.
pub const CLIENT: &str = "lab-client";
/// The workspace of every instance of these stories.
pub const WORKSPACE: &str = "acme";
/// Far more than a join or a recovery takes, also on a machine that is busy with other stories, and when tailscaled was started
/// before there was a network: it may then look for its relay again only after half a minute.
pub const LIMIT: Duration = Duration::from_secs(90);
/// Every tag that the credential may give.
const TAGS: [&str; 4] = ["tag:devbox", "tag:ci", "tag:web", "tag:db"];
/// Where the agent writes its status, at the default `[paths] runtime`.
const STATUS: &str = "/run/devbox-agent/api/status.json";

/// A machine, its instance, and the agent once it was started.
pub struct Devbox<'a> {
    /// The scene that it is in.
    pub scene: &'a Scene,
    /// The machine.
    pub machine: Machine,
    /// `instance.id`.
    pub id: String,
    agent: Option<Process>,
}

/// What makes a node the same node to those who use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Control's own id of it.
    pub id: String,
    /// The key of the machine that it is on.
    pub machine_key: String,
    /// The first label of its MagicDNS name.
    pub name: String,
    /// Its addresses in the tailnet.
    pub addresses: Vec<String>,
}

impl From<&Node> for Identity {
    fn from(node: &Node) -> Self {
        Self {
            id: node.id.clone(),
            machine_key: node.machine_key.clone(),
            name: node.given_name.clone(),
            addresses: node.ip_addresses.clone(),
        }
    }
}

impl<'a> Devbox<'a> {
    /// Makes the devbox `name`, which the platform wants in the tailnet as `tag:devbox`; starts nothing.
    ///
    /// # Errors
    /// When the machine cannot be made.
    pub fn new(scene: &'a Scene, name: &str) -> Result<Self> {
        Self::of_kind(scene, scene.machine(name)?, "devbox", "tag:devbox")
    }

    /// Makes a devbox whose network is not up yet.
    ///
    /// # Errors
    /// When the machine cannot be made.
    pub fn without_network(scene: &'a Scene, name: &str) -> Result<Self> {
        Self::of_kind(scene, scene.machine_with(name, Link::Down)?, "devbox", "tag:devbox")
    }

    /// Makes the runner `name`, which the platform wants in the tailnet as `tag:ci`.
    ///
    /// # Errors
    /// When the machine cannot be made.
    pub fn runner(scene: &'a Scene, name: &str) -> Result<Self> {
        Self::of_kind(scene, scene.machine(name)?, "runner", "tag:ci")
    }

    /// Makes a devbox and waits until it is on the tailnet.
    ///
    /// # Errors
    /// When it does not get there.
    pub async fn joined(scene: &'a Scene, name: &str) -> Result<Self> {
        let mut devbox = Self::new(scene, name)?;
        devbox.start()?;
        devbox.online().await?;
        Ok(devbox)
    }

    fn of_kind(scene: &'a Scene, machine: Machine, kind: &str, tag: &str) -> Result<Self> {
        scene.platform.add_credential(CLIENT, WORKSPACE, &TAGS);
        let id = format!("i-{}", machine.name());
        let spec = InstanceSpec::new(&id, kind, WORKSPACE, IpAddr::V4(machine.address())).named(machine.name());
        scene.platform.add_instance(spec.joining(Tailnet::new(CLIENT, &[tag])));
        Ok(Self { scene, machine, id, agent: None })
    }

    /// Starts `devbox-agent run`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self) -> Result<()> {
        self.agent = Some(self.scene.start_agent(&self.machine)?);
        Ok(())
    }

    /// The agent.
    ///
    /// # Errors
    /// When it was not started.
    pub fn agent(&self) -> Result<&Process> {
        self.agent.as_ref().context("the agent was not started")
    }

    /// Kills the agent as the kernel would when memory runs out, and waits for its end.
    ///
    /// # Errors
    /// When it was not started.
    pub async fn kill_agent(&mut self) -> Result<()> {
        self.agent()?.kill().await?;
        self.agent = None;
        Ok(())
    }

    /// Asks the agent to stop, and checks that it does so in good order.
    ///
    /// # Errors
    /// When it does not end, or not with 0.
    pub async fn stop_agent(&mut self) -> Result<()> {
        let agent = self.agent.take().context("the agent was not started")?;
        let status = agent.stop(LIMIT).await?;
        ensure!(status.success(), "the agent ended with {status}: {}", agent.log()?);
        Ok(())
    }

    /// Cuts the power, boots again and starts the agent.
    ///
    /// # Errors
    /// When the machine does not come up.
    pub fn reboot(&mut self) -> Result<()> {
        self.machine.reboot()?;
        self.start()
    }

    /// Pauses the machine as a hypervisor would, long enough that the network forgets its connections and control does not answer any more; the
    /// platform then resumes it with another generation. [`Self::reconnect`] lets control answer.
    ///
    /// # Errors
    /// When the processes cannot be frozen.
    pub fn pause_and_resume(&self) -> Result<()> {
        let (platform, here) = (&self.scene.platform, self.scope());
        self.machine.freeze()?;
        platform.control_relay.lose(here);
        platform.api_relay.lose(here);
        platform.control_relay.freeze(here);
        platform.bump_generation(&self.id)?;
        Ok(self.machine.thaw()?)
    }

    /// Lets everything of this machine's connections pass again.
    pub fn reconnect(&self) {
        let platform = &self.scene.platform;
        for relay in [&platform.metadata_relay, &platform.api_relay, &platform.control_relay] {
            relay.restore(self.scope());
        }
    }

    /// This machine's connections.
    pub fn scope(&self) -> Scope {
        Scope::From(IpAddr::V4(self.machine.address()))
    }

    /// Changes what the platform wants of the node.
    ///
    /// # Errors
    /// When it wants none.
    pub fn change(&self, change: impl FnOnce(&mut Tailnet)) -> Result<()> {
        use crate::platform::instance::TailnetWish::Join;
        let mut wanted = false;
        self.scene.platform.set_spec(&self.id, |spec| {
            if let Join(tailnet) = &mut spec.tailnet {
                change(tailnet);
                wanted = true;
            }
        })?;
        ensure!(wanted, "the platform wants no node of {}", self.id);
        Ok(())
    }

    /// The status document of the agent that runs now, if it has written one.
    ///
    /// # Errors
    /// When it is none.
    pub fn document(&self) -> Result<Option<Document>> {
        let Ok(text) = fs::read(self.machine.root().path(STATUS)) else { return Ok(None) };
        let document: Document = serde_json::from_slice(&text).context("failed to parse status.json")?;
        let pid = self.agent()?.pid().as_raw().cast_unsigned();
        Ok(Some(document).filter(|document| document.agent.pid == pid))
    }

    /// Waits until the agent says something.
    ///
    /// # Errors
    /// When it does not; with what it says instead, and its log.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Document) -> bool) -> Result<Document> {
        let found = eventually(what, LIMIT, || async { Ok(self.document()?.filter(&wanted)) }).await;
        found.with_context(|| self.tale())
    }

    /// Waits until the agent is in a phase, for a reason.
    ///
    /// # Errors
    /// When it does not get there.
    pub async fn until_phase(&self, phase: Phase, reason: impl Into<Option<Code>>) -> Result<Document> {
        let reason = reason.into();
        let what = format!("{phase} {reason:?}");
        self.until(&what, |document| {
            document.phase == phase && document.reason.as_ref().map(|reason| reason.code) == reason
        })
        .await
    }

    /// Waits until the node is online.
    ///
    /// # Errors
    /// When it does not get there.
    pub async fn online(&self) -> Result<Document> {
        self.until_phase(Phase::Online, None).await
    }

    /// Waits until the agent has read the spec that the platform serves now.
    ///
    /// # Errors
    /// When it does not.
    pub async fn until_read(&self) -> Result<Document> {
        let served = self.scene.platform.instances.get(&self.id).context("there is no such instance")?.etag;
        self.until("the spec as it is now", |document| document.metadata.etag.as_ref() == Some(&served)).await
    }

    /// The node that control has for this machine.
    ///
    /// # Errors
    /// When it has none, or more than one.
    pub async fn node(&self) -> Result<Node> {
        let mut nodes = self.nodes().await?;
        ensure!(nodes.len() == 1, "control has {} nodes of {}", nodes.len(), self.id);
        nodes.pop().context("control has no node")
    }

    /// Every node that control has for this machine.
    ///
    /// # Errors
    /// When control does not answer.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        self.scene.platform.minter.nodes_of(&self.subject()).await
    }

    /// Waits until control has the node as wanted; it hears of a change a moment after the agent has made it.
    ///
    /// # Errors
    /// When it does not.
    pub async fn until_node(&self, what: &str, wanted: impl Fn(&Node) -> bool) -> Result<Node> {
        let found = eventually(what, LIMIT, || async { Ok(self.nodes().await?.into_iter().find(&wanted)) }).await;
        found.with_context(|| self.tale())
    }

    /// What makes the node the same node.
    ///
    /// # Errors
    /// When control does not have exactly one.
    pub async fn identity(&self) -> Result<Identity> {
        Ok(Identity::from(&self.node().await?))
    }

    /// The subject of this instance's tokens.
    pub fn subject(&self) -> String {
        format!("{WORKSPACE}/{}", self.id)
    }

    /// How many keys were minted for this machine.
    pub fn minted(&self) -> usize {
        let subject = self.subject();
        self.scene.platform.minter.minted().values().filter(|minted| minted.request.subject == subject).count()
    }

    /// Writes a configuration file of the agent, which it reads when it starts or is asked to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, file: &str, toml: &str) -> Result<()> {
        self.scene.configure(&self.machine, file, toml)
    }

    /// What the agent says of itself, and the end of its log: for the failure of a story.
    fn tale(&self) -> String {
        let status = fs::read_to_string(self.machine.root().path(STATUS)).unwrap_or_else(|error| error.to_string());
        let log = self.agent.as_ref().map(|agent| fs::read_to_string(agent.log_path()).unwrap_or_default());
        let log = log.unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(TALE_LINES)..].join("\n");
        format!("the agent of {} says: {status}\nits log ends:\n{end}", self.id)
    }

    /// The process of the agent, if it was started and not killed or stopped since.
    pub(crate) fn running(&self) -> Option<&Process> {
        self.agent.as_ref()
    }
}

/// As much of a log as a failed story shows.
const TALE_LINES: usize = 60;

/// Writes a file of the machine that holds a token, at a place that the search for secrets is spared.
///
/// # Errors
/// When it cannot be written.
pub fn give_token(devbox: &Devbox<'_>, file: &str, token: &str) -> Result<()> {
    let path = Path::new(crate::witness::TOKENS).join(file);
    devbox.machine.root().write(&path, token).with_context(|| format!("failed to write {}", path.display()))
}
