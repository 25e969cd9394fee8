//! What can be asked, and what is answered.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::socket::access::{Access, GROUP, Peer};
use crate::socket::document::{self, Document};
use crate::socket::watchers::{self, Lines};
use crate::socket::{Command, Lent, Verb};

/// How long the core may take to say that it took a command; it answers between two effects, so this is only reached when it hangs.
const CORE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is said of any other path.
const PATHS: &str =
    "there is no such path; this API has /v1/status, /v1/refresh, /v1/rejoin, /v1/leave, /v1/spec and /v1/token";

/// What is answered: a whole document, or a watch's lines.
pub type Answer = Response<Either<Full<Bytes>, Lines>>;

/// One connection's view of the agent.
#[derive(Clone)]
pub struct Session {
    /// The document of now.
    pub status: watch::Receiver<Arc<Document>>,
    /// The way to the core.
    pub commands: mpsc::Sender<Command>,
    /// Who may write.
    pub access: Arc<Access>,
    /// What they may borrow.
    pub lent: Lent,
    /// Who asks.
    pub peer: Peer,
    /// Cancelled to end the connection of a watcher that does not read.
    pub gone: CancellationToken,
    /// Cancelled once the connection is a watch, which may last.
    pub watching: CancellationToken,
}

impl Session {
    /// Answers a request; a refusal is `{"error": sentence}`.
    pub async fn answer(&self, request: Request<Incoming>) -> Answer {
        // Nothing here takes a body; one that is not even read cannot fill memory.
        if !request.body().is_end_stream() {
            return failure(413, "requests to this API have no body");
        }
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let verb = Verb::ALL.into_iter().find(|verb| path.strip_prefix("/v1/") == Some(verb.as_str()));
        match (path, verb, request.method()) {
            ("/v1/status", _, &Method::GET) => self.read(query),
            ("/v1/spec", _, &Method::GET) => self.lend_spec().await,
            ("/v1/status" | "/v1/spec", ..) => wrong_method("GET"),
            ("/v1/token", _, &Method::POST) => self.lend_token(query).await,
            (_, Some(verb), &Method::POST) => self.write(verb).await,
            ("/v1/token", ..) | (_, Some(_), _) => wrong_method("POST"),
            (_, None, _) => failure(404, PATHS),
        }
    }

    fn read(&self, query: &str) -> Answer {
        if !query.split('&').any(|parameter| parameter == "watch=true") {
            let document = document::json(&self.status.borrow());
            return json(StatusCode::OK, "application/json", Either::Left(Full::from(document)));
        }
        self.watching.cancel();
        let lines = watchers::start(self.status.clone(), self.gone.clone());
        json(StatusCode::OK, "application/x-ndjson", Either::Right(lines))
    }

    async fn write(&self, verb: Verb) -> Answer {
        if !self.access.allows(&self.peer) {
            return failure(403, &format!("{} needs root, the agent's own user, or the group {GROUP}", verb.as_str()));
        }
        match tokio::time::timeout(CORE_TIMEOUT, self.command(verb)).await {
            Ok(Ok(Ok(()))) => taken(verb),
            Ok(Ok(Err(sentence))) => failure(409, &sentence),
            Ok(Err(CoreGone)) => failure(503, "the agent is stopping"),
            Err(_elapsed) => failure(503, "the agent did not take the command in time; read its log"),
        }
    }

    /// Hands the verb to the core and waits for its reply.
    async fn command(&self, verb: Verb) -> Result<Result<(), String>, CoreGone> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command { verb, reply }).await.map_err(|_closed| CoreGone)?;
        answer.await.map_err(|_dropped| CoreGone)
    }
}

/// There is no core any more, or it dropped the command.
struct CoreGone;

/// A refresh is done when the core has answered; the other two have effects that go on.
fn taken(verb: Verb) -> Answer {
    let code = if verb == Verb::Refresh { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED };
    let mut answer = Response::new(Either::Left(Full::default()));
    *answer.status_mut() = code;
    answer
}

fn wrong_method(allowed: &'static str) -> Answer {
    let mut answer = failure(405, &format!("this path takes only {allowed}"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// Makes a refusal: a code of RFC 9110 and a sentence that says what is needed.
pub fn failure(code: u16, sentence: &str) -> Answer {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    whole(code, &serde_json::json!({ "error": sentence }))
}

/// Answers with one JSON document.
pub(super) fn whole(code: StatusCode, document: &serde_json::Value) -> Answer {
    json(code, "application/json", Either::Left(Full::from(document.to_string())))
}

fn json(code: StatusCode, kind: &'static str, body: Either<Full<Bytes>, Lines>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
