//! What the command line says, and who carries it out.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::exit::ExitCode;
use super::output::{Output, colour};
use super::{config, exec, helper, logging, run, status, token, verb, wait_online};
use crate::clock::SystemClock;
use crate::config::{Settings, Sources, load, load_for_agent};
use crate::socket::Verb;
use crate::tailscaled::{LocalApi, LocalApiClient};

/// Puts this machine on its owner's tailnet and keeps it there
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// Read drop-ins (*.toml) from DIR instead of /usr/lib, /run and /etc/devbox-agent/config.d; may be repeated, later ones win
    #[arg(long = "config-dir", value_name = "DIR", global = true)]
    config_dirs: Vec<PathBuf>,
    /// Override a key of the configuration, such as --set log.level=debug
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", global = true)]
    overrides: Vec<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent; systemd or a container's init starts it
    Run,
    Status(status::Args),
    WaitOnline(wait_online::Args),
    /// Read configuration and metadata now, and try again at once what waits for its next try
    Refresh,
    /// Be on the tailnet: join, or authenticate again; also ends `tailscale down` and `leave`
    Rejoin,
    /// Leave the tailnet and stay away until `rejoin`
    Leave,
    Exec(Box<exec::Args>),
    /// Fetch a workload token and print its claims; the token itself is never printed
    Token,
    /// Do what needs root, for the agent alone; started by devbox-agent-helper.socket
    #[command(hide = true)]
    Helper,
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the effective value of every key and where it came from
    Show,
    /// Exit 78 and say everything that is wrong, if anything is
    Check,
}

impl Command {
    /// Whether it only speaks with the agent that runs: then it must work also when configuration is what somebody is mending.
    fn asks_the_agent(&self) -> bool {
        matches!(self, Self::Status(_) | Self::WaitOnline(_) | Self::Refresh | Self::Rejoin | Self::Leave)
    }
}

impl Cli {
    fn sources(&self) -> Sources {
        let mut sources = Sources::installed(self.overrides.clone(), nix::unistd::Uid::effective().as_raw());
        if !self.config_dirs.is_empty() {
            sources.dirs.clone_from(&self.config_dirs);
        }
        sources
    }
}

/// Carries the command out, and gives the number that the process ends with.
pub fn dispatch(cli: Cli) -> u8 {
    match cli.command {
        Command::Exec(_) => execute(cli),
        _ => carry_out_here(&cli).number(),
    }
}

/// Divides this process before anything of it has a thread.
fn execute(cli: Cli) -> u8 {
    let mut sources = cli.sources();
    let Command::Exec(args) = cli.command else { return ExitCode::Usage.number() };
    match exec::configure(&args, &mut sources) {
        Ok(loaded) => exec::run(*args, loaded),
        Err(error) => {
            eprintln!("devbox-agent exec: {error}");
            exec::FAILED
        }
    }
}

fn carry_out_here(cli: &Cli) -> ExitCode {
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let terminal = out.is_terminal();
    let colour = colour(terminal, std::env::var_os("NO_COLOR").as_deref());
    let mut output = Output { out: &mut out, err: &mut err, terminal, colour };
    let sources = cli.sources();
    if let Command::Config(command) = &cli.command {
        return configuration(command, &sources, &mut output);
    }
    if let Command::Helper = &cli.command {
        return block_on(helper::run(sources, &mut output));
    }
    let load = if matches!(cli.command, Command::Run) { load_for_agent } else { load };
    match load(&sources) {
        Ok(loaded) => block_on(carry_out(&cli.command, loaded.settings, sources, &mut output)),
        Err(errors) if cli.command.asks_the_agent() => {
            let said = output.talk(format_args!("the configuration on disk cannot be used\n{errors}"));
            // The agent that runs has another one in force, and where it listens is rarely configured.
            match (said, load(&sources.without_files())) {
                (Ok(()), Ok(loaded)) => block_on(carry_out(&cli.command, loaded.settings, sources, &mut output)),
                (said, _) => output.ended(said.map(|()| ExitCode::Configuration)),
            }
        }
        Err(errors) => {
            let result = output.talk(format_args!("the configuration cannot be used\n{errors}"));
            output.ended(result.map(|()| ExitCode::Configuration))
        }
    }
}

fn configuration(command: &ConfigCommand, sources: &Sources, output: &mut Output<'_>) -> ExitCode {
    let result = match command {
        ConfigCommand::Show => config::show(sources, &mut output.out),
        ConfigCommand::Check => config::check(sources),
    };
    let said = match result {
        Ok(()) => Ok(ExitCode::Fine),
        Err(config::Error::Output(error)) => Err(error),
        Err(config::Error::Invalid(errors)) => writeln!(output.err, "{errors}").map(|()| ExitCode::Configuration),
    };
    output.ended(said)
}

fn block_on<F: Future<Output = ExitCode>>(future: F) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(future),
        Err(error) => {
            eprintln!("devbox-agent: failed to start the event loop: {error}");
            ExitCode::No
        }
    }
}

async fn carry_out(command: &Command, settings: Settings, sources: Sources, output: &mut Output<'_>) -> ExitCode {
    let runtime = settings.paths.runtime.clone();
    match command {
        Command::Run => return agent(settings, sources, output).await,
        Command::Status(args) => {
            let daemon = async || Some(LocalApiClient::new(&settings.daemon.socket, LOOK).ok()?.status().await);
            status::run(args, &runtime, &SystemClock, daemon, output).await
        }
        Command::WaitOnline(args) => wait_online::run(args, &runtime, output).await,
        Command::Refresh => verb::run(Verb::Refresh, &runtime, output).await,
        Command::Rejoin => verb::run(Verb::Rejoin, &runtime, output).await,
        Command::Leave => verb::run(Verb::Leave, &runtime, output).await,
        Command::Token => token::run(&settings, output).await,
        Command::Config(_) | Command::Exec(_) | Command::Helper => ExitCode::Usage,
    }
}

/// A client that only looks never logs out, so this bounds nothing.
const LOOK: std::time::Duration = std::time::Duration::from_secs(3);

async fn agent(settings: Settings, sources: Sources, output: &mut Output<'_>) -> ExitCode {
    let set_log_level = logging::start(&settings.log_level, std::env::var("JOURNAL_STREAM").ok().as_deref());
    if let Err(error) = crate::sys::dumpable::forbid() {
        tracing::warn!("core dumps are not forbidden: {error}");
    }
    let result = match run::run(settings, sources, set_log_level).await {
        Ok(()) => Ok(ExitCode::Fine),
        Err(error) => output.talk(format_args!("{error:#}")).map(|()| ExitCode::No),
    };
    output.ended(result)
}
