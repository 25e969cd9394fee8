//! LocalAPI, spoken natively on tailscaled's unix socket.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use hyper::body::Bytes;
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::error::LocalApiError;
use super::exit_node::{self, ExitNodeError, Peers};
use super::prefs::{self, Document};
use super::transport::{Call, Transport};
use super::types::{Notify, Preferences, Status};
use super::{LocalApi, bus};
use crate::core::reason::{Code, Fault};
use crate::secret::Secret;

/// The hang probe (design §4): a status takes a few milliseconds.
const STATUS_DEADLINE: Duration = Duration::from_secs(3);

/// Every other call: `start` may wait for tailscaled to take down what was up.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// How long control may take to confirm a logout, where no other bound is given; tailscaled stops asking when the request ends.
pub const LOGOUT_DEADLINE: Duration = Duration::from_secs(5);

/// The longest status with peers: about 1 KiB for each, of some ten thousand.
const PEERS_MAX: usize = 32 << 20;

/// tailscaled's words when its control client dropped the node key at a logout that failed; its state still has the key.
const KEY_FORGOTTEN: &str = "no nodekey to log out";

/// Read to see the preferences, patched to change them.
const PREFS: &str = "prefs";

/// LocalAPI on a socket.
#[derive(Debug)]
pub struct LocalApiClient {
    transport: Transport,
    logout_deadline: Duration,
    preferences: Document,
}

impl LocalApiClient {
    /// A client for the tailscaled at `socket`; nothing is sent yet.
    ///
    /// `logout_deadline` bounds `logout` alone, because control has to answer it: tailscaled gives up asking when the request ends.
    pub fn new(socket: impl Into<PathBuf>, logout_deadline: Duration) -> Result<Self, LocalApiError> {
        Ok(Self { transport: Transport::new(socket.into())?, logout_deadline, preferences: Document::new() })
    }

    /// Has every login set `preferences` (`ipn.Prefs`) too, over those that the agent leaves alone: for a tailscaled that nobody else uses.
    #[must_use]
    pub fn with_preferences(self, preferences: Document) -> Self {
        Self { preferences, ..self }
    }

    /// Sends what is not the tailnet's through the node with this name or address, if it is there and offers that.
    ///
    /// To be called when the node is online: it knows of no other before.
    pub async fn use_exit_node(&self, wanted: &str) -> Result<(), ExitNodeError> {
        let address = self.peers().await?.exit_node(wanted)?;
        Ok(self.patch("choose the exit node", exit_node::masked(address)).await?)
    }

    async fn peers(&self) -> Result<Peers, LocalApiError> {
        let verb = "read the status of all nodes";
        let call =
            Call { verb, method: Method::GET, endpoint: "status", body: None, deadline: CALL_DEADLINE, secret: None };
        decoded(verb, &self.transport.call_up_to(PEERS_MAX, call).await?)
    }

    async fn get<T: DeserializeOwned>(
        &self,
        verb: &'static str,
        endpoint: &'static str,
        deadline: Duration,
    ) -> Result<T, LocalApiError> {
        let call = Call { verb, method: Method::GET, endpoint, body: None, deadline, secret: None };
        decoded(verb, &self.transport.call(call).await?)
    }

    async fn send(
        &self,
        verb: &'static str,
        method: Method,
        endpoint: &'static str,
        body: Option<Bytes>,
    ) -> Result<(), LocalApiError> {
        let call = Call { verb, method, endpoint, body, deadline: CALL_DEADLINE, secret: None };
        self.transport.call(call).await.map(drop)
    }

    async fn patch(&self, verb: &'static str, masked: impl Serialize + Send) -> Result<(), LocalApiError> {
        self.send(verb, Method::PATCH, PREFS, Some(body(verb, &masked)?)).await
    }

    async fn start(
        &self,
        verb: &'static str,
        prefs: Option<&Document>,
        key: Option<&str>,
    ) -> Result<(), LocalApiError> {
        let options = Options { update_prefs: prefs, auth_key: key };
        let body = body(verb, &options)?;
        let call = Call {
            verb,
            method: Method::POST,
            endpoint: "start",
            body: Some(body),
            deadline: CALL_DEADLINE,
            secret: key,
        };
        self.transport.call(call).await.map(drop)
    }

    async fn read_prefs(&self) -> Result<Document, LocalApiError> {
        self.get("read the preferences", PREFS, CALL_DEADLINE).await
    }

