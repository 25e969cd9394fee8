//! Metadata sessions: opaque tokens that a client fetches with a PUT, which a confused proxy or browser cannot send.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The longest life of a session, seconds.
pub const MAX_TTL: u64 = 21_600;

/// Which sessions are open, and whether one is needed at all.
#[derive(Clone, Default)]
pub struct Sessions {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    required: bool,
    open: HashMap<String, (IpAddr, Instant)>,
}

impl Sessions {
    /// Answers 401 to whatever comes without a session from now on, or stops doing so.
    pub fn require(&self, required: bool) {
        self.lock().required = required;
    }

    /// Ends every session.
    pub fn revoke_all(&self) {
        self.lock().open.clear();
    }

    pub(super) fn open(&self, token: String, peer: IpAddr, ttl: Duration) {
        self.lock().open.insert(token, (peer, Instant::now() + ttl));
    }

    /// Returns whether a request from `peer` with this token may pass.
    pub(super) fn admits(&self, peer: IpAddr, token: Option<&str>) -> bool {
        let state = self.lock();
        let owner = token.and_then(|token| state.open.get(token));
        !state.required || owner.is_some_and(|(owner, until)| *owner == peer && Instant::now() < *until)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
