//! The spec of a provider that has none of its own: what configuration says, for the instance that the provider knows.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::document::{Document, Node, REPORT_INTERVAL, Section};
use super::{Instance, Read, Rules, Spec, resolve};
use crate::core::reason::Fault;

/// Answers a read ([`super::Metadata::read`]). One with the tag of the same spec is held for `wait`: only new configuration can change this spec,
/// and that comes with a new provider.
pub async fn read(instance: Instance, rules: &Rules, etag: Option<&str>, wait: Duration) -> Read {
    let spec = spec(instance, rules);
    let tag = tag(&spec);
    if etag == Some(tag.as_str()) {
        tokio::time::sleep(wait).await;
        return Read::Unchanged;
    }
    match spec {
        Ok(spec) => Read::Document { spec: Box::new(spec), etag: Some(tag) },
        Err(fault) => Read::Refused { fault, etag: Some(tag) },
    }
}

fn spec(instance: Instance, rules: &Rules) -> Result<Spec, Fault> {
    let tailnet = Section::Node(Node::default());
    let document = Document { instance, tailnet, report_interval: REPORT_INTERVAL };
    resolve(document, rules).map_err(|e| Fault::from(&e))
}

/// A tag that changes with the spec, so that one kept from before a change of configuration does not match.
fn tag(spec: &Result<Spec, Fault>) -> String {
    let mut hasher = DefaultHasher::new();
    format!("{spec:?}").hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
