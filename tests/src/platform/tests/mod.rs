//! The platform's own rules, shown on loopback without Headscale.

mod api;
mod fault;
mod metadata;
mod relay;
mod report;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use reqwest::{Client, RequestBuilder};

use super::exchange::Credential;
use super::facade::Facade;
use super::instance::{InstanceSpec, Instances, Tailnet};
use super::issuer::Issuer;
use super::keys::{KeyRequest, Mint, MintedKey};
use super::ledger::Ledger;
use super::metadata::{Metadata, Sources, start_behind_relay};
use super::relay::Relay;
use super::report::ReportSink;

const FREE_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Far longer than anything here takes; over only when something hangs.
const LIMIT: Duration = Duration::from_secs(20);

/// The address of machine `n`; all of 127/8 belongs to the loopback device.
fn machine(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, n))
}

/// A client that follows no redirects; without certificates to load it is made in no time.
fn client(from: IpAddr) -> Client {
    let builder = Client::builder().no_proxy().tls_certs_only([]).local_address(from);
    builder.redirect(reqwest::redirect::Policy::none()).build().expect("a client")
}

/// A platform without Headscale: metadata behind its relay, issuer and sink.
struct Front {
    issuer: Arc<Issuer>,
    instances: Instances,
    reports: ReportSink,
    metadata: Metadata,
    relay: Relay,
}

impl Front {
    /// Starts it with the devbox `i-1` on machine 2.
    fn start() -> Self {
        let ledger = Ledger::default();
        let issuer = Arc::new(Issuer::start(FREE_PORT, ledger.clone()).expect("an issuer"));
        let instances = Instances::default();
        let tailnet = Tailnet::new("kC", &["tag:devbox"]);
        instances.add(InstanceSpec::new("i-1", "devbox", "acme", machine(2)).joining(tailnet));
        let reports = ReportSink::default();
        let sources =
            Sources { instances: instances.clone(), issuer: issuer.clone(), reports: reports.clone(), ledger };
        let (metadata, relay) = start_behind_relay(FREE_PORT, sources).expect("a metadata endpoint");
        Self { issuer, instances, reports, metadata, relay }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.relay.address())
    }

    /// A well-formed GET from a machine.
    fn get(&self, from: IpAddr, path: &str) -> RequestBuilder {
        client(from).get(self.url(path)).header("metadata-flavor", "Devbox")
    }

    /// A well-formed PUT from a machine.
    fn put(&self, from: IpAddr, path: &str) -> RequestBuilder {
        client(from).put(self.url(path)).header("metadata-flavor", "Devbox")
    }
}

/// A maker of keys that writes down what it was asked for.
#[derive(Default)]
struct Scribe(Mutex<Vec<KeyRequest>>);

impl Scribe {
    fn requests(&self) -> Vec<KeyRequest> {
        self.0.lock().expect("no panic while locked").clone()
    }
}

impl Mint for Scribe {
    fn mint(&self, request: KeyRequest) -> Pin<Box<dyn Future<Output = Result<MintedKey>> + Send + '_>> {
        let mut requests = self.0.lock().expect("no panic while locked");
        requests.push(request);
        let id = requests.len().to_string();
        let key = format!("tskey-auth-{id}");
        Box::pin(async { Ok(MintedKey { id, key }) })
    }
}

/// The API with an issuer and the credential `kC` of workspace `acme`.
struct Office {
    issuer: Issuer,
    api: Facade,
    scribe: Arc<Scribe>,
    http: Client,
}

impl Office {
    async fn start() -> Self {
        let ledger = Ledger::default();
        let issuer = Issuer::start(FREE_PORT, ledger.clone()).expect("an issuer");
        let scribe = Arc::new(Scribe::default());
        let api = Facade::start(FREE_PORT, FREE_PORT.ip(), scribe.clone(), ledger).await.expect("an API");
        api.add_credential(Credential {
            client_id: "kC".to_owned(),
            issuer: issuer.url(),
            subject: "acme/*".to_owned(),
            tags: vec!["tag:devbox".to_owned(), "tag:web".to_owned()],
        });
        let http = trusting(&api.ca_pem());
        Self { issuer, api, scribe, http }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.api.server.address())
    }

    async fn exchange(&self, jwt: &str) -> (u16, serde_json::Value) {
        let form = [("client_id", "kC"), ("jwt", jwt)];
        answer(self.http.post(self.url("/api/v2/oauth/token-exchange")).form(&form)).await
    }

    async fn create_key(&self, token: &str, tags: &[&str]) -> (u16, serde_json::Value) {
        let create = serde_json::json!({ "reusable": false, "ephemeral": true, "preauthorized": true, "tags": tags });
        let body = serde_json::json!({ "capabilities": { "devices": { "create": create } }, "expirySeconds": 300 });
        let request = self.http.post(self.url("/api/v2/tailnet/-/keys")).basic_auth(token, Some(""));
        answer(request.json(&body)).await
    }

    async fn access_token(&self) -> String {
        let jwt = self.issuer.issue("acme/i-1", "api.tailscale.com/kC").expect("a token").jwt;
        let (status, body) = self.exchange(&jwt).await;
        assert_eq!(status, 200, "{body}");
        body["access_token"].as_str().expect("an access token").to_owned()
    }
}

fn trusting(ca: &str) -> Client {
    let ca = reqwest::Certificate::from_pem(ca.as_bytes()).expect("a certificate");
    Client::builder().no_proxy().tls_certs_only([ca]).build().expect("a client")
}

async fn answer(request: RequestBuilder) -> (u16, serde_json::Value) {
    let response = request.send().await.expect("an answer");
    (response.status().as_u16(), response.json().await.expect("JSON"))
}
