//! A document for tests.

use crate::clock::BootTime;
use crate::core::phase::Phase;
use crate::core::reason::{Code, Fault};
use crate::socket::document::{
    AgentStatus, Boot, DaemonStatus, Document, Identity, InstanceStatus, MetadataStatus, NodeStatus, Reason, Stage,
};

/// A node that is online.
pub(crate) fn document() -> Document {
    Document {
        version: 1,
        instance: Some(InstanceStatus {
            id: "i-4f2c".into(),
            kind: "devbox".into(),
            name: Some("web-api".into()),
            workspace: Some("acme".into()),
            generation: Some("7".into()),
        }),
        phase: Phase::Online,
        reason: None,
        notices: Vec::new(),
        since: "2023-11-14T22:13:20Z".into(),
        since_ms: BootTime(4_000),
        node: Some(NodeStatus {
            id: "n1".into(),
            name: "web-api".into(),
            dns_name: "web-api.ts.test".into(),
            addresses: vec!["100.64.0.1".into()],
            tags: vec!["tag:devbox".into()],
            online: true,
            proven_at: None,
            key_expiry: None,
            relay: "test".into(),
        }),
        daemon: DaemonStatus::default(),
        agent: AgentStatus { version: "0.1.0".into(), pid: 7, started_at: "2023-11-14T22:13:19Z".into() },
        boot: Boot {
            stages: vec![Stage { name: "spec".into(), start_ms: BootTime(1), duration_ms: 2 }],
            online_ms: Some(BootTime(4_000)),
        },
        identity: Identity { verdict: "ours".into(), evidence: vec!["the record names it".into()] },
        metadata: MetadataStatus { provider: "devbox".into(), etag: Some("\"v1\"".into()), fetched_at: None },
    }
}

/// The same in another phase.
pub(crate) fn in_phase(phase: Phase) -> Document {
    Document { phase, ..document() }
}

/// A reason with a detail.
pub(crate) fn reason(code: Code, detail: &str) -> Reason {
    Reason {
        code,
        class: code.class(),
        sentence: code.sentence().into(),
        remedy: code.remedy().into(),
        detail: detail.into(),
        next_try: None,
    }
}

/// A sink's fault.
pub(crate) fn fault(code: Code) -> Fault {
    Fault { code, detail: "scripted".into(), retry_after: None, unsent: false }
}