    async fn try_login(&self, wanted: &Preferences, key: &str) -> Result<(), LocalApiError> {
        let mut prefs = prefs::for_login(self.read_prefs().await?, wanted);
        prefs.extend(self.preferences.clone());
        self.start("start the login", Some(&prefs), Some(key)).await?;
        self.send("log in", Method::POST, "login-interactive", None).await
    }

    async fn send_logout(&self) -> Result<(), LocalApiError> {
        let call = Call {
            verb: "log out",
            method: Method::POST,
            endpoint: "logout",
            body: None,
            deadline: self.logout_deadline,
            secret: None,
        };
        self.transport.call(call).await.map(drop)
    }

    /// After a logout that control did not confirm only a new control client can repeat it, and `start` makes one.
    async fn try_logout(&self) -> Result<(), LocalApiError> {
        match self.send_logout().await {
            Err(LocalApiError::Refused { words, .. }) if words.contains(KEY_FORGOTTEN) => {
                self.start("prepare another logout", None, None).await?;
                self.send_logout().await
            }
            ended => ended,
        }
    }

    async fn try_withdraw(&self) -> Result<(), LocalApiError> {
        let prefs = prefs::for_withdrawal(self.read_prefs().await?);
        self.start("withdraw the login", Some(&prefs), None).await
    }
}

fn decoded<T: DeserializeOwned>(verb: &'static str, body: &[u8]) -> Result<T, LocalApiError> {
    serde_json::from_slice(body).map_err(|source| LocalApiError::Undecodable { verb, source })
}

/// `ipn.Options`: null preferences leave all as they are, and so does an absent key.
#[derive(Serialize)]
struct Options<'a> {
    #[serde(rename = "UpdatePrefs")]
    update_prefs: Option<&'a Document>,
    #[serde(rename = "AuthKey", skip_serializing_if = "Option::is_none")]
    auth_key: Option<&'a str>,
}

/// Writes a body into memory that is wiped when the last of the HTTP library's handles on it is gone.
///
/// The size is found first (with a counter that keeps nothing), so that the buffer never grows: growing leaves copies behind.
fn body(verb: &'static str, document: &impl Serialize) -> Result<Bytes, LocalApiError> {
    let undecodable = |source| LocalApiError::Undecodable { verb, source };
    let mut length = Counter(0);
    serde_json::to_writer(&mut length, document).map_err(undecodable)?;
    let mut buffer = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *buffer, document).map_err(undecodable)?;
    Ok(Bytes::from_owner(buffer))
}

struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A logout that is not answered, or answered with an error, says nothing about tailscaled: it was control that did not confirm it.
fn logout_fault(error: &LocalApiError) -> Fault {
    let fault = Fault::from(error);
    match error {
        LocalApiError::TimedOut { .. } | LocalApiError::Refused { .. } => Fault { code: Code::LogoutFailed, ..fault },
        _ => fault,
    }
}

#[async_trait]
impl LocalApi for LocalApiClient {
    async fn status(&self) -> Result<Status, Fault> {
        let status = self.get("read the status", "status?peers=false", STATUS_DEADLINE).await;
        status.map(Status::presentable).map_err(|error| Fault::from(&error))
    }

    async fn login(&self, wanted: &Preferences, key: &Secret<String>) -> Result<(), Fault> {
        self.try_login(wanted, key.expose()).await.map_err(|error| Fault::from(&error))
    }

    async fn apply(&self, wanted: &Preferences) -> Result<(), Fault> {
        let changed = self.patch("change the preferences", prefs::masked(wanted)).await;
        changed.map_err(|error| Fault::from(&error))
    }

    async fn up(&self) -> Result<(), Fault> {
        self.patch("bring the node up", prefs::masked_up()).await.map_err(|error| Fault::from(&error))
    }

    async fn prove(&self) -> Result<(), Fault> {
        self.start("prove the node online", None, None).await.map_err(|error| Fault::from(&error))
    }

    async fn withdraw(&self) -> Result<(), Fault> {
        self.try_withdraw().await.map_err(|error| Fault::from(&error))
    }

    async fn logout(&self) -> Result<(), Fault> {
        self.try_logout().await.map_err(|error| logout_fault(&error))
    }

    async fn watch(&self, to: mpsc::Sender<Notify>) -> Fault {
        Fault::from(&bus::watch(&self.transport, CALL_DEADLINE, &to).await)
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
