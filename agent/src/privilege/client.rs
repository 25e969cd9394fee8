//! The agent's side: one connection a request.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::error::HelperError;
use super::fields::{AuthKey, FieldError, Label, NodePreferences};
use super::request::{Admission, Inspected, Request, UnitState, UnitVerb};
use super::wire::{Done, MESSAGE_MAX, Reply, encode};
use crate::core::reason::Fault;
use crate::secret::Secret;
use crate::tailscaled::Preferences;

/// Above the longest deadline of the helper's own, so that it is the helper that says what took so long.
const DEADLINE: Duration = Duration::from_secs(30);

/// Asks the helper. Dropping a request that is under way ends its verb, as it would without a helper in between.
#[derive(Clone, Debug)]
pub struct HelperClient {
    socket: PathBuf,
}

impl HelperClient {
    /// A client for the helper at `socket`; nothing is sent yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// What tailscaled's state says, read without tailscaled.
    pub async fn inspect(&self) -> Result<Inspected, Fault> {
        self.ask(&Request::Inspect {}).await
    }

    /// Opens the gate, and has the unit as `admission` says; returns once it is settled, or after 20 s as it then is.
    pub async fn admit(&self, admission: Admission) -> Result<UnitState, Fault> {
        self.ask(&Request::Admit { admission }).await
    }

    /// Does `job` to tailscaled's unit and waits until it is done.
    pub async fn unit(&self, job: UnitVerb) -> Result<UnitState, Fault> {
        self.ask(&Request::Unit { job }).await
    }

    /// Names the machine.
    pub async fn hostname(&self, name: &str) -> Result<(), Fault> {
        let name = Label::try_from(name.to_owned()).map_err(unaskable("hostname"))?;
        self.tell(&Request::Hostname { name }).await
    }

    /// Logs the node in with a key; of `wanted`, the control URL is the helper's own.
    pub async fn login(&self, wanted: &Preferences, key: &Secret<String>) -> Result<(), Fault> {
        let preferences = NodePreferences::try_from(wanted).map_err(unaskable("login"))?;
        let key = AuthKey::try_from(key.clone()).map_err(unaskable("login"))?;
        self.tell(&Request::Login { preferences, key }).await
    }

    /// Corrects the preferences; of `wanted`, the control URL is the helper's own.
    pub async fn apply(&self, wanted: &Preferences) -> Result<(), Fault> {
        let preferences = NodePreferences::try_from(wanted).map_err(unaskable("apply"))?;
        self.tell(&Request::Apply { preferences }).await
    }

    /// Brings a node up that is down or half logged out.
    pub async fn up(&self) -> Result<(), Fault> {
        self.tell(&Request::Up {}).await
    }

    /// Makes control prove that the node is online.
    pub async fn prove(&self) -> Result<(), Fault> {
        self.tell(&Request::Prove {}).await
    }

    /// Takes back a standing AuthURL.
    pub async fn withdraw(&self) -> Result<(), Fault> {
        self.tell(&Request::Withdraw {}).await
    }

    /// Logs the node out.
    pub async fn logout(&self) -> Result<(), Fault> {
        self.tell(&Request::Logout {}).await
    }

    async fn tell(&self, request: &Request) -> Result<(), Fault> {
        self.ask::<Done>(request).await.map(drop)
    }

    async fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Fault> {
        let verb = request.verb();
        let answer = tokio::time::timeout(DEADLINE, self.exchange(request)).await;
        let answer = answer.unwrap_or(Err(HelperError::TimedOut { verb, deadline: DEADLINE }));
        answer.and_then(|bytes| understand(verb, &bytes)).map_err(|error| Fault::from(&error))
    }

    async fn exchange(&self, request: &Request) -> Result<Vec<u8>, HelperError> {
        let verb = request.verb();
        let connected = UnixStream::connect(&self.socket).await;
        let mut stream = connected.map_err(|source| HelperError::Connect { socket: self.socket.clone(), source })?;
        let bytes = encode(request).map_err(|source| HelperError::Garbled { verb, source })?;
        let sent = match stream.write_all(&bytes).await {
            Ok(()) => stream.shutdown().await,
            failed => failed,
        };
        let mut answer = Vec::new();
        let read = stream.take(MESSAGE_MAX as u64).read_to_end(&mut answer).await;
        match sent.and(read.map(drop)) {
            // A helper that refuses before it has read everything resets the connection; its answer counts all the same.
            Err(source) if answer.is_empty() => Err(HelperError::Broken { verb, source }),
            _ => Ok(answer),
        }
    }
}

fn unaskable(verb: &'static str) -> impl Fn(FieldError) -> Fault {
    move |source| Fault::from(&HelperError::Unaskable { verb, source })
}

fn understand<T: DeserializeOwned>(verb: &'static str, bytes: &[u8]) -> Result<T, HelperError> {
    if bytes.is_empty() {
        return Err(HelperError::NoAnswer { verb });
    }
    match serde_json::from_slice(bytes) {
        Ok(Reply::Ok(brought)) => Ok(brought),
        Ok(Reply::Error(refusal)) => Err(HelperError::Refused(refusal)),
        Err(source) => Err(HelperError::Garbled { verb, source }),
    }
}
