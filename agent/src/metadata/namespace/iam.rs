//! Namespace's IAM, and the machine's metadata service that gives a bearer for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use reqwest::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::NamespaceError;
use super::credential::Credential;
use crate::metadata::secret_file::Environment;
use crate::metadata::service::{self, Ask, Service};
use crate::secret::Secret;

/// Where the IAM is when neither of [`ENDPOINTS`] says so.
const IAM: &str = "https://private-api.global.namespaceapis.com";
/// Where it may be said to be, the first that is set.
const ENDPOINTS: [&str; 2] = ["NSC_IAM_ENDPOINT", "NSC_GLOBAL_ENDPOINT"];

/// How long what is asked for here is to live, in seconds: it is used at once, and 300 is what an ID token of other platforms has.
const LIFETIME: u32 = 300;

/// How errors call the machine's own service.
const METADATA: &str = "Namespace's metadata service";
/// How errors call the IAM.
const PLACE: &str = "Namespace's IAM";

/// The workspace's Tailscale integrations by name.
pub type Integrations = BTreeMap<String, Integration>;

/// One integration; fields that have no value are left out by the server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Integration {
    /// The federated credential's client id.
    pub oauth_client_id: String,
    /// The node's tags.
    pub tags: Vec<String>,
    /// Whether the node uses the tailnet's DNS.
    pub enable_magic_dns: bool,
}

/// The IAM, as the bearer of this workload sees it.
pub struct Iam {
    service: Arc<Service>,
    base: Url,
    bearer: Secret<String>,
}

impl Iam {
    /// Gets a bearer by `credential`.
    pub async fn reach(
        service: Arc<Service>,
        environment: &Environment,
        credential: &Credential,
    ) -> Result<Self, NamespaceError> {
        let base = endpoint(environment)?;
        let bearer = match credential {
            Credential::Bearer(bearer) => bearer.clone(),
            Credential::Metadata(url) => metadata(&service, url, "workload_token").await?,
            Credential::Session(session) => {
                let iam = Self { service: service.clone(), base: base.clone(), bearer: session.clone() };
                iam.tenant_token().await?
            }
        };
        Ok(Self { service, base, bearer })
    }

    async fn tenant_token(&self) -> Result<Secret<String>, NamespaceError> {
        #[derive(Deserialize)]
        struct Body {
            tenant_token: String,
        }
        let method = "nsl.signin.SigninService/IssueTenantTokenFromSession";
        let body: Body = self.call(method, json!({ "token_duration_secs": LIFETIME })).await?;
        Ok(service::some(PLACE, body.tenant_token)?)
    }

    /// A token for `audience`.
    pub async fn id_token(&self, audience: &str) -> Result<Secret<String>, NamespaceError> {
        #[derive(Deserialize)]
        struct Body {
            id_token: String,
        }
        let wanted = json!({ "audience": audience, "version": 1, "duration_secs": LIFETIME });
        let body: Body = self.call("nsl.tenants.TenantsService/IssueIdToken", wanted).await?;
        Ok(service::some(PLACE, body.id_token)?)
    }

    /// The workspace's integrations.
    pub async fn integrations(&self) -> Result<Integrations, NamespaceError> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(default)]
            tailscale: Integrations,
        }
        let body: Body = self.call("nsl.tenants.TenantsService/GetTenantIntegrations", json!({})).await?;
        Ok(body.tailscale)
    }

    async fn call<T: DeserializeOwned>(&self, method: &str, wanted: Value) -> Result<T, NamespaceError> {
        let ask = Ask::post(beneath(&self.base, method), &wanted).bearer(&self.bearer);
        Ok(service::json(PLACE, &self.service.call(ask).await?)?)
    }
}

/// The machine's own instance id.
pub async fn instance_id(service: &Service, url: &Url) -> Result<String, NamespaceError> {
    Ok(metadata(service, url, "id").await?.expose().clone())
}

async fn metadata(service: &Service, url: &Url, key: &str) -> Result<Secret<String>, NamespaceError> {
    let answer = service.call(Ask::get(beneath(url, key)).near()).await?;
    Ok(service::word(METADATA, &answer)?)
}

fn endpoint(environment: &Environment) -> Result<Url, NamespaceError> {
    for variable in ENDPOINTS {
        if let Some(written) = environment(variable).filter(|value| !value.is_empty()) {
            let written = written.into_string().unwrap_or_default();
            return service::trusted(&written).ok_or(NamespaceError::Endpoint { variable });
        }
    }
    service::trusted(IAM).ok_or(NamespaceError::Endpoint { variable: "the default" })
}

fn beneath(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

/// The codes of google.rpc.Code by their numbers.
const CODES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

/// A refusal of the IAM: google.rpc.Status as JSON, its code a number or a name.
pub fn refusal(body: &[u8]) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Status {
        code: Value,
        #[serde(default)]
        message: String,
    }
    let status: Status = serde_json::from_slice(body).ok()?;
    let code = match &status.code {
        Value::String(name) => name.clone(),
        number => (*CODES.get(usize::try_from(number.as_u64()?).ok()?)?).to_owned(),
    };
    Some((code, status.message))
}
