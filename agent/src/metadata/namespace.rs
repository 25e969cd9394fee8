//! Namespace's devboxes and runners: the machine's own credential gives a bearer for Namespace's IAM, which has the workspace's named Tailscale
//! integrations (the spec) and issues ID tokens.

mod credential;
mod iam;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use self::credential::{Credential, find};
pub use self::credential::{CredentialError, Files, SPEC, SPEC_FILE, TOKEN_FILE};
pub use self::iam::refusal;
use self::iam::{Iam, Integration, Integrations};
use super::document::{Document, Node, REPORT_INTERVAL, Section};
use super::file::{FileError, machine_id};
use super::secret_file::Environment;
use super::service::{AnswerError, Service, ServiceError};
use super::{Instance, Metadata, Read, Rules, configured, resolve, value};
use crate::core::reason::{Code, Fault, Reasoned, printable};
use crate::secret::Secret;

/// The integration's name when configuration says none.
const DEFAULT: &str = "default";

/// How many names of integrations an error lists, in characters.
const NAMES_MAX: usize = 200;

/// What the provider is made of.
#[derive(Clone)]
pub struct NamespaceSettings {
    /// The name of the workspace's integration to use; else `default`.
    pub integration: Option<String>,
    /// `instance.id`; else the metadata service's, else the machine id.
    pub instance: Option<String>,
    /// Where the machine id is: `/etc/machine-id`.
    pub machine_id: PathBuf,
    /// Where the credential is when no variable says so.
    pub files: Files,
    /// What configuration says of the node.
    pub rules: Rules,
    /// The environment.
    pub environment: Environment,
}

/// The provider.
pub struct Namespace {
    settings: NamespaceSettings,
    service: Arc<Service>,
}

impl Namespace {
    /// Asks through `service`.
    pub fn new(settings: NamespaceSettings, service: Service) -> Self {
        Self { settings, service: Arc::new(service) }
    }

    async fn find(&self) -> Result<Credential, NamespaceError> {
        Ok(find(&self.settings.environment, &self.settings.files).await?)
    }

    /// The IAM, with a bearer for it.
    async fn iam(&self, credential: &Credential) -> Result<Iam, NamespaceError> {
        Iam::reach(self.service.clone(), &self.settings.environment, credential).await
    }

    async fn instance(&self, credential: &Credential) -> Result<Instance, NamespaceError> {
        let id = match (&self.settings.instance, credential) {
            (Some(id), _) => id.clone(),
            (None, Credential::Metadata(url)) => iam::instance_id(&self.service, url).await?,
            (None, _) => machine_id(&self.settings.machine_id).await?,
        };
        value::instance_id(&id).map_err(|expected| NamespaceError::Id { id: printable(&id, 40), expected })?;
        Ok(Instance { id, kind: "devbox".to_owned(), name: None, workspace: None, generation: None })
    }

    async fn look(&self, etag: Option<&str>, wait: Duration) -> Result<Read, NamespaceError> {
        let credential = self.find().await?;
        let instance = self.instance(&credential).await?;
        let set = &self.settings.rules.tailnet;
        if set.client_id.is_some() && set.tags.is_some() {
            // An integration could add nothing that configuration does not overrule.
            return Ok(configured::read(instance, &self.settings.rules, etag, wait).await);
        }
        let integrations = self.iam(&credential).await?.integrations().await?;
        // No tag: there is nothing to wait at, so that the core asks again in a minute.
        Ok(match self.spec(instance, &integrations) {
            Ok(spec) => Read::Document { spec: Box::new(spec), etag: None },
            Err(fault) => Read::Refused { fault, etag: None },
        })
    }

    fn spec(&self, instance: Instance, integrations: &Integrations) -> Result<super::Spec, Fault> {
        let tailnet = self.choose(integrations).map_err(|error| Fault::from(&SpecError(error)))?;
        let document = Document { instance, tailnet, report_interval: REPORT_INTERVAL };
        resolve(document, &self.settings.rules).map_err(|error| Fault::from(&error))
    }

    /// A workspace without any integration wants nothing of the machine; one that has some must have the right one.
    fn choose(&self, integrations: &Integrations) -> Result<Section, NamespaceError> {
        let named = self.settings.integration.as_deref();
        let name = named.unwrap_or(DEFAULT);
        match integrations.get(name) {
            Some(integration) => Ok(Section::Node(node(name, integration)?)),
            None if named.is_none() && integrations.is_empty() => Ok(Section::Absent),
            None => Err(NamespaceError::NoIntegration { name: name.to_owned(), others: names(integrations) }),
        }
    }

