//! `wait-online`: holds a script or a unit until the node is there.

mod appearance;

use std::io;
use std::path::Path;
use std::time::Duration;

use self::appearance::Appearance;
use super::exit::ExitCode;
use super::output::Output;
use super::{Level, render};
use crate::core::phase::Phase;
use crate::core::reason::{Code, chain, printable};
use crate::socket::client::{Client, Error};
use crate::socket::document::Document;
use crate::socket::socket_path;

/// How long a socket may stay closed to this user: an agent that starts opens it to all right after making it.
const OPENING: Duration = Duration::from_secs(2);

/// Waits until this machine is on the tailnet
///
/// Waits for the agent too, and over its restarts. Exits 0 when the node is there; 1 at once when it will not be without a person (stopped,
/// left, unassigned); 75 when time is over, with the reason.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How far the node must be
    #[arg(long, value_name = "LEVEL", default_value = "online")]
    pub level: Level,
    /// Give up after this long, such as 30s or 2min [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// Reads a duration as `humantime` writes it; a bare number means seconds, as in systemd's units.
pub(super) fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    text.parse().map(Duration::from_secs).or_else(|_| humantime::parse_duration(text))
}

/// Waits for the agent of `runtime`; says on stderr why, when the node did not get there.
pub async fn run(args: &Args, runtime: &Path, output: &mut Output<'_>) -> ExitCode {
    let socket = socket_path(runtime);
    let mut last = Seen::Nothing;
    let waited = follow(args.level, &socket, &mut last);
    let end = match args.timeout {
        Some(limit) => tokio::time::timeout(limit, waited).await.unwrap_or(End::TimedOut),
        None => waited.await,
    };
    let result = report(end, &last, output);
    output.ended(result)
}

/// How the waiting ended.
enum End {
    /// The node is there.
    Reached,
    /// It will not be there before a person asks for it.
    NeedsPerson,
    /// The agent's socket stays closed to this user.
    Refused,
    TimedOut,
}

/// What was seen last.
enum Seen {
    Nothing,
    Agent(Box<Document>),
    Failure(Error),
}

async fn follow(level: Level, socket: &Path, last: &mut Seen) -> End {
    let mut closed_since = None;
    loop {
        // Watched before the attempt: an agent that comes up in between is not missed.
        let appearance = Appearance::of(socket);
        let mut served = false;
        match attend(level, socket, last, &mut served).await {
            Ok(Some(end)) => return end,
            Ok(None) => {}
            Err(error) => {
                let closed = matches!(error, Error::Closed { .. });
                *last = Seen::Failure(error);
                let since = *closed_since.get_or_insert_with(tokio::time::Instant::now);
                if !closed {
                    closed_since = None;
                } else if since.elapsed() >= OPENING {
                    return End::Refused;
                }
            }
        }
        if !served {
            appearance.wait().await;
        }
    }
}

/// Follows one connection; none when the agent ended it.
async fn attend(level: Level, socket: &Path, last: &mut Seen, served: &mut bool) -> Result<Option<End>, Error> {
    let client = Client::new(socket)?;
    let mut watch = client.watch().await?;
    while let Some(document) = watch.next().await? {
        *served = true;
        let end = judge(level, &document);
        *last = Seen::Agent(Box::new(document));
        if end.is_some() {
            return Ok(end);
        }
    }
    Ok(None)
}

fn judge(level: Level, document: &Document) -> Option<End> {
    match document.phase {
        _ if level.is_reached(document) => Some(End::Reached),
        // The last word of an agent that ends: the next one is waited for.
        Phase::Stopped if document.reason.as_ref().is_some_and(|it| it.code == Code::AgentStopping) => None,
        Phase::Stopped | Phase::Left | Phase::Unassigned => Some(End::NeedsPerson),
        _ => None,
    }
}

fn report(end: End, last: &Seen, output: &mut Output<'_>) -> io::Result<ExitCode> {
    let code = match end {
        End::Reached => return Ok(ExitCode::Fine),
        End::NeedsPerson => ExitCode::No,
        End::Refused => ExitCode::NotPermitted,
        End::TimedOut => ExitCode::TimedOut,
    };
    let prefix = if matches!(end, End::TimedOut) { "timed out: " } else { "" };
    output.talk(format_args!("{prefix}{}", why(last)))?;
    Ok(code)
}

/// Says why the node is not there: the situation, the reason with this case's detail, and the remedy.
fn why(last: &Seen) -> String {
    let document = match last {
        Seen::Nothing => return "devbox-agent has not answered yet".into(),
        Seen::Failure(error) => return chain(error),
        Seen::Agent(document) => document,
    };
    let mut text = render::in_one_line(document);
    let parts = document.reason.iter().flat_map(|reason| [&reason.detail, &reason.remedy]);
    for part in parts.filter(|part| !part.is_empty()) {
        text.push_str("; ");
        text.push_str(part);
    }
    printable(&text, 1000)
}

#[cfg(test)]
mod tests;
