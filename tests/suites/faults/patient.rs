//! The machine that the faults happen to.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devbox_lab::machine::{Lab, Link, Machine, Process, eventually};
use devbox_lab::platform::headscale::api::Node;
use devbox_lab::platform::instance::{InstanceSpec, Tailnet};
use devbox_lab::platform::relay::Scope;
pub use devbox_lab::platform::routes::{INSTANCE as SPEC, TOKEN};
use devbox_lab::scene::Scene;
use serde_json::Value;

/// The machine as the platform knows it.
pub const ID: &str = "i-patient";
/// The credential at the API.
pub const CLIENT: &str = "lab-client";
/// Its tag.
pub const TAG: &str = "tag:devbox";

/// The report's route.
pub const REPORT: &str = "PUT /devbox/v1/report";

/// The longest that anything here takes on a loaded machine: the longest pause between two tries is 10 s, but tailscaled started before
/// there was a network may look for its relay again only after half a minute.
pub const LIMIT: Duration = Duration::from_secs(90);

const STATUS: &str = "/run/devbox-agent/api/status.json";

/// A devbox on a platform of its own, the agent not started yet.
pub struct Patient {
    /// The platform.
    pub scene: Scene,
    /// The machine.
    pub machine: Machine,
    agent: Option<Process>,
}

impl Patient {
    /// Makes the platform, which knows the machine and wants it on the tailnet, and the machine.
    pub async fn admit(lab: Lab) -> Result<Self> {
        Self::admit_with(lab, Link::Up).await
    }

    /// The same, with the network up from the start or not.
    pub async fn admit_with(lab: Lab, link: Link) -> Result<Self> {
        let scene = Scene::start(lab).await?;
        scene.platform.add_credential(CLIENT, "acme", &[TAG]);
        let machine = scene.machine_with("patient", link)?;
        let spec = InstanceSpec::new(ID, "devbox", "acme", IpAddr::V4(machine.address()));
        scene.platform.add_instance(spec.joining(Tailnet::new(CLIENT, &[TAG])));
        Ok(Self { scene, machine, agent: None })
    }

    /// Starts the agent.
    pub fn start(&mut self) -> Result<&Process> {
        let agent = self.scene.start_talkative_agent(&self.machine, &[])?;
        Ok(self.agent.insert(agent))
    }

    /// Starts the agent with more in its environment.
    pub fn start_with(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.agent = Some(self.scene.start_talkative_agent(&self.machine, &environment)?);
        Ok(())
    }

    /// The agent that was started last.
    pub fn agent(&self) -> Result<&Process> {
        self.agent.as_ref().context("the agent was not started")
    }

    /// What only this machine's connections are meant by.
    pub fn its(&self) -> Scope {
        Scope::From(IpAddr::V4(self.machine.address()))
    }

    /// How often the metadata server was asked for a route.
    pub fn asked(&self, route: &str) -> usize {
        self.scene.platform.metadata.server.log.count(route)
    }

    /// How often the API was asked for a route.
    pub fn api_asked(&self, route: &str) -> usize {
        self.scene.platform.api.server.log.count(route)
    }