    async fn fetch(&self, audience: &str) -> Result<Secret<String>, NamespaceError> {
        let credential = self.find().await?;
        self.iam(&credential).await?.id_token(audience).await
    }
}

fn node(name: &str, integration: &Integration) -> Result<Node, NamespaceError> {
    let wrong = |field, expected| NamespaceError::Value { name: name.to_owned(), field, expected };
    value::client_id(&integration.oauth_client_id).map_err(|expected| wrong("oauth_client_id".to_owned(), expected))?;
    value::tags(&integration.tags).map_err(|(place, expected)| wrong(format!("tags{place}"), expected))?;
    Ok(Node {
        client_id: Some(integration.oauth_client_id.clone()),
        tags: Some(integration.tags.clone()),
        accept_dns: Some(integration.enable_magic_dns),
        ..Node::default()
    })
}

fn names(integrations: &Integrations) -> String {
    let names: Vec<&str> = integrations.keys().map(String::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { printable(&names.join(", "), NAMES_MAX) }
}

#[async_trait]
impl Metadata for Namespace {
    fn provider(&self) -> &'static str {
        "namespace"
    }

    async fn read(&self, etag: Option<&str>, wait: Duration) -> Result<Read, Fault> {
        self.look(etag, wait).await.map_err(|error| Fault::from(&SpecError(error)))
    }

    async fn token(&self, audience: &str) -> Result<Secret<String>, Fault> {
        self.fetch(audience).await.map_err(|error| Fault::from(&TokenError(error)))
    }
}

/// What Namespace does not give.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The machine has no credential.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The machine has no id.
    #[error(transparent)]
    MachineId(#[from] FileError),
    /// Namespace's name of the machine cannot be an instance id.
    #[error("failed to use the instance id {id}: {expected}; set [metadata] instance")]
    Id {
        /// What was found, bounded.
        id: String,
        /// What an id looks like.
        expected: String,
    },
    /// The IAM could be anybody.
    #[error("failed to use the IAM endpoint of {variable}: expected a URL of https, or of http to an IP address")]
    Endpoint {
        /// Where it stands.
        variable: &'static str,
    },
    /// A service did not answer with a success.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// A service answered something else.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The workspace has no such integration.
    #[error(
        "the workspace has no Tailscale integration {name:?} (it has: {others}); make one, or name another in [metadata] integration"
    )]
    NoIntegration {
        /// The one that was looked for.
        name: String,
        /// Those that are there.
        others: String,
    },
    /// An integration that cannot be used.
    #[error("the workspace's Tailscale integration {name:?}: {field}: {expected}")]
    Value {
        /// Its name.
        name: String,
        /// The field that is wrong.
        field: String,
        /// What it should be.
        expected: String,
    },
}

/// Nothing to be.
#[derive(Debug, thiserror::Error)]
#[error("failed to learn from Namespace what this machine is")]
struct SpecError(#[source] NamespaceError);

/// No token.
#[derive(Debug, thiserror::Error)]
#[error("failed to get a token from Namespace")]
struct TokenError(#[source] NamespaceError);

impl Reasoned for SpecError {
    fn code(&self) -> Code {
        match &self.0 {
            NamespaceError::Credential(_) => Code::MetadataSecret,
            NamespaceError::MachineId(_) => Code::MetadataUnreachable,
            NamespaceError::Endpoint { .. } => Code::EnvironmentInvalid,
            NamespaceError::Service(error) => error.about_metadata(),
            NamespaceError::Answer(_) => Code::MetadataInvalid,
            NamespaceError::Id { .. } | NamespaceError::NoIntegration { .. } | NamespaceError::Value { .. } => {
                Code::MetadataValue
            }
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        self.0.service().and_then(ServiceError::retry_after)
    }

    fn unsent(&self) -> bool {
        self.0.service().is_some_and(ServiceError::unsent)
    }
}

impl Reasoned for TokenError {
    fn code(&self) -> Code {
        match &self.0 {
            NamespaceError::Endpoint { .. } => Code::EnvironmentInvalid,
            NamespaceError::Service(error) => error.about_token(),
            _ => Code::TokenUnavailable,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        self.0.service().and_then(ServiceError::retry_after)
    }

    fn unsent(&self) -> bool {
        self.0.service().is_some_and(ServiceError::unsent)
    }
}

impl NamespaceError {
    fn service(&self) -> Option<&ServiceError> {
        match self {
            Self::Service(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
