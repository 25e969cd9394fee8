//! The metadata provider that configuration names.

use std::sync::Arc;

use anyhow::Context;

use crate::clock::Clock;
use crate::config::Settings;
use crate::config::settings::{Endpoint, ProviderSettings, SecretFile, TokenSource};
use crate::metadata::agent::Agent;
use crate::metadata::azure::{self, Azure};
use crate::metadata::devbox::{Bearer, Channel, Deadlines, Devbox};
use crate::metadata::file::{COMMAND_DEADLINE, File, FileSettings};
use crate::metadata::gce::Gce;
use crate::metadata::github::GithubActions;
use crate::metadata::namespace::{self, Namespace, NamespaceSettings};
use crate::metadata::secret_file::Environment;
use crate::metadata::service::Service;
use crate::metadata::{Metadata, Rules};
use crate::socket::client::Client;
use crate::socket::socket_path;
use crate::sys::descriptor;

/// machine-id(5).
const MACHINE_ID: &str = "/etc/machine-id";

/// A provider, and its endpoint if that takes reports too, as only the platform's own does.
type Made = (Arc<dyn Metadata>, Option<Arc<Channel>>);

/// Makes the provider; nothing is asked yet.
pub(super) fn provider(settings: &Settings, clock: &Arc<dyn Clock>) -> anyhow::Result<Made> {
    let rules = Rules::from(settings);
    let alone: Arc<dyn Metadata> = match &settings.metadata.provider {
        ProviderSettings::Devbox { endpoint, bearer } => return devbox(endpoint, bearer.clone(), rules, clock),
        ProviderSettings::GithubActions { instance } => {
            let service = Service::remote(None, clock.clone());
            let service = service.context("failed to prepare the client of GitHub's token service")?;
            Arc::new(GithubActions::new(service, environment(), instance.clone(), rules))
        }
        ProviderSettings::Namespace { integration, instance } => {
            let service = Service::remote(Some(namespace::refusal), clock.clone());
            let service = service.context("failed to prepare the client of Namespace's IAM")?;
            Arc::new(Namespace::new(on_namespace(integration.clone(), instance.clone(), rules), service))
        }
        ProviderSettings::Gce { endpoint, identity } => {
            let service = Service::local(endpoint, None, clock.clone());
            let service = service.context("failed to prepare the client of the metadata server")?;
            Arc::new(Gce::new(service, identity.clone(), rules))
        }
        ProviderSettings::Azure { endpoint, identity, instance } => {
            let service = Service::local(endpoint, Some(azure::refusal), clock.clone());
            let service = service.context("failed to prepare the client of the metadata service")?;
            Arc::new(Azure::new(service, identity.clone(), instance.clone(), rules))
        }
        ProviderSettings::File { token, instance } => Arc::new(file(token, instance.clone(), rules)?),
        ProviderSettings::Agent { .. } => {
            Arc::new(Agent::new(Client::new(&socket_path(&settings.paths.runtime))?, rules))
        }
    };
    Ok((alone, None))
}

/// One endpoint of the platform's own protocol.
pub(super) fn channel(
    endpoint: &Endpoint,
    bearer: Option<Bearer>,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Arc<Channel>> {
    let channel = Channel::new(endpoint, Deadlines::default(), clock.clone());
    Ok(Arc::new(channel.context("failed to prepare the metadata client")?.showing(bearer)))
}

fn devbox(
    endpoint: &Endpoint,
    bearer: Option<SecretFile>,
    rules: Rules,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Made> {
    let bearer = bearer.map(|place| Bearer { place, environment: environment() });
    let channel = channel(endpoint, bearer, clock)?;
    Ok((Arc::new(Devbox::new(channel.clone(), rules)), Some(channel)))
}

fn on_namespace(integration: Option<String>, instance: Option<String>, rules: Rules) -> NamespaceSettings {
    NamespaceSettings {
        integration,
        instance,
        machine_id: MACHINE_ID.into(),
        files: namespace::Files::default(),
        rules,
        environment: environment(),
    }
}

fn file(token: &TokenSource, instance: Option<String>, rules: Rules) -> anyhow::Result<File> {
    if let TokenSource::Descriptor(number) = token {
        let marked = descriptor::close_on_exec(*number);
        marked.with_context(|| format!("failed to use the descriptor {number} of [metadata] token"))?;
    }
    Ok(File::new(FileSettings {
        token: token.clone(),
        instance,
        machine_id: MACHINE_ID.into(),
        rules,
        environment: environment(),
        deadline: COMMAND_DEADLINE,
    }))
}

fn environment() -> Environment {
    Arc::new(|name| std::env::var_os(name))
}
