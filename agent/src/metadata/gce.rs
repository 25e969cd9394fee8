//! A VM of Google Compute Engine: its metadata server has the spec in one attribute, which can be waited at, and signs tokens for the VM's service
//! account ("About VM metadata" and "Verify the identity of instances" of cloud.google.com).

use std::time::Duration;

use async_trait::async_trait;
use reqwest::Url;
use reqwest::header::{ETAG, HeaderName, HeaderValue};

use super::document::{Document, Node, REPORT_INTERVAL, Section};
use super::parse::{self, ParseError};
use super::service::{self, AnswerError, Ask, Service, ServiceError};
use super::{Instance, Metadata, Read, Rules, Spec, resolve, value};
use crate::core::reason::{Code, Fault, Reasoned, printable};
use crate::http::Answer;
use crate::secret::Secret;

/// The attribute with the spec: what `devbox/v1` has as `tailnet`, in JSON. One attribute and not one a field: it changes atomically, and
/// waiting for it does not wake on changes of start-up scripts.
pub const ATTRIBUTE: &str = "devbox-agent";

/// On every request, and on every answer of the real server.
const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");
const FLAVOR_VALUE: HeaderValue = HeaderValue::from_static("Google");

/// The service account when configuration says none.
const DEFAULT: &str = "default";

/// The longest that a read is held; the core's own wait is no longer.
const WAIT_MAX: Duration = Duration::from_secs(55);

/// The longest `ETag` that is kept, in bytes; the server's have 16.
const ETAG_MAX: usize = 256;

/// How errors call the server.
const PLACE: &str = "the metadata server";

/// The provider.
pub struct Gce {
    service: Service,
    base: Url,
    account: String,
    rules: Rules,
}

impl Gce {
    /// Asks through `service`, beneath `base`, for tokens of a service account; else of the VM's default one.
    pub fn new((service, base): (Service, Url), account: Option<String>, rules: Rules) -> Self {
        Self { service, base, account: account.unwrap_or_else(|| DEFAULT.to_owned()), rules }
    }

    fn ask(&self, path: &str) -> Ask {
        self.asking(path, &[])
    }

    fn asking(&self, path: &str, query: &[(&str, &str)]) -> Ask {
        let mut url = self.base.clone();
        url.set_path(&format!("/computeMetadata/v1/instance/{path}"));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ask::get(url).flavor(FLAVOR, FLAVOR_VALUE)
    }

    /// The attribute; none when it is not there. With a tag it may be held until it changes.
    async fn attribute(&self, etag: Option<&str>, wait: Duration) -> Result<Option<Answer>, GceError> {
        let path = format!("attributes/{ATTRIBUTE}");
        let wait = wait.min(WAIT_MAX);
        let ask = match etag {
            Some(etag) if wait.as_secs() > 0 => {
                let seconds = wait.as_secs().to_string();
                let query = [("wait_for_change", "true"), ("last_etag", etag), ("timeout_sec", &seconds)];
                self.asking(&path, &query).held(wait)
            }
            _ => self.ask(&path),
        };
        match self.service.call(ask).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.refusal().is_some_and(|(status, _)| status == 404) => Ok(None),
            Err(error) => Err(GceError::Metadata(error)),
        }
    }

    async fn instance(&self) -> Result<Instance, GceError> {
        let (id, name) = tokio::try_join!(self.word("id"), self.word("name"))?;
        value::instance_id(&id).map_err(|expected| GceError::Id { id: printable(&id, 40), expected })?;
        let name = Some(name).filter(|name| value::text(name).is_ok());
        Ok(Instance { id, kind: "devbox".to_owned(), name, workspace: None, generation: None })
    }

    async fn word(&self, path: &str) -> Result<String, GceError> {
        let answer = self.service.call(self.ask(path)).await.map_err(GceError::Metadata)?;
        Ok(service::word(PLACE, &answer).map_err(GceError::Answer)?.expose().clone())
    }

    async fn look(&self, etag: Option<&str>, wait: Duration) -> Result<Read, GceError> {
        let answer = self.attribute(etag, wait).await?;
        let tag = answer.as_ref().and_then(tag);
        if tag.is_some() && tag.as_deref() == etag {
            return Ok(Read::Unchanged);
        }
        let instance = self.instance().await?;
        Ok(match self.spec(instance, answer.as_ref()) {
            Ok(spec) => Read::Document { spec: Box::new(spec), etag: tag },
            Err(fault) => Read::Refused { fault, etag: tag },
        })
    }

    fn spec(&self, instance: Instance, answer: Option<&Answer>) -> Result<Spec, Fault> {
        let tailnet = match answer {
            Some(answer) => parse::section(&answer.body).map_err(|error| Fault::from(&GceError::Attribute(error)))?,
            None => self.without_attribute(),
        };
        let document = Document { instance, tailnet, report_interval: REPORT_INTERVAL };
        resolve(document, &self.rules).map_err(|error| Fault::from(&error))
    }

    /// Configuration may say enough by itself; if it does not, nothing is wanted of this VM.
    fn without_attribute(&self) -> Section {
        let set = &self.rules.tailnet;
        if set.client_id.is_some() && set.tags.is_some() { Section::Node(Node::default()) } else { Section::Absent }
    }

    async fn fetch(&self, audience: &str) -> Result<Secret<String>, GceError> {
        let path = format!("service-accounts/{}/identity", self.account);
        let answer = self.service.call(self.asking(&path, &[("audience", audience), ("format", "full")])).await;
        let answer = answer.map_err(|error| match error.refusal() {
            Some((404, _)) => GceError::NoAccount { account: self.account.clone(), source: error },
            _ => GceError::Token(error),
        })?;
        service::word(PLACE, &answer).map_err(GceError::NoToken)
    }
}

