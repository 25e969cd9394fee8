//! The metadata document as it was sent: every value valid, nothing decided yet.

use std::time::Duration;

use super::spec::{Instance, Lifecycle, Spec, Tailnet, Wanted};

/// What the platform says, before configuration has its say ([`super::resolve()`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// This machine as the platform knows it.
    pub instance: Instance,
    /// `tailnet`.
    pub tailnet: Section,
    /// `report.interval_s`.
    pub report_interval: Duration,
}

/// `tailnet`, whose absence and whose null mean different things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Section {
    /// Nothing is said.
    Absent,
    /// Leave the tailnet.
    Null,
    /// Be this node, as far as it is described.
    Node(Node),
}

/// The fields of `tailnet` that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `client_id`.
    pub client_id: Option<String>,
    /// `tags`, in the order they were sent.
    pub tags: Option<Vec<String>>,
    /// `hostname`, already sanitised.
    pub hostname: Option<String>,
    /// `lifecycle`.
    pub lifecycle: Option<Lifecycle>,
    /// `accept_dns`.
    pub accept_dns: Option<bool>,
    /// `accept_routes`.
    pub accept_routes: Option<bool>,
    /// `ssh`.
    pub ssh: Option<bool>,
    /// `epoch`.
    pub epoch: u64,
}

/// How often a report is sent when the document does not say (`devbox/v1`, `report.interval_s`).
pub const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// A spec that somebody has resolved, as a document for another's rules: nothing of it is left to a default.
impl From<Spec> for Document {
    fn from(spec: Spec) -> Self {
        let tailnet = match spec.tailnet {
            Wanted::Unsaid => Section::Absent,
            Wanted::Nothing => Section::Null,
            Wanted::Node(tailnet) => Section::Node(tailnet.into()),
        };
        Self { instance: spec.instance, tailnet, report_interval: spec.report_interval }
    }
}

impl From<Tailnet> for Node {
    fn from(tailnet: Tailnet) -> Self {
        Self {
            client_id: Some(tailnet.client_id),
            tags: Some(tailnet.tags),
            hostname: Some(tailnet.hostname),
            lifecycle: Some(tailnet.lifecycle),
            accept_dns: Some(tailnet.accept_dns),
            accept_routes: Some(tailnet.accept_routes),
            ssh: Some(tailnet.ssh),
            epoch: tailnet.epoch,
        }
    }
}
