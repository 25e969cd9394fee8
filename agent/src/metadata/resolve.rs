//! The platform's word and configuration's, made into one spec. Configuration wins; `may_set` says where the platform has a word at all.

use super::document::{Document, Node, Section};
use super::spec::{Instance, Lifecycle, Spec, Tailnet, Wanted};
use super::{hostname, value};
use crate::config::settings::{Settings, SpecField, TailnetSettings};
use crate::core::reason::{Code, Reasoned};

/// What configuration says about the spec.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// `[tailnet]`, whose fields win.
    pub tailnet: TailnetSettings,
    /// `[metadata] may_set`.
    pub may_set: Vec<SpecField>,
}

impl From<&Settings> for Rules {
    fn from(settings: &Settings) -> Self {
        Self { tailnet: settings.tailnet.clone(), may_set: settings.metadata.may_set.clone() }
    }
}

/// A spec that lacks something, or has it in a form that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Neither side gives a required field.
    #[error("tailnet.{field}: given neither by the metadata{} nor by [tailnet] {field}", if *.ignored { " (see [metadata] may_set)" } else { "" })]
    Missing {
        /// The field.
        field: &'static str,
        /// The metadata may not set it.
        ignored: bool,
    },
    /// A value that cannot be used.
    #[error("{field}: {expected}")]
    Value {
        /// The field's path, in the document or in configuration.
        field: String,
        /// What was expected.
        expected: String,
    },
}

impl Reasoned for ResolveError {
    fn code(&self) -> Code {
        Code::MetadataValue
    }
}

/// Makes the spec of a document.
///
/// # Errors
/// When a required field is given by neither side, or no hostname can be made.
pub fn resolve(document: Document, rules: &Rules) -> Result<Spec, ResolveError> {
    let tailnet = match &document.tailnet {
        Section::Absent => Wanted::Unsaid,
        Section::Null => Wanted::Nothing,
        Section::Node(given) => Wanted::Node(node(given, &document.instance, rules)?),
    };
    Ok(Spec { instance: document.instance, tailnet, report_interval: document.report_interval })
}

fn node(given: &Node, instance: &Instance, rules: &Rules) -> Result<Tailnet, ResolveError> {
    let set = &rules.tailnet;
    let pick = Pick { rules };
    let usual = if instance.kind == "runner" { Lifecycle::Ephemeral } else { Lifecycle::Persistent };
    Ok(Tailnet {
        client_id: pick.required("client_id", SpecField::ClientId, &set.client_id, &given.client_id)?,
        tags: sorted(pick.required("tags", SpecField::Tags, &set.tags, &given.tags)?)?,
        hostname: label(pick.one(SpecField::Hostname, &set.hostname, &given.hostname), instance)?,
        lifecycle: pick.one(SpecField::Lifecycle, &set.lifecycle, &given.lifecycle).unwrap_or(usual),
        accept_dns: pick.one(SpecField::AcceptDns, &set.accept_dns, &given.accept_dns).unwrap_or(true),
        accept_routes: pick.one(SpecField::AcceptRoutes, &set.accept_routes, &given.accept_routes).unwrap_or(false),
        ssh: pick.one(SpecField::Ssh, &set.ssh, &given.ssh).unwrap_or(false),
        epoch: given.epoch,
    })
}

/// Sorted, so that a platform that sends the same tags in another order changes nothing.
fn sorted(mut tags: Vec<String>) -> Result<Vec<String>, ResolveError> {
    value::tags(&tags)
        .map_err(|(place, expected)| ResolveError::Value { field: format!("tailnet.tags{place}"), expected })?;
    tags.sort();
    Ok(tags)
}

fn label(given: Option<String>, instance: &Instance) -> Result<String, ResolveError> {
    let (field, name) = match (&given, &instance.name) {
        (Some(name), _) => ("tailnet.hostname", name),
        (None, Some(name)) => ("instance.name", name),
        (None, None) => ("instance.id", &instance.id),
    };
    hostname::sanitise(name).ok_or_else(|| ResolveError::Value {
        field: field.to_owned(),
        expected: "expected a name with at least one of [A-Za-z0-9], to make the hostname of".to_owned(),
    })
}

struct Pick<'a> {
    rules: &'a Rules,
}

impl Pick<'_> {
    fn one<T: Clone>(&self, field: SpecField, set: &Option<T>, given: &Option<T>) -> Option<T> {
        let allowed = self.rules.may_set.contains(&field);
        set.clone().or_else(|| given.clone().filter(|_| allowed))
    }

    fn required<T: Clone>(
        &self,
        name: &'static str,
        field: SpecField,
        set: &Option<T>,
        given: &Option<T>,
    ) -> Result<T, ResolveError> {
        let ignored = given.is_some();
        self.one(field, set, given).ok_or(ResolveError::Missing { field: name, ignored })
    }
}

#[cfg(test)]
mod tests;
