//! A machine that the platform knows, with the agent on it: what most stories are about.

mod commands;
mod hands;
mod installed;
mod instance;
mod shell;

use std::fs;
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_agent::socket::document::Document;

pub use self::commands::Said;
pub use self::hands::Package;
pub use self::installed::{AGENT, Installed, TAILSCALED};
pub use self::instance::{CLIENT, Identity, Instance, WORKSPACE};
use crate::machine::{Link, Machine, Process, eventually};
use crate::platform::headscale::api::Node;
use crate::scene::Scene;

/// Far more than a join or a recovery takes, also on a machine that is busy with other stories, and when tailscaled was started
/// before there was a network: it may then look for its relay again only after half a minute.
pub const LIMIT: Duration = Duration::from_secs(90);
/// Where the agent writes its status, at the default `[paths] runtime`.
const STATUS: &str = "/run/devbox-agent/api/status.json";

/// A machine, its instance, and the agent once it was started.
pub struct Devbox<'a> {
    instance: Instance<'a>,
    /// The machine.
    pub machine: Machine,
    agent: Option<Process>,
}

/// A devbox is an instance, with a machine to it.
impl<'a> Deref for Devbox<'a> {
    type Target = Instance<'a>;

    fn deref(&self) -> &Instance<'a> {
        &self.instance
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

    /// Makes a machine of another platform, whose tokens are about `subject`, and tells its agent more of that in TOML.
    ///
    /// # Errors
    /// When the machine cannot be made.
    pub fn elsewhere(scene: &'a Scene, name: &str, subject: &str, toml: &str) -> Result<Self> {
        let machine = scene.machine(name)?;
        let instance = Instance::elsewhere(scene, name, machine.address(), subject);
        let devbox = Self { instance, machine, agent: None };
        devbox.configure("20-provider.toml", toml)?;
        Ok(devbox)
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
        let instance = Instance::announce(scene, machine.name(), machine.address(), kind, tag);
        Ok(Self { instance, machine, agent: None })
    }

    /// Starts `devbox-agent run`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// Starts `devbox-agent run` with more in its environment.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with(&mut self, environment: &[(String, String)]) -> Result<()> {
        self.agent = Some(self.scene.start_talkative_agent(&self.machine, environment)?);
        Ok(())
    }

    /// Starts the agent by a line of the shell, which may redirect.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_by(&mut self, line: &str) -> Result<()> {
        let mut shell = self.machine.command("sh");
        shell.args(["-c", &format!("exec {line}")]);
        self.agent = Some(self.machine.spawn(shell)?);
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

    /// Waits until the agent gives a reason and quotes these words, and returns the document.
    ///
    /// # Errors
    /// When it does not.
    pub async fn gives(&self, code: Code, words: &str) -> Result<Document> {
        let given = |document: &Document| {
            document.reason.as_ref().is_some_and(|reason| reason.code == code && reason.detail.contains(words))
        };
        self.until(&format!("{code}, with {words:?}"), given).await
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

    /// Waits until control has the node as wanted; it hears of a change a moment after the agent has made it.
    ///
    /// # Errors
    /// When it does not.
    pub async fn until_node(&self, what: &str, wanted: impl Fn(&Node) -> bool) -> Result<Node> {
        let found = eventually(what, LIMIT, || async { Ok(self.nodes().await?.into_iter().find(&wanted)) }).await;
        found.with_context(|| self.tale())
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
