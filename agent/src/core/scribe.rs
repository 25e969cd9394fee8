//! Writes what was decided down: the status document, the service manager's line, and the log.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::decide::{Decision, Finding};
use super::edges::ServiceManager;
use super::milestone::{Milestone, Milestones};
use super::phase::Phase;
use super::reason::Code;
use super::view::{Verdict, View};
use super::world::World;
use crate::clock::{BootTime, Now, rfc3339};
use crate::config::Settings;
use crate::socket::document::{
    AgentStatus, Boot, DaemonStatus, Document, Identity, InstanceStatus, MetadataStatus, NodeStatus, Reason,
};

/// Where what was decided is read.
pub struct Outlets {
    /// The status document.
    pub status: watch::Sender<Arc<Document>>,
    /// How often reports are due.
    pub report_interval: watch::Sender<Duration>,
}

/// Keeps what a document needs over time, and publishes each one that differs from the last.
pub(super) struct Scribe {
    outlets: Outlets,
    service: Arc<dyn ServiceManager>,
    provider: &'static str,
    started: Option<SystemTime>,
    since: Option<(Phase, Now)>,
    said: Option<(Phase, Option<Code>)>,
    milestones: Milestones,
}

impl Scribe {
    pub fn new(outlets: Outlets, service: Arc<dyn ServiceManager>, provider: &'static str) -> Self {
        Self { outlets, service, provider, started: None, since: None, said: None, milestones: Milestones::default() }
    }

    pub fn write(&mut self, world: &World, settings: &Settings, decision: &Decision, now: Now) {
        if self.since.is_none_or(|(phase, _)| phase != decision.phase) {
            self.since = Some((decision.phase, now));
        }
        self.say(world, decision);
        let document = self.document(View { world, settings, now }, decision);
        self.outlets.publish_interval(world);
        self.outlets.status.send_if_modified(|last| {
            let differs = **last != document;
            if differs {
                *last = Arc::new(document);
            }
            differs
        });
    }

    /// One line for people when the phase or its reason changes: in the log, and for `systemctl status`.
    fn say(&mut self, world: &World, decision: &Decision) {
        let said = (decision.phase, decision.reason.as_ref().map(|reason| reason.code));
        if self.said == Some(said) {
            return;
        }
        self.said = Some(said);
        let name =
            world.node.status.as_ref().map(|status| status.node.dns_name.trim_end_matches('.')).unwrap_or_default();
        let line = match (&decision.reason, decision.phase) {
            (Some(reason), phase) => format!("{phase}: {}", reason.code.sentence()),
            (None, Phase::Online) => format!("online as {name}"),
            (None, phase) => phase.to_string(),
        };
        self.service.status(&line);
        let reason = decision.reason.as_ref().map(|reason| reason.code.as_str());
        let detail = decision.reason.as_ref().map(|reason| reason.detail.as_str()).filter(|detail| !detail.is_empty());
        let message_id = self.milestones.reached(decision.phase).map(Milestone::message_id);
        let told = detail.map_or_else(|| line.clone(), |detail| format!("{line}: {detail}"));
        tracing::info!(message_id, phase = decision.phase.as_str(), reason, node = name, "{told}");
    }

    fn document(&mut self, view: View<'_>, decision: &Decision) -> Document {
        let world = view.world;
        let (_, since) = self.since.unwrap_or((decision.phase, view.now));
        let at = |boot: BootTime| rfc3339(real(boot, view.now));
        Document {
            version: 1,
            instance: world.platform.instance.as_ref().map(instance),
            phase: decision.phase,
            reason: decision.reason.as_ref().map(|finding| reason(finding, &at)),
            notices: decision.notices.iter().map(|finding| reason(finding, &at)).collect(),
            since: rfc3339(since.real),
            since_ms: since.boot,
            node: node(view),
            daemon: daemon(view),
            agent: AgentStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                started_at: rfc3339(*self.started.get_or_insert(view.now.real)),
            },
            boot: Boot { stages: stages(world), online_ms: world.online_at },
            identity: identity(view),
            metadata: MetadataStatus {
                provider: self.provider.to_owned(),
                etag: world.platform.etag.clone(),
                fetched_at: world.platform.fetched_at.map(rfc3339),
            },
        }
    }
}

