//! What the agent lends to those who may command it, where configuration lets it: what this machine is, and tokens to prove it.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use reqwest::Url;
use serde_json::json;

use super::routes::{Answer, Session, failure, whole};
use crate::core::reason::{Class, Code, Fault};
use crate::federation::audience;
use crate::metadata::{Metadata, Read, Spec, value};
use crate::secret::Secret;
use crate::socket::access::GROUP;

/// How long the metadata may take: every edge has shorter deadlines of its own for one request. Less than a connection's life, so that the
/// sentence still arrives.
const METADATA_TIMEOUT: Duration = Duration::from_secs(25);

/// Why nothing is lent.
enum Refusal {
    /// Not to this caller; what it needs.
    Forbidden(String),
    /// No such token can be asked for; what was expected.
    Wrong(String),
    /// The metadata does not answer.
    Late,
    /// The metadata has a fault.
    Fault(Fault),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Refusal {
    fn answer(self) -> Answer {
        match self {
            Self::Forbidden(sentence) => failure(403, &sentence),
            Self::Wrong(expected) => failure(400, &format!("client_id: {expected}")),
            Self::Late => failure(503, "the metadata did not answer the agent in time"),
            Self::Fault(Fault { code, detail, .. }) => {
                let blocked = code.class() == Class::Blocked;
                let status = if blocked { StatusCode::BAD_GATEWAY } else { StatusCode::SERVICE_UNAVAILABLE };
                whole(status, &json!({ "error": detail, "code": code }))
            }
        }
    }
}

impl Session {
    /// Answers with the spec, as the agent reads it now.
    pub(super) async fn lend_spec(&self) -> Answer {
        self.read_spec().await.map_or_else(Refusal::answer, |spec| whole(StatusCode::OK, &json!(spec)))
    }

    /// Answers with a fresh token for the client id that `query` names. The audience is Tailscale's in any case: nobody else is to take it.
    pub(super) async fn lend_token(&self, query: &str) -> Answer {
        let token = self.fetch_token(query).await;
        token.map_or_else(Refusal::answer, |token| whole(StatusCode::OK, &json!({ "token": token.expose() })))
    }

    async fn read_spec(&self) -> Result<Spec, Refusal> {
        let metadata = self.borrowed()?;
        match in_time(metadata.read(None, Duration::ZERO)).await? {
            Read::Document { spec, .. } => Ok(*spec),
            Read::Refused { fault, .. } => Err(fault.into()),
            Read::Unchanged => Err(Fault::new(Code::MetadataInvalid, "unchanged, and nothing was known").into()),
        }
    }

    async fn fetch_token(&self, query: &str) -> Result<Secret<String>, Refusal> {
        let metadata = self.borrowed()?;
        let client_id = client_id(query);
        value::client_id(&client_id).map_err(Refusal::Wrong)?;
        let token = in_time(metadata.token(&audience(&client_id))).await?;
        tracing::info!(uid = self.peer.uid, client_id, "a token for {client_id} is lent to user {}", self.peer.uid);
        Ok(token)
    }

    /// The metadata, for who may borrow it.
    fn borrowed(&self) -> Result<Arc<dyn Metadata>, Refusal> {
        let lent = self.lent.borrow().clone();
        let Some(metadata) = lent else {
            let sentence = format!(
                "the agent does not lend its credential: [exec] lend_credential = true lets it, to root, its own user and the group {GROUP}"
            );
            return Err(Refusal::Forbidden(sentence));
        };
        if self.access.allows(&self.peer) {
            return Ok(metadata);
        }
        let sentence = format!("the agent lends its credential to root, its own user and the group {GROUP} alone");
        Err(Refusal::Forbidden(sentence))
    }
}

async fn in_time<T>(asked: impl Future<Output = Result<T, Fault>>) -> Result<T, Refusal> {
    let answered = tokio::time::timeout(METADATA_TIMEOUT, asked).await;
    Ok(answered.map_err(|_elapsed| Refusal::Late)??)
}

/// The parameter of that name; empty, which no client id is, when there is none.
fn client_id(query: &str) -> String {
    let url = Url::parse(&format!("http://agent/?{query}"));
    let named = |url: Url| url.query_pairs().find(|(name, _)| name == "client_id").map(|(_, id)| id.into_owned());
    url.ok().and_then(named).unwrap_or_default()
}
