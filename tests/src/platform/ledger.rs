//! What the platform gave out that must stay secret.

use std::sync::{Arc, Mutex, PoisonError};

/// What a secret is for; names the culprit when one is found where it must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// An OIDC token of an instance.
    Jwt,
    /// What the token exchange answered.
    AccessToken,
    /// A key that lets one node join.
    AuthKey,
    /// A metadata session.
    Session,
    /// What a machine shows to its metadata endpoint.
    Bearer,
}

/// Every secret that any server of the platform gave out.
///
/// A test that ends searches for each of them in everything the system wrote.
#[derive(Clone, Default)]
pub struct Ledger {
    entries: Arc<Mutex<Vec<(SecretKind, String)>>>,
}

impl Ledger {
    /// Notes a secret that is about to be handed out.
    pub fn note(&self, kind: SecretKind, secret: &str) {
        self.lock().push((kind, secret.to_owned()));
    }

    /// Returns everything handed out so far, oldest first.
    pub fn secrets(&self) -> Vec<(SecretKind, String)> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(SecretKind, String)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
