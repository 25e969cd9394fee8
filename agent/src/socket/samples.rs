//! Documents for tests: one machine, seen in each phase.

use super::document::{
    AgentStatus, Boot, DaemonStatus, Document, Identity, InstanceStatus, MetadataStatus, NodeStatus, Reason, Stage,
};
use crate::clock::BootTime;
use crate::core::phase::Phase;
use crate::core::reason::Code;

/// The machine `web-api` in `phase`, without reason or notices.
pub fn sample(phase: Phase) -> Document {
    Document {
        version: 1,
        instance: Some(InstanceStatus {
            id: "i-4f2c".into(),
            kind: "devbox".into(),
            name: Some("web-api".into()),
            workspace: Some("acme".into()),
            generation: Some("7".into()),
        }),
        phase,
        reason: None,
        notices: Vec::new(),
        since: "2026-01-02T14:02:11Z".into(),
        since_ms: BootTime(10_000),
        node: Some(node(phase == Phase::Online)),
        daemon: DaemonStatus {
            version: "1.92.3".into(),
            backend_state: "Running".into(),
            health: Vec::new(),
            restarts: 0,
        },
        agent: AgentStatus { version: "0.1.0".into(), pid: 812, started_at: "2026-01-02T14:02:10Z".into() },
        boot: boot(),
        identity: Identity { verdict: "ours".into(), evidence: vec!["the instance id is the same".into()] },
        metadata: MetadataStatus {
            provider: "devbox".into(),
            etag: Some("\"1\"".into()),
            fetched_at: Some("2026-01-02T14:02:10Z".into()),
        },
    }
}

/// The machine before it knows anything.
pub fn newborn() -> Document {
    Document {
        instance: None,
        node: None,
        daemon: DaemonStatus::default(),
        boot: Boot::default(),
        identity: Identity { verdict: "unknown".into(), evidence: Vec::new() },
        metadata: MetadataStatus { provider: "devbox".into(), etag: None, fetched_at: None },
        ..sample(Phase::WaitingForMetadata)
    }
}

/// A row of the reason table, with a detail.
pub fn reason(code: Code, detail: &str, next_try: Option<&str>) -> Reason {
    Reason {
        code,
        class: code.class(),
        sentence: code.sentence().into(),
        remedy: code.remedy().into(),
        detail: detail.into(),
        next_try: next_try.map(Into::into),
    }
}

fn node(online: bool) -> NodeStatus {
    NodeStatus {
        id: "nodeid".into(),
        name: "web-api".into(),
        dns_name: "web-api.tail1234.ts.net".into(),
        addresses: vec!["100.64.0.7".into(), "fd7a:115c:a1e0::7".into()],
        tags: vec!["tag:devbox".into()],
        online,
        proven_at: None,
        key_expiry: None,
        relay: "fra".into(),
    }
}

fn boot() -> Boot {
    let stage = |name: &str, start, duration_ms| Stage { name: name.into(), start_ms: BootTime(start), duration_ms };
    Boot {
        stages: vec![
            stage("spec", 9_500, 12),
            stage("daemon", 9_500, 180),
            stage("token", 9_512, 31),
            stage("join", 9_700, 212),
        ],
        online_ms: Some(BootTime(9_912)),
    }
}
