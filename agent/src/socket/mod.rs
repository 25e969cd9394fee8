//! The local API on `agent.sock`: its document, server and client.

pub mod document;

use tokio::sync::oneshot;

/// What a caller with the right to write may ask of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Read configuration and metadata now, and forget every `not_before` but a Retry-After.
    Refresh,
    /// Be joined: re-authenticate if logged out, else join; also ends `stopped`.
    Rejoin,
    /// Log out and stay so until `rejoin`.
    Leave,
}

/// A verb on its way to the core, and where the core says that it took it.
#[derive(Debug)]
pub struct Command {
    /// What is asked.
    pub verb: Verb,
    /// Answered once the core's facts have changed, before the effects that follow are done; the error is a sentence for people.
    pub reply: oneshot::Sender<Result<(), String>>,
}
