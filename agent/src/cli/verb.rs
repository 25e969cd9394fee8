//! `refresh`, `rejoin`, `leave`: asks of the agent.

use std::path::Path;

use super::exit::ExitCode;
use super::output::Output;
use crate::socket::client::{Client, Error};
use crate::socket::{Verb, socket_path};

/// Asks the agent of `runtime` for `verb`; prints one line about what happens now.
pub async fn run(verb: Verb, runtime: &Path, output: &mut Output<'_>) -> ExitCode {
    let result = match ask(verb, &socket_path(runtime)).await {
        Ok(()) => output.answer(format_args!("{}\n", sentence(verb))).map(|()| ExitCode::Fine),
        Err(error) => output.complain(&error).map(|()| ExitCode::from(&error)),
    };
    output.ended(result)
}

async fn ask(verb: Verb, socket: &Path) -> Result<(), Error> {
    Client::new(socket)?.ask(verb).await
}

fn sentence(verb: Verb) -> &'static str {
    match verb {
        Verb::Refresh => "reading configuration and metadata now",
        Verb::Rejoin => "joining the tailnet; devbox-agent wait-online waits until it is done",
        Verb::Leave => "leaving the tailnet, until devbox-agent rejoin",
    }
}

#[cfg(test)]
mod tests;