impl Outlets {
    fn publish_interval(&self, world: &World) {
        let Some(interval) = world.platform.report_interval else { return };
        self.report_interval.send_if_modified(|last| std::mem::replace(last, interval) != interval);
    }
}

/// The document before the first decision.
pub fn newborn(now: Now, provider: &'static str) -> Document {
    let at = rfc3339(now.real);
    Document {
        version: 1,
        instance: None,
        phase: Phase::WaitingForMetadata,
        reason: None,
        notices: Vec::new(),
        since: at.clone(),
        since_ms: now.boot,
        node: None,
        daemon: DaemonStatus::default(),
        agent: AgentStatus { version: env!("CARGO_PKG_VERSION").to_owned(), pid: std::process::id(), started_at: at },
        boot: Boot::default(),
        identity: Identity { verdict: Verdict::Unknown.as_str().to_owned(), evidence: Vec::new() },
        metadata: MetadataStatus { provider: provider.to_owned(), etag: None, fetched_at: None },
    }
}

/// The wall clock's time at a point on CLOCK_BOOTTIME, past or to come.
fn real(boot: BootTime, now: Now) -> SystemTime {
    now.real + boot.since(now.boot) - now.boot.since(boot)
}

fn reason(finding: &Finding, at: &dyn Fn(BootTime) -> String) -> Reason {
    Reason {
        code: finding.code,
        class: finding.code.class(),
        sentence: finding.code.sentence().to_owned(),
        remedy: finding.code.remedy().to_owned(),
        detail: finding.detail.clone(),
        next_try: finding.next_try.map(at),
    }
}

fn instance(instance: &crate::metadata::Instance) -> InstanceStatus {
    InstanceStatus {
        id: instance.id.clone(),
        kind: instance.kind.clone(),
        name: instance.name.clone(),
        workspace: instance.workspace.clone(),
        generation: instance.generation.clone(),
    }
}

fn node(view: View<'_>) -> Option<NodeStatus> {
    let status = view.status().filter(|status| !status.node.id.is_empty())?;
    let dns_name = status.node.dns_name.trim_end_matches('.').to_owned();
    Some(NodeStatus {
        id: status.node.id.clone(),
        name: dns_name.split('.').next().unwrap_or_default().to_owned(),
        dns_name,
        addresses: status.tailscale_ips.clone().unwrap_or_default(),
        tags: status.node.tags.clone(),
        online: view.online(),
        proven_at: view.world.proof.proven_at.map(rfc3339),
        key_expiry: status.node.key_expiry.clone(),
        relay: status.node.relay.clone(),
    })
}

fn daemon(view: View<'_>) -> DaemonStatus {
    let status = view.status();
    DaemonStatus {
        version: status.map(|status| status.version.clone()).unwrap_or_default(),
        backend_state: status.map(|status| status.backend_state.clone()).unwrap_or_default(),
        health: status.map(|status| status.health.clone()).unwrap_or_default(),
        restarts: view.world.daemon.run.saturating_sub(1),
    }
}

fn stages(world: &World) -> Vec<crate::socket::document::Stage> {
    let mut stages = world.stages.clone();
    stages.sort_by_key(|stage| stage.start_ms);
    stages
}

fn identity(view: View<'_>) -> Identity {
    let verdict = view.verdict();
    let record = &view.world.record;
    let evidence = match (verdict, &record.instance_id) {
        (Verdict::Unknown, _) => Vec::new(),
        (Verdict::Fresh, _) => vec!["tailscaled had no node when it was started".to_owned()],
        (_, Some(id)) => vec![format!("the record names instance {id}")],
        (Verdict::Ours, None) => vec!["the agent's own record was set aside".to_owned()],
        (_, None) => vec!["there is no record of this node".to_owned()],
    };
    Identity { verdict: verdict.as_str().to_owned(), evidence }
}
