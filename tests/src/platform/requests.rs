//! What a server of the platform was asked, for counting and for searching.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use tokio::sync::watch;
use tokio::time::Instant;

use super::wire::Sent;

/// One request as it reached a server.
#[derive(Clone)]
pub struct Seen {
    /// When its head had been read; for gaps between requests.
    pub at: Instant,
    /// The same by the wall clock; for lining up with logs.
    pub wall: SystemTime,
    /// The machine that asked, also when it came through a relay.
    pub peer: IpAddr,
    /// Method and path, as `GET /devbox/v1/token`.
    pub route: String,
    /// The query without its question mark, not decoded.
    pub query: String,
    /// All headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body; invalid UTF-8 replaced.
    pub body: String,
    /// The status that was answered; none while the answer is being held.
    pub status: Option<u16>,
    sent: Sent,
}

impl Seen {
    pub(super) fn new(peer: IpAddr, route: String, query: String, sent: Sent) -> Self {
        Self {
            at: Instant::now(),
            wall: SystemTime::now(),
            peer,
            route,
            query,
            headers: Vec::new(),
            body: String::new(),
            status: None,
            sent,
        }
    }

    /// Returns the first value of a header; names are case-insensitive (RFC 9110 §5.1).
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Returns how many bytes the server has put on this request's connection so far.
    ///
    /// Says when a client cut an answer that would never have ended.
    pub fn bytes_sent(&self) -> u64 {
        self.sent.bytes()
    }

    /// Returns whether the client, or a fault, has ended this request's connection.
    pub fn connection_closed(&self) -> bool {
        self.sent.closed()
    }

    fn contains(&self, text: &str) -> bool {
        let in_headers = self.headers.iter().any(|(_, value)| value.contains(text));
        in_headers || self.route.contains(text) || self.query.contains(text) || self.body.contains(text)
    }
}

/// Everything one server was asked, in the order in which it came.
#[derive(Clone)]
pub struct RequestLog {
    seen: Arc<Mutex<Vec<Seen>>>,
    changed: watch::Sender<usize>,
}

impl Default for RequestLog {
    fn default() -> Self {
        Self { seen: Arc::default(), changed: watch::Sender::new(0) }
    }
}

impl RequestLog {
    pub(super) fn add(&self, seen: Seen) -> usize {
        let total = {
            let mut all = self.lock();
            all.push(seen);
            all.len()
        };
        // Only after the lock is gone: a waiter takes it while it holds the channel's own.
        self.changed.send_replace(total);
        total - 1
    }

    pub(super) fn answered(&self, index: usize, status: u16) {
        if let Some(seen) = self.lock().get_mut(index) {
            seen.status = Some(status);
        }
    }

    /// Returns every request, oldest first.
    pub fn all(&self) -> Vec<Seen> {
        self.lock().clone()
    }

    /// Returns the requests for a route such as `GET /devbox/v1/token`.
    pub fn of(&self, route: &str) -> Vec<Seen> {
        self.lock().iter().filter(|seen| seen.route == route).cloned().collect()
    }

    /// Returns how often a route was asked for.
    pub fn count(&self, route: &str) -> usize {
        self.lock().iter().filter(|seen| seen.route == route).count()
    }

    /// Returns the requests that hold a text in their path, query, headers or body.
    pub fn containing(&self, text: &str) -> Vec<Seen> {
        self.lock().iter().filter(|seen| seen.contains(text)).cloned().collect()
    }

    /// Waits until a route was asked for at least `count` times, and returns the requests.
    ///
    /// # Errors
    /// When `limit` is over first; says how many there were.
    pub async fn wait_for(&self, route: &str, count: usize, limit: Duration) -> Result<Vec<Seen>> {
        let mut changed = self.changed.subscribe();
        let enough = changed.wait_for(|_| self.count(route) >= count);
        tokio::time::timeout(limit, enough)
            .await
            .with_context(|| format!("failed to see {count} of {route}: only {} in {limit:?}", self.count(route)))??;
        Ok(self.of(route))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
