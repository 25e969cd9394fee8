//! A VM of Azure: its instance metadata service has tokens of the VM's managed identity ("How to use managed identities for Azure resources on an
//! Azure VM to acquire an access token" of learn.microsoft.com). The spec comes from configuration.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};
use serde::Deserialize;

use super::service::{self, AnswerError, Ask, Service, ServiceError};
use super::{Instance, Metadata, Read, Rules, configured, value};
use crate::core::reason::{Code, Fault, Reasoned, printable};
use crate::secret::Secret;

/// On every request: a page in a browser cannot send it.
const FLAVOR: HeaderName = HeaderName::from_static("metadata");
const FLAVOR_VALUE: HeaderValue = HeaderValue::from_static("true");

/// Versions of the service's two halves; each is served for good.
const INSTANCE_VERSION: &str = "2021-02-01";
const TOKEN_VERSION: &str = "2018-02-01";

/// How errors call the service.
const PLACE: &str = "the instance metadata service";

/// The provider.
pub struct Azure {
    service: Service,
    base: Url,
    identity: Option<String>,
    instance: Option<String>,
    rules: Rules,
}

impl Azure {
    /// Asks through `service`, beneath `base`, for tokens of the managed identity with a client id; else of the VM's only one. The instance is the
    /// configured one, or the VM.
    pub fn new(
        (service, base): (Service, Url),
        identity: Option<String>,
        instance: Option<String>,
        rules: Rules,
    ) -> Self {
        Self { service, base, identity, instance, rules }
    }

    fn ask(&self, path: &str, query: &[(&str, &str)]) -> Ask {
        let mut url = self.base.clone();
        url.set_path(path);
        url.query_pairs_mut().extend_pairs(query);
        Ask::get(url).header(FLAVOR, FLAVOR_VALUE)
    }

    async fn instance(&self) -> Result<Instance, AzureError> {
        let Compute { id, name } = match &self.instance {
            Some(id) => Compute { id: id.clone(), name: String::new() },
            None => self.compute().await?,
        };
        value::instance_id(&id).map_err(|expected| AzureError::Id { id: printable(&id, 40), expected })?;
        let name = Some(name).filter(|name| !name.is_empty() && value::text(name).is_ok());
        Ok(Instance { id, kind: "devbox".to_owned(), name, workspace: None, generation: None })
    }

    async fn compute(&self) -> Result<Compute, AzureError> {
        let ask = self.ask("/metadata/instance/compute", &[("api-version", INSTANCE_VERSION)]);
        let answer = self.service.call(ask).await.map_err(AzureError::Metadata)?;
        service::json(PLACE, &answer).map_err(AzureError::Answer)
    }

    async fn fetch(&self, audience: &str) -> Result<Secret<String>, AzureError> {
        let mut query = vec![("api-version", TOKEN_VERSION), ("resource", audience)];
        query.extend(self.identity.as_deref().map(|identity| ("client_id", identity)));
        let ask = self.ask("/metadata/identity/oauth2/token", &query);
        let answer = self.service.call(ask).await.map_err(AzureError::Token)?;
        let token: Token = service::json(PLACE, &answer).map_err(AzureError::NoToken)?;
        service::some(PLACE, token.access_token).map_err(AzureError::NoToken)
    }
}

/// What the service says of the VM, as far as it is of use.
#[derive(Deserialize)]
struct Compute {
    #[serde(rename = "vmId")]
    id: String,
    #[serde(default)]
    name: String,
}

/// What it answers with a token in it; the token's own `exp` is what the exchange goes by.
#[derive(Deserialize)]
struct Token {
    access_token: String,
}

#[async_trait]
impl Metadata for Azure {
    fn provider(&self) -> &'static str {
        "azure"
    }

    async fn read(&self, etag: Option<&str>, wait: Duration) -> Result<Read, Fault> {
        let instance = self.instance().await.map_err(|error| Fault::from(&error))?;
        Ok(configured::read(instance, &self.rules, etag, wait).await)
    }

    async fn token(&self, audience: &str) -> Result<Secret<String>, Fault> {
        self.fetch(audience).await.map_err(|error| Fault::from(&error))
    }
}

/// A refusal: OAuth's form (RFC 6749 §5.2), such as `invalid_resource` for an audience that no app registration has.
pub fn refusal(body: &[u8]) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
        #[serde(default)]
        error_description: String,
    }
    let refusal: Refusal = serde_json::from_slice(body).ok()?;
    Some((refusal.error, refusal.error_description))
}

/// What the instance metadata service does not give.
#[derive(Debug, thiserror::Error)]
pub enum AzureError {
    /// No metadata.
    #[error("failed to read this VM's metadata")]
    Metadata(#[source] ServiceError),
    /// Metadata that is none.
    #[error("failed to read this VM's metadata")]
    Answer(#[source] AnswerError),
    /// An id that no instance has.
    #[error("failed to use the VM id {id}: {expected}; set [metadata] instance")]
    Id {
        /// What was found, bounded.
        id: String,
        /// What an id looks like.
        expected: String,
    },
    /// No token.
    #[error("failed to get a token of this VM's managed identity")]
    Token(#[source] ServiceError),
    /// A token that is none.
    #[error("failed to get a token of this VM's managed identity")]
    NoToken(#[source] AnswerError),
}

impl AzureError {
    fn service(&self) -> Option<&ServiceError> {
        match self {
            Self::Metadata(error) | Self::Token(error) => Some(error),
            _ => None,
        }
    }
}

impl Reasoned for AzureError {
    fn code(&self) -> Code {
        match self {
            Self::Metadata(error) => error.about_metadata(),
            Self::Answer(_) => Code::MetadataInvalid,
            Self::Id { .. } => Code::MetadataValue,
            Self::Token(error) => error.about_token(),
            Self::NoToken(_) => Code::TokenUnavailable,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        self.service().and_then(ServiceError::retry_after)
    }

    fn unsent(&self) -> bool {
        self.service().is_some_and(ServiceError::unsent)
    }
}

#[cfg(test)]
mod tests;