    /// Has the agent try again at once.
    pub async fn refresh(&self) -> Result<()> {
        let mut command = self.machine.command("devbox-agent");
        command.arg("refresh");
        let output = self.machine.exec(command).await?;
        ensure!(output.status.success(), "failed to refresh: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// The status document that stands in its file; none before the agent has written one.
    pub fn status(&self) -> Option<Value> {
        let text = std::fs::read(self.machine.root().path(STATUS)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Waits until the status is as asked.
    pub async fn shows(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let seen = eventually(what, LIMIT, || async { Ok(self.status().filter(|status| wanted(status))) }).await;
        seen.with_context(|| {
            format!("the status: {:#}\nthe agent's log:\n{}", self.status().unwrap_or_default(), self.log())
        })
    }

    /// Waits until the status gives this reason and quotes these words, and returns the reason.
    pub async fn gives(&self, code: &str, words: &str) -> Result<Value> {
        let wanted = |status: &Value| {
            let reason = &status["reason"];
            reason["code"] == code && reason["detail"].as_str().is_some_and(|detail| detail.contains(words))
        };
        let status = self.shows(&format!("the reason {code}, with {words:?}"), wanted).await?;
        Ok(status["reason"].clone())
    }

    /// The same, and that the platform is told.
    pub async fn gives_and_reports(&self, code: &str, words: &str) -> Result<Value> {
        let reason = self.gives(code, words).await?;
        let told = self.scene.platform.reports.wait_for(ID, LIMIT, |report| report.reason() == Some(code)).await;
        told.with_context(|| self.log())?;
        Ok(reason)
    }

    /// Waits until the status has this notice, in these words.
    pub async fn notes(&self, code: &str, words: &str) -> Result<()> {
        let noted = |status: &Value| {
            let notices = status["notices"].as_array().map(Vec::as_slice).unwrap_or_default();
            let this = |notice: &Value| {
                notice["code"] == code && notice["detail"].as_str().is_some_and(|detail| detail.contains(words))
            };
            notices.iter().any(this)
        };
        self.shows(&format!("the notice {code}, with {words:?}"), noted).await.map(drop)
    }

    /// Waits until the machine is online, without anybody's help, and checks what must hold whatever it went through.
    pub async fn heals(&self) -> Result<Node> {
        self.shows("online", |status| status["phase"] == "online").await?;
        let told = self.scene.platform.reports.wait_for(ID, LIMIT, |report| report.phase() == "online").await;
        told.with_context(|| self.log())?;
        let violations = self.scene.platform.reports.violations();
        ensure!(violations.is_empty(), "reports broke the protocol: {violations:?}");
        let agent = self.agent()?;
        ensure!(agent.exit_status().is_none(), "the agent ended:\n{}", self.log());
        self.keeps_secrets()?;
        self.only_node().await
    }

    /// The machine's node: exactly one.
    pub async fn only_node(&self) -> Result<Node> {
        let nodes = self.scene.platform.nodes().await?;
        let mut ours: Vec<Node> = nodes.into_iter().filter(|node| node.name == ID).collect();
        ensure!(ours.len() == 1, "{} nodes of that name", ours.len());
        ours.pop().context("a node")
    }

    /// What the agents wrote so far.
    pub fn log(&self) -> String {
        self.agent.as_ref().and_then(|agent| agent.log().ok()).unwrap_or_default()
    }

    /// Looks for everything secret that the platform gave out in what the agent wrote and reported.
    fn keeps_secrets(&self) -> Result<()> {
        let mut written = vec![("log", self.log())];
        for file in [STATUS, "/var/lib/devbox-agent/state.json"] {
            written.push((file, std::fs::read_to_string(self.machine.root().path(file)).unwrap_or_default()));
        }
        let reports = self.scene.platform.reports.all(ID);
        written.extend(reports.into_iter().map(|report| ("report", report.raw)));
        for (kind, secret) in self.scene.platform.ledger.secrets() {
            let found = written.iter().find(|(_, text)| text.contains(&secret));
            ensure!(
                found.is_none(),
                "a secret ({kind:?}) stands in the agent's {}",
                found.map_or("", |(name, _)| name)
            );
        }
        Ok(())
    }
}

/// How long after now the agent tries again, by its own word; negative when that is over.
pub fn pause(reason: &Value) -> Result<f64> {
    let next = reason["next_try"].as_str().with_context(|| format!("no next try in {reason}"))?;
    let next = humantime::parse_rfc3339(next).context("not a date")?;
    let now = std::time::SystemTime::now();
    Ok(next.duration_since(now).map_or_else(|over| -over.duration().as_secs_f64(), |left| left.as_secs_f64()))
}