fn tag(answer: &Answer) -> Option<String> {
    let tag = answer.headers.get(ETAG)?.to_str().ok()?;
    (tag.len() <= ETAG_MAX).then(|| tag.to_owned())
}

#[async_trait]
impl Metadata for Gce {
    fn provider(&self) -> &'static str {
        "gce"
    }

    async fn read(&self, etag: Option<&str>, wait: Duration) -> Result<Read, Fault> {
        self.look(etag, wait).await.map_err(|error| Fault::from(&error))
    }

    async fn token(&self, audience: &str) -> Result<Secret<String>, Fault> {
        self.fetch(audience).await.map_err(|error| Fault::from(&error))
    }
}

/// What the metadata server does not give.
#[derive(Debug, thiserror::Error)]
pub enum GceError {
    /// No metadata.
    #[error("failed to read this VM's metadata")]
    Metadata(#[source] ServiceError),
    /// Metadata that is none.
    #[error("failed to read this VM's metadata")]
    Answer(#[source] AnswerError),
    /// An id that no instance has.
    #[error("failed to use the instance id {id}: {expected}")]
    Id {
        /// What was found, bounded.
        id: String,
        /// What an id looks like.
        expected: String,
    },
    /// A spec that cannot be used.
    #[error("failed to use the attribute {ATTRIBUTE} of this VM")]
    Attribute(#[source] ParseError),
    /// No token.
    #[error("failed to get a token of this VM's service account")]
    Token(#[source] ServiceError),
    /// Nobody to have a token of.
    #[error(
        "failed to get a token: this VM has no service account {account:?}; attach it, or name another in [metadata] identity"
    )]
    NoAccount {
        /// The account that was asked for.
        account: String,
        /// The refusal.
        #[source]
        source: ServiceError,
    },
    /// A token that is none.
    #[error("failed to get a token of this VM's service account")]
    NoToken(#[source] AnswerError),
}

impl GceError {
    fn service(&self) -> Option<&ServiceError> {
        match self {
            Self::Metadata(error) | Self::Token(error) | Self::NoAccount { source: error, .. } => Some(error),
            _ => None,
        }
    }
}

impl Reasoned for GceError {
    fn code(&self) -> Code {
        match self {
            Self::Metadata(error) => error.about_metadata(),
            Self::Answer(_) => Code::MetadataInvalid,
            Self::Id { .. } | Self::Attribute(_) => Code::MetadataValue,
            Self::Token(error) => error.about_token(),
            Self::NoAccount { .. } => Code::TokenDenied,
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
