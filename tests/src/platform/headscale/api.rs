//! Headscale's REST API (`/api/v1`, grpc-gateway: camelCase, 64-bit integers as text).

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use reqwest::{Client, Method, RequestBuilder};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The longest that one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// A user.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// A key that nodes join with. The listing shows only the start of its text.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreAuthKey {
    /// Its id.
    pub id: String,
    /// The key itself, right after it was made.
    pub key: String,
    /// Whether it can be used more than once.
    pub reusable: bool,
    /// Whether nodes that join with it go when they disconnect.
    pub ephemeral: bool,
    /// Whether it was used.
    pub used: bool,
    /// Until when it can be used, RFC 3339.
    pub expiration: Option<String>,
    /// The tags of nodes that first join with it.
    #[serde(default)]
    pub acl_tags: Vec<String>,
}

/// What a new key is like.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// The id of the user whose node it makes; none for a tagged node.
    pub user: Option<String>,
    /// The node's tags; none for a user's node.
    pub tags: Vec<String>,
    /// Whether it can be used more than once.
    pub reusable: bool,
    /// Whether the node goes when it disconnects.
    pub ephemeral: bool,
    /// How long it can be used.
    pub lifetime: Duration,
}

/// A node as control knows it.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its id.
    pub id: String,
    /// `mkey:…`, the machine's own key.
    pub machine_key: String,
    /// `nodekey:…`, new at each authentication.
    pub node_key: String,
    /// Its addresses in the tailnet.
    #[serde(default)]
    pub ip_addresses: Vec<String>,
    /// The hostname it reported, as it is.
    pub name: String,
    /// The first label of its MagicDNS name.
    pub given_name: String,
    /// Whether its map poll is open.
    #[serde(default)]
    pub online: bool,
    /// When its key ends, RFC 3339.
    pub expiry: Option<String>,
    /// The key it last registered with.
    pub pre_auth_key: Option<PreAuthKey>,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<String>,
}

impl Node {
    /// Returns the id of the key that it last registered with.
    pub fn key_id(&self) -> Option<&str> {
        self.pre_auth_key.as_ref().map(|key| key.id.as_str())
    }

    /// Returns whether its key has expired; a logout expires it too.
    pub fn expired(&self) -> bool {
        let expiry = self.expiry.as_deref().and_then(|text| humantime::parse_rfc3339(text).ok());
        expiry.is_some_and(|expiry| expiry <= SystemTime::now())
    }
}

/// Returns a client for servers of this machine, which speak plain HTTP: without certificates to load it is made in no time.
///
/// # Errors
/// When the TLS library does not start.
pub(in crate::platform) fn plain_client() -> Result<Client> {
    let builder = Client::builder().no_proxy().tls_certs_only([]).timeout(CALL_LIMIT);
    builder.build().context("failed to make an HTTP client")
}

