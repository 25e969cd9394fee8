//! The command line: one file a verb.

mod bench;
mod demo;
mod fuzz;
mod hidden;
mod package;
mod running;
mod sh;
mod test;
mod tools;
mod up;

use std::process::ExitCode;

use clap::Parser;

/// A platform in a box for devbox-agent: real tailscaled, real Headscale, machines made of namespaces.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Demo(demo::Demo),
    Test(test::Test),
    Bench(bench::Bench),
    Fuzz(fuzz::Fuzz),
    Package(package::Package),
    Up(up::Up),
    Sh(sh::Sh),
    Tools(tools::Tools),
    #[command(flatten)]
    Hidden(hidden::Hidden),
}

/// Runs the verb on the command line.
pub fn run() -> anyhow::Result<ExitCode> {
    match Cli::parse().verb {
        Verb::Demo(verb) => verb.run(),
        Verb::Test(verb) => verb.run(),
        Verb::Bench(verb) => verb.run(),
        Verb::Fuzz(verb) => verb.run(),
        Verb::Package(verb) => verb.run(),
        Verb::Up(verb) => verb.run(),
        Verb::Sh(verb) => verb.run(),
        Verb::Tools(verb) => verb.run(),
        Verb::Hidden(verb) => verb.run(),
    }
}
