//! The IPN bus: one JSON object a line, without heartbeat, until tailscaled ends it.

use std::time::Duration;

use reqwest::{Method, Response};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{Decoder, LinesCodec, LinesCodecError};

use super::error::LocalApiError;
use super::prefs;
use super::redact::redact;
use super::transport::{Call, Transport};
use super::types::Notify;
use crate::core::reason::{Code, Reasoned, printable};

/// InitialState (2), InitialPrefs (4) and InitialHealthState (128, silent without one of the others).
const ENDPOINT: &str = "watch-ipn-bus?mask=134";

/// The longest message read: tailscaled sets no limit, and a netmap of a large tailnet has a few MiB.
const LINE_MAX: usize = 16 << 20;

/// A buffer larger than this is given back once it is empty.
const BUFFER_KEPT: usize = 64 << 10;

/// What tailscaled says before it ends the watch of a reader that was too slow; not a login's error.
const FELL_BEHIND: &str = "consumer fell behind";

/// How much of a control server's words is told, in characters.
const WORDS_MAX: usize = 256;

const VERB: &str = "watch the bus";

/// Why a watch ended; in every case the way on is another watch, whose first message is a snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum BusError {
    /// It did not begin, or broke.
    #[error(transparent)]
    Request(#[from] LocalApiError),
    /// tailscaled ended.
    #[error("failed to {VERB}: tailscaled ended it")]
    Ended,
    /// tailscaled dropped messages because this side was too slow.
    #[error("failed to {VERB}: it was read too slowly, so messages were lost")]
    FellBehind,
    /// A line is too long or not UTF-8.
    #[error("failed to {VERB}: a message is unreadable or longer than {LINE_MAX} bytes")]
    Line(#[source] LinesCodecError),
    /// A line is not a message.
    #[error("failed to {VERB}: a message is not what tailscaled sends")]
    Message(#[source] serde_json::Error),
    /// Whoever asked for the messages no longer takes them.
    #[error("failed to {VERB}: nobody takes its messages any more")]
    Unwanted,
}

impl Reasoned for BusError {
    fn code(&self) -> Code {
        match self {
            Self::Request(error) => error.code(),
            Self::Ended => Code::TailscaledStarting,
            Self::FellBehind | Self::Line(_) | Self::Message(_) | Self::Unwanted => Code::LocalapiError,
        }
    }
}

/// Watches until something ends it. When the headers are there, tailscaled has registered the watch: nothing later is lost.
pub(super) async fn watch(transport: &Transport, deadline: Duration, to: &mpsc::Sender<Notify>) -> BusError {
    let call = Call { verb: VERB, method: Method::GET, endpoint: ENDPOINT, body: None, deadline, secret: None };
    let outcome = match transport.open(call).await {
        Ok(response) => tokio::select! {
            ended = forward(response, to) => ended,
            () = to.closed() => Err(BusError::Unwanted),
        },
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn forward(mut response: Response, to: &mpsc::Sender<Notify>) -> Result<std::convert::Infallible, BusError> {
    let mut messages = Messages::new();
    loop {
        let chunk = response
            .chunk()
            .await
            .map_err(|source| LocalApiError::Broken { verb: VERB, source: source.without_url() })?;
        messages.push(&chunk.ok_or(BusError::Ended)?);
        while let Some(message) = messages.next()? {
            to.send(message).await.map_err(|_| BusError::Unwanted)?;
        }
    }
}

/// Makes messages of bytes, however these were split on their way.
struct Messages {
    lines: LinesCodec,
    buffer: BytesMut,
    initial: bool,
}

impl Messages {
    fn new() -> Self {
        Self { lines: LinesCodec::new_with_max_length(LINE_MAX), buffer: BytesMut::new(), initial: true }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message that is complete; `None` until more bytes come.
    fn next(&mut self) -> Result<Option<Notify>, BusError> {
        while let Some(line) = self.lines.decode(&mut self.buffer).map_err(BusError::Line)? {
            if self.buffer.is_empty() && self.buffer.capacity() > BUFFER_KEPT {
                self.buffer = BytesMut::new();
            }
            if !line.is_empty() {
                let initial = std::mem::take(&mut self.initial);
                return decode(&line, initial).map(Some);
            }
        }
        Ok(None)
    }
}

/// `ipn.Notify`, as far as the agent reads it. What it does not read is skipped without being kept; null is absent.
#[derive(Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[derive(Default)]
struct Wire {
    state: Option<Value>,
    prefs: Option<Value>,
    err_message: Option<Value>,
    #[serde(rename = "BrowseToURL")]
    browse_to_url: Option<IgnoredAny>,
    health: Option<Value>,
    self_change: Option<IgnoredAny>,
}

fn decode(line: &str, initial: bool) -> Result<Notify, BusError> {
    let wire: Wire = serde_json::from_str(line).map_err(BusError::Message)?;
    let error = wire.err_message.as_ref().and_then(Value::as_str);
    if error.is_some_and(|words| words.contains(FELL_BEHIND)) {
        return Err(BusError::FellBehind);
    }
    Ok(Notify {
        initial,
        state: wire.state.as_ref().and_then(Value::as_u64).and_then(state_name),
        prefs: wire.prefs.as_ref().and_then(Value::as_object).map(prefs::current),
        error: error.map(told),
        browse: wire.browse_to_url.is_some(),
        login_state: wire.health.as_ref().map(login_state),
        self_changed: wire.self_change.is_some(),
    })
}

/// `ipn.State`; the bus has the number, `status` the name.
fn state_name(number: u64) -> Option<&'static str> {
    const NAMES: [&str; 7] =
        ["NoState", "InUseOtherUser", "NeedsLogin", "NeedsMachineAuth", "Stopped", "Starting", "Running"];
    NAMES.get(usize::try_from(number).ok()?).copied()
}

/// The words of the `login-state` warning: every health message is the complete set, so its absence means that all is well.
fn login_state(health: &Value) -> Option<String> {
    let warning = health.get("Warnings")?.get("login-state")?;
    let words = warning.get("Args").and_then(|args| args.get("error")).or_else(|| warning.get("Text"));
    let words = words.and_then(Value::as_str);
    (!warning.is_null()).then(|| told(words.unwrap_or("tailscaled does not say why")))
}

fn told(words: &str) -> String {
    printable(&redact(words), WORDS_MAX)
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
