//! Who plays, and what several acts look at.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use devbox_agent::cli::timeline;
use devbox_agent::core::phase::Phase;
use devbox_agent::socket::document::{Document, NodeStatus};

use super::LIMIT;
use crate::machine::{Machine, Process};
use crate::platform::headscale::api::Node;
use crate::platform::report::Report;
use crate::platform::routes::{EXCHANGE, KEYS};
use crate::scene::Scene;
use crate::web::Site;

/// The devbox's `instance.id`.
pub(super) const DEVBOX: &str = "i-devbox";
/// Whose instances these are.
pub(super) const WORKSPACE: &str = "acme";
/// The port of every web server.
pub(super) const PORT: u16 = 8080;
/// How often the devbox asks for an access token and for a key in the play: at the first join, and when its tags change.
pub(super) const LOGINS: usize = 2;

/// Everything that lives through the play.
pub(super) struct Cast {
    /// Platform and lab.
    pub scene: Scene,
    /// The machine with the agent.
    pub devbox: Machine,
    /// Its agent.
    pub agent: Process,
    /// The devbox's node when it had joined.
    pub joined: NodeStatus,
    /// The machine of a person.
    pub laptop: Machine,
    /// The machine of a private service: `packages`.
    pub service: Machine,
    /// Web servers that must not end.
    pub sites: Vec<Site>,
}

impl Cast {
    /// The devbox's web server by the name of the node.
    pub fn web(&self, name: &str) -> String {
        format!("http://{name}.{}:{PORT}/", self.scene.platform.headscale.base_domain())
    }

    /// Waits until this run of the devbox's agent says that it is online and all else that is asked.
    pub async fn online(&self, wanted: impl Fn(&Document) -> bool) -> Result<Document> {
        online(&self.scene, DEVBOX, &self.agent, wanted).await
    }

    /// Checks that the node is the one that joined: to the tailnet, to control and to everybody who knows its address. Its name may be another.
    pub async fn same_node(&self, document: &Document) -> Result<()> {
        let now = node_of(document)?;
        let (was, is) = ((&self.joined.id, &self.joined.addresses), (&now.id, &now.addresses));
        ensure!(was == is, "expected node and addresses {was:?}, saw {is:?}");
        let nodes = self.scene.platform.minter.nodes_of(&format!("{WORKSPACE}/{DEVBOX}")).await?;
        let ids: Vec<&str> = nodes.iter().map(|node| node.id.as_str()).collect();
        ensure!(ids == [self.joined.id.as_str()], "expected one node {} at Headscale, saw {ids:?}", self.joined.id);
        Ok(())
    }

    /// How often the devbox has exchanged a token, and how often it has asked for a key.
    pub fn logins(&self) -> (usize, usize) {
        let count = |route: &str| {
            let seen = self.scene.platform.api.server.log.of(route);
            seen.iter().filter(|seen| seen.peer == IpAddr::V4(self.devbox.address())).count()
        };
        (count(EXCHANGE), count(KEYS))
    }

    /// Where the devbox's agent listens.
    pub fn socket(&self) -> PathBuf {
        self.devbox.root().path("/run/devbox-agent/api/agent.sock")
    }
}

/// Waits until a report of this very agent says that it is online and all else that is asked.
pub(super) async fn online(
    scene: &Scene,
    instance: &str,
    agent: &Process,
    wanted: impl Fn(&Document) -> bool,
) -> Result<Document> {
    let pid = agent.pid().as_raw().cast_unsigned();
    let is_wanted = |document: &Document| {
        document.agent.pid == pid && document.phase == Phase::Online && document.reason.is_none() && wanted(document)
    };
    let reports = &scene.platform.reports;
    let report = reports.wait_for(instance, LIMIT, |report| parse(report).is_ok_and(|it| is_wanted(&it)));
    tokio::select! {
        // A report that never came says less than what came instead.
        report = report => report.map_or_else(|_| Err(anyhow!("saw {}", last_words(reports.latest(instance)))), |it| parse(&it)),
        status = agent.wait() => Err(anyhow!("saw the agent end with {}: {}", status?, last_line(&agent.log()?))),
    }
}

fn last_line(log: &str) -> &str {
    log.lines().last().unwrap_or("its log is empty")
}

fn parse(report: &Report) -> Result<Document> {
    serde_json::from_value(report.status.clone()).context("failed to parse a status document")
}

/// What an instance said last, in the words of a person's status.
fn last_words(report: Option<Report>) -> String {
    let Some(report) = report else { return "no report at all".to_owned() };
    let Ok(document) = parse(&report) else { return report.raw };
    let reasons = document.reason.iter().chain(&document.notices);
    let reasons: Vec<String> = reasons.map(|it| format!("{} ({})", it.sentence, it.detail)).collect();
    let node = document.node.as_ref().map_or_else(|| "no node".to_owned(), describe);
    format!("{}: {node}; {}", document.phase, reasons.join("; "))
}

/// The node of a document that has one.
pub(super) fn node_of(document: &Document) -> Result<&NodeStatus> {
    document.node.as_ref().context("expected a node in the status document, saw none")
}

/// How long an agent took until its node was online, by its own timeline: a report comes up to 250 ms later, as reports are coalesced.
pub(super) fn online_after(document: &Document) -> Result<Duration> {
    timeline::online_after(&document.boot).context("expected the time until the node was online, saw none")
}

/// A node as one line: name, addresses, tags.
pub(super) fn describe(node: &NodeStatus) -> String {
    format!("{}  {}  {}", node.dns_name, node.addresses.join(", "), node.tags.join(", "))
}

/// The node with this name at Headscale.
pub(super) async fn listed(scene: &Scene, name: &str) -> Result<Option<Node>> {
    Ok(scene.platform.nodes().await?.into_iter().find(|node| node.given_name == name))
}
