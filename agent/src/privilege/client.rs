//! The agent's side: one connection a request.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::error::HelperError;
use super::fields::{AuthKey, FieldError, Label, NodePreferences};
use super::request::{Admission, Inspected, Request, UnitState};
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

    /// Stops tailscaled's unit; returns once that is over, or after 20 s, and how the unit then is.
    pub async fn stop(&self) -> Result<UnitState, Fault> {
        self.ask(&Request::Stop {}).await
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
        answer.and_then(|answer| understand(verb, answer)).map_err(|error| Fault::from(&error))
    }

    async fn exchange(&self, request: &Request) -> Result<Answer, HelperError> {
        let verb = request.verb();
        let connected = UnixStream::connect(&self.socket).await;
        let mut stream = connected.map_err(|source| HelperError::Connect { socket: self.socket.clone(), source })?;
        let bytes = encode(request).map_err(|source| HelperError::Garbled { verb, source })?;
        let sent = match stream.write_all(&bytes).await {
            Ok(()) => stream.shutdown().await,
            failed => failed,
        };
        let mut bytes = Vec::new();
        let read = stream.take(MESSAGE_MAX as u64).read_to_end(&mut bytes).await;
        Ok(Answer { bytes, broken: sent.and(read.map(drop)).err() })
    }
}

/// What came back.
struct Answer {
    bytes: Vec<u8>,
    /// How the connection broke. A helper that refuses before it has read everything resets it; its answer counts all the same.
    broken: Option<io::Error>,
}

fn unaskable(verb: &'static str) -> impl Fn(FieldError) -> Fault {
    move |source| Fault::from(&HelperError::Unaskable { verb, source })
}

fn understand<T: DeserializeOwned>(verb: &'static str, answer: Answer) -> Result<T, HelperError> {
    match (serde_json::from_slice(&answer.bytes), answer.broken) {
        (Ok(Reply::Ok(brought)), _) => Ok(brought),
        (Ok(Reply::Error(refusal)), _) => Err(HelperError::Refused(refusal)),
        // What was sent of it is right as far as it goes, if anything was: the end is missing.
        (Err(cut), Some(source)) if cut.is_eof() => Err(HelperError::Broken { verb, source }),
        (Err(_), None) if answer.bytes.is_empty() => Err(HelperError::NoAnswer { verb }),
        (Err(source), _) => Err(HelperError::Garbled { verb, source }),
    }
}