/// Returns whether a Headscale at an address says that it is well.
pub async fn healthy(client: &Client, at: SocketAddr) -> bool {
    let answer = client.get(format!("http://{at}/health")).send().await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

/// A client of the API with a key of its own.
#[derive(Clone)]
pub struct HeadscaleApi {
    base: String,
    key: String,
    client: Client,
}

impl HeadscaleApi {
    /// Returns a client for the Headscale at an address.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(at: SocketAddr, key: String) -> Result<Self> {
        let client = plain_client()?;
        Ok(Self { base: format!("http://{at}/api/v1"), key, client })
    }

    /// Returns the id of the user of that name, who is made if need be.
    ///
    /// # Errors
    /// When Headscale refuses or does not answer.
    pub async fn ensure_user(&self, name: &str) -> Result<String> {
        #[derive(Deserialize)]
        struct Users {
            users: Vec<User>,
        }
        #[derive(Deserialize)]
        struct Created {
            user: User,
        }
        let all: Users = self.call(Method::GET, "user", None).await?;
        if let Some(user) = all.users.into_iter().find(|user| user.name == name) {
            return Ok(user.id);
        }
        let created: Created = self.call(Method::POST, "user", Some(json!({ "name": name }))).await?;
        Ok(created.user.id)
    }

    /// Makes a key.
    ///
    /// # Errors
    /// When Headscale refuses or does not answer.
    pub async fn create_key(&self, new: &NewKey) -> Result<PreAuthKey> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Created {
            pre_auth_key: PreAuthKey,
        }
        // Left out, the expiration is the year 1 and the key dead at once.
        let expiration = humantime::format_rfc3339_millis(SystemTime::now() + new.lifetime).to_string();
        let mut body = json!({
            "reusable": new.reusable,
            "ephemeral": new.ephemeral,
            "expiration": expiration,
            "aclTags": new.tags,
        });
        if let Some(user) = &new.user {
            body["user"] = json!(user);
        }
        let created: Created = self.call(Method::POST, "preauthkey", Some(body)).await?;
        Ok(created.pre_auth_key)
    }

    /// Lists all keys, used and expired ones too.
    ///
    /// # Errors
    /// When Headscale does not answer.
    pub async fn keys(&self) -> Result<Vec<PreAuthKey>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Keys {
            pre_auth_keys: Vec<PreAuthKey>,
        }
        Ok(self.call::<Keys>(Method::GET, "preauthkey", None).await?.pre_auth_keys)
    }

    /// Ends a key before its time.
    ///
    /// # Errors
    /// When there is no such key or Headscale does not answer.
    pub async fn expire_key(&self, id: &str) -> Result<()> {
        self.call::<Value>(Method::POST, "preauthkey/expire", Some(json!({ "id": id }))).await.map(drop)
    }

    /// Lists all nodes.
    ///
    /// # Errors
    /// When Headscale does not answer.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        #[derive(Deserialize)]
        struct Nodes {
            nodes: Vec<Node>,
        }
        Ok(self.call::<Nodes>(Method::GET, "node", None).await?.nodes)
    }

    /// Deletes a node.
    ///
    /// # Errors
    /// When there is no such node or Headscale does not answer.
    pub async fn delete_node(&self, id: &str) -> Result<()> {
        self.call::<Value>(Method::DELETE, &format!("node/{id}"), None).await.map(drop)
    }

    /// Expires a node's key now.
    ///
    /// # Errors
    /// When there is no such node or Headscale does not answer.
    pub async fn expire_node(&self, id: &str) -> Result<()> {
        self.call::<Value>(Method::POST, &format!("node/{id}/expire"), None).await.map(drop)
    }

    /// Makes a node's key one that never expires, which also lifts an expiry that is over.
    ///
    /// # Errors
    /// When there is no such node or Headscale does not answer.
    pub async fn disable_expiry(&self, id: &str) -> Result<()> {
        let path = format!("node/{id}/expire?disableExpiry=true");
        self.call::<Value>(Method::POST, &path, None).await.map(drop)
    }

    /// Replaces a node's tags.
    ///
    /// # Errors
    /// When there is no such node, a tag has no owner, or Headscale does not answer.
    pub async fn set_tags(&self, id: &str, tags: &[String]) -> Result<()> {
        let body = json!({ "tags": tags });
        self.call::<Value>(Method::POST, &format!("node/{id}/tags"), Some(body)).await.map(drop)
    }

    /// Renames a node as an admin does; the name then stays whatever the node reports.
    ///
    /// # Errors
    /// When there is no such node, the name is taken, or Headscale does not answer.
    pub async fn rename_node(&self, id: &str, name: &str) -> Result<()> {
        self.call::<Value>(Method::POST, &format!("node/{id}/rename/{name}"), None).await.map(drop)
    }

    /// Approves routes that a node advertises, as an admin does; others of it are approved no longer.
    ///
    /// # Errors
    /// When there is no such node or Headscale does not answer.
    pub async fn approve_routes(&self, id: &str, routes: &[&str]) -> Result<()> {
        let body = json!({ "routes": routes });
        self.call::<Value>(Method::POST, &format!("node/{id}/approve_routes"), Some(body)).await.map(drop)
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Value>) -> Result<T> {
        let what = format!("{method} {path}");
        let request = self.client.request(method, format!("{}/{path}", self.base)).bearer_auth(&self.key);
        let request: RequestBuilder = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await.with_context(|| format!("failed to call headscale: {what}"))?;
        let status = answer.status();
        let text = answer.text().await.with_context(|| format!("failed to read headscale's answer to {what}"))?;
        if !status.is_success() {
            bail!("failed to call headscale: {what}: {status}: {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("failed to understand headscale's answer to {what}"))
    }
}
