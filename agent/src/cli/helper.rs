//! `helper`: what needs root, for the agent alone.

use std::sync::Arc;

use anyhow::Context;
use nix::unistd::User;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use super::exit::ExitCode;
use super::logging;
use super::output::Output;
use crate::clock::SystemClock;
use crate::config::{self, Settings, Sources};
use crate::core::reason::Fault;
use crate::privilege::helper::{
    FindTailscaled, GATE, Helper, HelperEdges, Hostnamed, JOURNALCTL, Journal, PRIVATE_SOCKET, Pid1, Pid1Edges, Policy,
    ReadPolicy, SYSTEM_BUS, Tailscaled, UNIT_FOLDERS, serve, unusable,
};
use crate::sys::{dumpable, listener};
use crate::systemd::HOSTNAME_FILE;
use crate::tailscaled::{LOGOUT_DEADLINE, LocalApiClient};

/// The user that the agent runs as, and the only one that is served.
const USER: &str = "devbox-agent";

/// Serves the agent until it has asked for nothing for a while; the socket starts it again.
///
/// What may be asked for is read from `sources` for each request. The unit, its socket and its state take effect with a restart of the agent, and
/// stay for as long as this process lives. A configuration that cannot be used is what requests are answered with: the agent that runs has
/// another one in force, and tells people.
pub async fn run(sources: Sources, output: &mut Output<'_>) -> ExitCode {
    let read = usable(&sources);
    let of_log = read.clone().or_else(|| usable(&Sources { overrides: Vec::new(), ..sources.without_files() }));
    // The level stays: this process ends long before anybody changes it.
    let _set_log_level =
        of_log.map(|settings| logging::start(&settings.log_level, std::env::var("JOURNAL_STREAM").ok().as_deref()));
    let result = match serve_agent(read, sources).await {
        Ok(()) => Ok(ExitCode::Fine),
        Err(error) => output.talk(format_args!("{error:#}")).map(|()| ExitCode::No),
    };
    output.ended(result)
}

/// The configuration, if it can be used; what is wrong with it is what each request is answered with.
fn usable(sources: &Sources) -> Option<Settings> {
    config::load(sources).ok().map(|loaded| loaded.settings)
}

async fn serve_agent(read: Option<Settings>, sources: Sources) -> anyhow::Result<()> {
    dumpable::forbid().context("failed to forbid core dumps")?;
    let mut stop = signal(SignalKind::terminate()).context("failed to watch for signals")?;
    let listener = listener::passed().context("failed to serve: devbox-agent-helper.socket starts this verb")?;
    let listener = UnixListener::from_std(listener).context("failed to serve the socket that was passed")?;
    let user = User::from_name(USER).context("failed to look up the user devbox-agent")?;
    let user = user.context("failed to find the user devbox-agent: run systemd-sysusers")?;
    let policies = sources.clone();
    let read_policy: ReadPolicy =
        Box::new(move || config::load(&policies).map(|loaded| Policy::from(&loaded.settings)));
    let find_tailscaled: FindTailscaled = Box::new(move || match &read {
        Some(settings) => tailscaled(settings),
        None => config::load(&sources).map_err(unusable).and_then(|loaded| tailscaled(&loaded.settings)),
    });
    let helper = Helper::new(read_policy, find_tailscaled, edges());
    let stopped = async move {
        stop.recv().await;
    };
    serve(listener, Arc::new(helper), user.uid.as_raw(), stopped).await;
    Ok(())
}

fn tailscaled(settings: &Settings) -> Result<Tailscaled, Fault> {
    let pid1 = Pid1Edges {
        socket: PRIVATE_SOCKET.into(),
        packaged: UNIT_FOLDERS.map(Into::into).to_vec(),
        journal: Journal::new(JOURNALCTL),
    };
    let api = LocalApiClient::new(&settings.daemon.socket, LOGOUT_DEADLINE).map_err(|error| Fault::from(&error))?;
    Ok(Tailscaled {
        api: Arc::new(api),
        unit: Arc::new(Pid1::new(pid1, &settings.daemon.unit)),
        state: settings.daemon.state.clone(),
    })
}

fn edges() -> HelperEdges {
    HelperEdges {
        hostname: Arc::new(Hostnamed::new(HOSTNAME_FILE, SYSTEM_BUS)),
        gate: GATE.into(),
        clock: Arc::new(SystemClock),
    }
}
