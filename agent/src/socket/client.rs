//! The client's half of the local API.

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Verb;
use super::document::Document;
use crate::core::reason::Code;
use crate::metadata::Spec;
use crate::secret::Secret;

/// How long a reading may take: the agent answers from memory, so a longer wait means that it hangs.
const READ_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a command may take: a little longer than the server waits for the core, so that its sentence arrives.
const WRITE_TIMEOUT: Duration = Duration::from_secs(12);
/// How long what the agent lends may take: a little longer than the server waits for the metadata.
const LEND_TIMEOUT: Duration = Duration::from_secs(27);
/// The longest line of a watch; a document is some 2 KiB, and whatever sends more is no agent.
const LINE_MAX: usize = 256 * 1024;

/// Why the agent did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no socket.
    #[error("failed to reach devbox-agent: there is no socket at {}", path.display())]
    Absent {
        /// The socket's path.
        path: PathBuf,
    },
    /// There is a socket that nobody listens on.
    #[error("failed to reach devbox-agent: nobody listens on {}", path.display())]
    Refused {
        /// The socket's path.
        path: PathBuf,
    },
    /// The socket cannot be opened by this user.
    #[error("failed to reach devbox-agent: this user may not open {}", path.display())]
    Closed {
        /// The socket's path.
        path: PathBuf,
    },
    /// The agent listens and does not answer.
    #[error("failed to reach devbox-agent: it does not answer; read its log")]
    Silent,
    /// The connection failed some other way.
    #[error("failed to reach devbox-agent on {}", path.display())]
    Connection {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The caller may not write; the agent's sentence.
    #[error("{0}")]
    NotPermitted(String),
    /// The agent cannot serve the request now; its sentence.
    #[error("{0}")]
    Busy(String),
    /// The agent's own metadata has a fault.
    #[error("{sentence}")]
    Metadata {
        /// Which.
        code: Code,
        /// In the agent's words.
        sentence: String,
    },
    /// The core refused the command; its sentence.
    #[error("{0}")]
    Rejected(String),
    /// What answers does not speak this API.
    #[error("failed to understand devbox-agent's answer: {0}; are the command and the agent of one version?")]
    Protocol(String),
}

impl Error {
    /// Whether no agent is at work: none listens, or the one that does hangs.
    pub fn is_down(&self) -> bool {
        matches!(self, Self::Absent { .. } | Self::Refused { .. } | Self::Silent | Self::Connection { .. })
    }
}

/// A client of one agent.
pub struct Client {
    http: reqwest::Client,
    path: PathBuf,
}

impl Client {
    /// Prepares a client of the agent that listens on `path`; nothing is opened yet.
    pub fn new(path: &Path) -> Result<Self, Error> {
        // No TLS is spoken here, and reading the system's certificates would cost more than the request.
        let http = reqwest::Client::builder()
            .unix_socket(path)
            .no_proxy()
            .tls_certs_only([])
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|source| Error::Connection { path: path.into(), source })?;
        Ok(Self { http, path: path.into() })
    }

    /// Reads the document of now.
    pub async fn status(&self) -> Result<Document, Error> {
        let request = self.http.get("http://agent/v1/status").timeout(READ_TIMEOUT);
        let body = self.checked(request.send().await).await?.bytes().await;
        decode(&body.map_err(|error| self.failed(error))?)
    }

    /// Watches the document: the one of now, then each that follows; those in between are skipped when the caller is slow.
    pub async fn watch(&self) -> Result<Watch<'_>, Error> {
        let opening = self.http.get("http://agent/v1/status?watch=true").send();
        let answer = tokio::time::timeout(READ_TIMEOUT, opening).await.map_err(|_elapsed| Error::Silent)?;
        Ok(Watch { client: self, response: self.checked(answer).await?, rest: Vec::new() })
    }

    /// Asks the agent to do something; returns when it has taken it, before the effects that follow are done.
    pub async fn ask(&self, verb: Verb) -> Result<(), Error> {
        let url = format!("http://agent/v1/{}", verb.as_str());
        self.checked(self.http.post(url).timeout(WRITE_TIMEOUT).send().await).await.map(drop)
    }

    /// Borrows the spec, as the agent reads it now.
    pub async fn spec(&self) -> Result<Spec, Error> {
        let request = self.http.get("http://agent/v1/spec").timeout(LEND_TIMEOUT);
        let body = self.checked(request.send().await).await?.bytes().await;
        decode(&body.map_err(|error| self.failed(error))?)
    }

    /// Borrows a fresh workload token for Tailscale's audience of `client_id`.
    pub async fn token(&self, client_id: &str) -> Result<Secret<String>, Error> {
        let request = self.http.post("http://agent/v1/token").query(&[("client_id", client_id)]);
        let body = self.checked(request.timeout(LEND_TIMEOUT).send().await).await?.bytes().await;
        let body = body.map_err(|error| self.failed(error))?;
        // The parser's own words are left out: they can quote the token.
        let parsed = serde_json::from_slice(&body).map_err(|_unquoted| Error::Protocol("no token".to_owned()));
        parsed.map(|TokenBody { token }| Secret::new(token))
    }

    async fn checked(&self, answer: reqwest::Result<Response>) -> Result<Response, Error> {
        let answer = answer.map_err(|error| self.failed(error))?;
        let code = answer.status();
        if code.is_success() {
            return Ok(answer);
        }
        let body = answer.bytes().await.map_err(|error| self.failed(error))?;
        let Ok(refusal) = serde_json::from_slice::<Refusal>(&body) else {
            return Err(Error::Protocol(format!("status {code} without a sentence")));
        };
        let sentence = crate::core::reason::printable(&refusal.error, 400);
        if let Some(code) = refusal.code {
            return Err(Error::Metadata { code, sentence });
        }
        Err(match code {
            StatusCode::FORBIDDEN => Error::NotPermitted(sentence),
            StatusCode::CONFLICT => Error::Rejected(sentence),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Error::Busy(sentence),
            _ => Error::Protocol(format!("status {code}: {sentence}")),
        })
    }

    fn failed(&self, error: reqwest::Error) -> Error {
        if error.is_timeout() {
            return Error::Silent;
        }
        let path = self.path.clone();
        match io_kind(&error) {
            Some(io::ErrorKind::NotFound) => Error::Absent { path },
            Some(io::ErrorKind::ConnectionRefused) => Error::Refused { path },
            Some(io::ErrorKind::PermissionDenied) => Error::Closed { path },
            _ => Error::Connection { path, source: error },
        }
    }
}

/// `{"error": sentence}`, with the code of a fault of the metadata's.
#[derive(Deserialize)]
struct Refusal {
    error: String,
    code: Option<Code>,
}

/// `{"token": jwt}`.
#[derive(Deserialize)]
struct TokenBody {
    token: String,
}

/// The documents of one connection, in order.
pub struct Watch<'a> {
    client: &'a Client,
    response: Response,
    rest: Vec<u8>,
}

impl Watch<'_> {
    /// Waits for the next document; none when the agent has ended the watch. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Result<Option<Document>, Error> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return decode(&line).map(Some);
            }
            if self.rest.len() > LINE_MAX {
                return Err(Error::Protocol(format!("a line of more than {LINE_MAX} bytes")));
            }
            match self.response.chunk().await.map_err(|error| self.client.failed(error))? {
                Some(chunk) => self.rest.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| Error::Protocol(error.to_string()))
}

/// Finds the system's error among the causes: the libraries in between wrap it.
fn io_kind(error: &reqwest::Error) -> Option<io::ErrorKind> {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = cause.source();
    }
    None
}
