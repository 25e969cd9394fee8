//! `status`: how the node is.

use std::io;
use std::path::Path;

use super::Level;
use super::exit::ExitCode;
use super::output::Output;
use super::render::{self, Down};
use crate::clock::{Clock, rfc3339};
use crate::core::reason::{Fault, printable};
use crate::socket::client::{Client, Error};
use crate::socket::document::Document;
use crate::socket::publish::{self, LastKnown};
use crate::socket::{socket_path, status_path};
use crate::tailscaled::types::Status;

/// Shows whether this machine is on the tailnet, as what, and what is wrong if not
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Print the status document instead
    #[arg(long)]
    pub json: bool,
    /// Print again whenever something changes; with --json, one document a line
    #[arg(long, conflicts_with = "check")]
    pub watch: bool,
    /// Print one line, and exit 0 when the node is this far, else 1
    #[arg(long, value_name = "LEVEL")]
    pub check: Option<Level>,
}

/// Runs the command against the agent of `runtime`; `daemon` asks tailscaled itself and is only called when the agent is down.
pub async fn run(
    args: &Args,
    runtime: &Path,
    clock: &dyn Clock,
    daemon: impl AsyncFnOnce() -> Option<Result<Status, Fault>>,
    output: &mut Output<'_>,
) -> ExitCode {
    let result = match ask(args, runtime, clock, output).await {
        Ok(code) => Ok(code),
        Err(Failure::Output(error)) => Err(error),
        Err(Failure::Agent(error)) if error.is_down() => fall_back(args, runtime, clock, daemon, &error, output).await,
        Err(Failure::Agent(error)) => output.complain(&error).map(|()| ExitCode::from(&error)),
    };
    output.ended(result)
}

/// What can go wrong while the agent answers.
enum Failure {
    Agent(Error),
    Output(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Agent(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

async fn ask(args: &Args, runtime: &Path, clock: &dyn Clock, output: &mut Output<'_>) -> Result<ExitCode, Failure> {
    let client = Client::new(&socket_path(runtime))?;
    if args.watch {
        return follow(args, &client, clock, output).await;
    }
    let document = client.status().await?;
    match args.check {
        Some(level) => Ok(check(level, args, &document, output)?),
        None => {
            show(args, &document, clock, output)?;
            Ok(ExitCode::Fine)
        }
    }
}

fn check(level: Level, args: &Args, document: &Document, output: &mut Output<'_>) -> io::Result<ExitCode> {
    match args.json {
        true => output.answer(pretty(document))?,
        false => output.answer(format_args!("{}\n", render::in_one_line(document)))?,
    }
    Ok(if level.is_reached(document) { ExitCode::Fine } else { ExitCode::No })
}

fn show(args: &Args, document: &Document, clock: &dyn Clock, output: &mut Output<'_>) -> io::Result<()> {
    match args.json {
        true => output.answer(pretty(document)),
        false => output.answer(render::status(document, clock.now(), output.colour)),
    }
}

/// Clears a terminal and puts the cursor at its top (ECMA-48 §8.3.39, §8.3.21), so that the status stands still.
const CLEAR: &str = "\x1b[2J\x1b[H";

async fn follow(args: &Args, client: &Client, clock: &dyn Clock, output: &mut Output<'_>) -> Result<ExitCode, Failure> {
    let mut watch = client.watch().await?;
    let mut between = "";
    while let Some(document) = watch.next().await? {
        if args.json {
            output.answer(format_args!("{}\n", serde_json::to_string(&document).map_err(io::Error::other)?))?;
            continue;
        }
        let page = render::status(&document, clock.now(), output.colour);
        let before = if output.terminal { CLEAR } else { between };
        output.answer(format_args!("{before}{page}"))?;
        between = "\n";
    }
    output.talk("the agent has ended the watch")?;
    Ok(ExitCode::Unavailable)
}

/// Says what is known without the agent; always [`ExitCode::Unavailable`].
async fn fall_back(
    args: &Args,
    runtime: &Path,
    clock: &dyn Clock,
    daemon: impl AsyncFnOnce() -> Option<Result<Status, Fault>>,
    error: &Error,
    output: &mut Output<'_>,
) -> io::Result<ExitCode> {
    output.complain(error)?;
    let daemon = daemon().await;
    let known = match publish::read(&status_path(runtime)) {
        Ok(known) => Some(known),
        Err(unread) => output.complain(&unread).map(|()| None)?,
    };
    match (&known, args.json) {
        (Some(known), true) => output.answer(last_known_json(known, daemon.as_ref(), args.watch)?)?,
        (None, true) => {}
        (known, false) => {
            let now = clock.now().real;
            output.answer(render::down(how(error), known.as_ref(), daemon.as_ref(), now, output.colour))?;
        }
    }
    Ok(ExitCode::Unavailable)
}

fn how(error: &Error) -> Down {
    match error {
        Error::Absent { .. } | Error::Refused { .. } => Down::NotRunning,
        _ => Down::Silent,
    }
}

fn pretty(document: &Document) -> String {
    format!("{:#}\n", serde_json::json!(document))
}

/// The last document with a mark that it is one: `last_known`, which a running agent's document never has. In a watch it is a line too.
fn last_known_json(known: &LastKnown, daemon: Option<&Result<Status, Fault>>, line: bool) -> io::Result<String> {
    let mut document = serde_json::to_value(&known.document).map_err(io::Error::other)?;
    document["last_known"] = serde_json::json!({
        "written_at": rfc3339(known.written),
        "tailscaled": daemon.map(daemon_json),
    });
    Ok(if line { format!("{document}\n") } else { format!("{document:#}\n") })
}

fn daemon_json(daemon: &Result<Status, Fault>) -> serde_json::Value {
    match daemon {
        Ok(status) => serde_json::json!({
            "backend_state": printable(&status.backend_state, 100),
            "online": status.node.online,
        }),
        Err(fault) => serde_json::json!({ "code": fault.code, "detail": fault.detail }),
    }
}

#[cfg(test)]
mod tests;
