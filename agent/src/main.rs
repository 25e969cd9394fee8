//! The agent's one binary: parse, carry out, exit.

use clap::Parser;
use devbox_agent::cli::{Cli, dispatch, exit::ExitCode};

fn main() -> std::process::ExitCode {
    match Cli::try_parse() {
        Ok(cli) => dispatch(cli).into(),
        Err(answer) => {
            // Help that nobody reads any more is no failure.
            let _ = answer.print();
            if answer.use_stderr() { ExitCode::Usage.into() } else { ExitCode::Fine.into() }
        }
    }
}
