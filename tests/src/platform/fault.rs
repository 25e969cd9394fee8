//! Faults that a test scripts: what a server does to the next answers of a route instead of the ordinary.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::sync::watch;

use super::wire::{Connection, Wire};

/// The rule that holds for every route that has none of its own.
pub const EVERY_ROUTE: &str = "*";

/// What happens to one answer; the default is nothing.
///
/// Parts can be combined: a delay, then another status, then a truncated body.
#[derive(Clone, Default)]
pub struct Fault {
    delay: Duration,
    hold: Option<watch::Receiver<bool>>,
    late: bool,
    answer: Option<(StatusCode, Vec<u8>)>,
    headers: Vec<(HeaderName, Option<HeaderValue>)>,
    wire: Option<Wire>,
}

impl Fault {
    /// Returns a fault that does nothing: lets one request pass between others that do not.
    pub fn none() -> Self {
        Self::default()
    }

    /// Returns a fault that waits before it goes on.
    pub fn delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// Returns a fault that holds the request until the second value is told to let go, or is dropped.
    pub fn hold() -> (Self, Hold) {
        let (let_go, held) = watch::channel(false);
        (Self { hold: Some(held), ..Self::default() }, Hold(let_go))
    }

    /// Returns a fault that answers a status with an empty body; the server itself is not asked.
    ///
    /// # Panics
    /// When `code` is no HTTP status (100 to 999).
    pub fn status(code: u16) -> Self {
        let code = StatusCode::from_u16(code).expect("an HTTP status is 100 to 999");
        Self { answer: Some((code, Vec::new())), ..Self::default() }
    }

    /// Returns a fault that sends the client elsewhere.
    pub fn redirect(code: u16, location: &str) -> Self {
        Self::status(code).header("location", location)
    }

    /// Returns a fault on the bytes of the server's own answer.
    pub fn wire(wire: Wire) -> Self {
        Self { wire: Some(wire), ..Self::default() }
    }

    /// Returns a fault that ends the connection without an answer; the server itself is not asked.
    pub fn drop_connection() -> Self {
        Self::status(500).on_wire(Wire::Close)
    }

    /// Sets the body of the answer; 200 when no status was chosen.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        let code = self.answer.map_or(StatusCode::OK, |(code, _)| code);
        self.answer = Some((code, body.into()));
        self
    }

    /// Sets a header of the answer, replacing the server's own.
    ///
    /// # Panics
    /// When name or value cannot stand in a header (RFC 9110 §5).
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("a header value is visible ASCII");
        self.headers.push((header_name(name), Some(value)));
        self
    }

    /// Removes a header from the answer, such as `metadata-flavor`.
    ///
    /// # Panics
    /// When the name cannot stand in a header.
    pub fn without_header(mut self, name: &str) -> Self {
        self.headers.push((header_name(name), None));
        self
    }

    /// Sets `Retry-After`: seconds, an HTTP date, or anything wrong.
    pub fn retry_after(self, value: &str) -> Self {
        self.header("retry-after", value)
    }

    /// Does something to the bytes of the answer besides.
    pub fn on_wire(mut self, wire: Wire) -> Self {
        self.wire = Some(wire);
        self
    }

    /// Delays or holds the answer instead of the request: the server has already acted (a key is minted, a report is stored).
    pub fn late(mut self) -> Self {
        self.late = true;
        self
    }

    /// Carries the fault out around the server's own handling; `defaults` are the headers of every answer of this server.
    pub(super) async fn carry_out(
        self,
        connection: &Connection,
        defaults: &[(HeaderName, HeaderValue)],
        request: Request,
        next: Next,
    ) -> Response {
        if !self.late {
            self.wait().await;
        }
        let mut response = match &self.answer {
            Some((code, body)) => (*code, Body::from(body.clone())).into_response(),
            None => next.run(request).await,
        };
        if self.late {
            self.wait().await;
        }
        add_missing(&mut response, defaults);
        for (name, value) in self.headers {
            match value {
                Some(value) => drop(response.headers_mut().insert(name, value)),
                None => drop(response.headers_mut().remove(name)),
            }
        }
        connection.arm(self.wire);
        response
    }

    async fn wait(&self) {
        tokio::time::sleep(self.delay).await;
        if let Some(held) = &self.hold {
            // An error means that the holder is gone, which lets go as well.
            let released = held.clone().wait_for(|go| *go).await.is_ok();
            tracing::trace!(released, "held request goes on");
        }
    }
}

fn header_name(name: &str) -> HeaderName {
    HeaderName::from_bytes(name.as_bytes()).expect("a header name is a token")
}

/// Gives an answer the headers that it does not have yet.
fn add_missing(response: &mut Response, defaults: &[(HeaderName, HeaderValue)]) {
    for (name, value) in defaults {
        response.headers_mut().entry(name).or_insert_with(|| value.clone());
    }
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().entry(header::CONTENT_TYPE).or_insert(json);
}

/// Keeps requests waiting for as long as it lives.
pub struct Hold(watch::Sender<bool>);

impl Hold {
    /// Lets everything held go on, and what comes later pass.
    pub fn release(self) {
        self.0.send_replace(true);
    }
}

#[derive(Default)]
struct Rules {
    queue: VecDeque<Fault>,
    standing: Option<Fault>,
}

/// The faults of one server by route, such as `GET /devbox/v1/token`.
#[derive(Clone, Default)]
pub struct Faults {
    routes: Arc<Mutex<HashMap<String, Rules>>>,
}

impl Faults {
    /// Puts a fault at the end of a route's queue: it is used for one request, after those before it.
    pub fn next(&self, route: &str, fault: Fault) {
        self.lock().entry(route.to_owned()).or_default().queue.push_back(fault);
    }

    /// Uses a fault for every request of a route for which none is queued.
    pub fn always(&self, route: &str, fault: Fault) {
        self.lock().entry(route.to_owned()).or_default().standing = Some(fault);
    }

    /// Forgets all faults of a route, queued and standing.
    pub fn clear(&self, route: &str) {
        self.lock().remove(route);
    }

    /// Forgets all faults of this server.
    pub fn clear_all(&self) {
        self.lock().clear();
    }

    /// Returns how many faults are queued for a route and not yet used.
    pub fn queued(&self, route: &str) -> usize {
        self.lock().get(route).map_or(0, |rules| rules.queue.len())
    }

    pub(super) fn take(&self, route: &str) -> Fault {
        let mut routes = self.lock();
        let mut find = |route: &str| {
            let rules = routes.get_mut(route)?;
            rules.queue.pop_front().or_else(|| rules.standing.clone())
        };
        find(route).or_else(|| find(EVERY_ROUTE)).unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Rules>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
