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
use crate::privilege::helper::{
    GATE, Helper, HelperEdges, Hostnamed, JOURNALCTL, Journal, PRIVATE_SOCKET, Pid1, Pid1Edges, Policy, ReadPolicy,
    SYSTEM_BUS, UNIT_FOLDERS, serve,
};
use crate::sys::{dumpable, listener};
use crate::systemd::HOSTNAME_FILE;
use crate::tailscaled::{LOGOUT_DEADLINE, LocalApiClient};

/// The user that the agent runs as, and the only one that is served.
const USER: &str = "devbox-agent";

/// Serves the agent until it has asked for nothing for a while; the socket starts it again.
///
/// What may be asked for is read from `sources` for each request. The unit, its socket and its state take effect with a restart of the agent, and
/// stay what `settings` say for as long as this process lives.
pub async fn run(settings: &Settings, sources: Sources, output: &mut Output<'_>) -> ExitCode {
    // The level stays: this process ends long before anybody changes it.
    let _set_log_level = logging::start(&settings.log_level, std::env::var("JOURNAL_STREAM").ok().as_deref());
    let result = match serve_agent(settings, sources).await {
        Ok(()) => Ok(ExitCode::Fine),
        Err(error) => output.talk(format_args!("{error:#}")).map(|()| ExitCode::No),
    };
    output.ended(result)
}

async fn serve_agent(settings: &Settings, sources: Sources) -> anyhow::Result<()> {
    dumpable::forbid().context("failed to forbid core dumps")?;
    let mut stop = signal(SignalKind::terminate()).context("failed to watch for signals")?;
    let listener = listener::passed().context("failed to serve: devbox-agent-helper.socket starts this verb")?;
    let listener = UnixListener::from_std(listener).context("failed to serve the socket that was passed")?;
    let user = User::from_name(USER).context("failed to look up the user devbox-agent")?;
    let user = user.context("failed to find the user devbox-agent: run systemd-sysusers")?;
    let read_policy: ReadPolicy = Box::new(move || config::load(&sources).map(|loaded| Policy::from(&loaded.settings)));
    let helper = Helper::new(read_policy, edges(settings)?);
    let stopped = async move {
        stop.recv().await;
    };
    serve(listener, Arc::new(helper), user.uid.as_raw(), stopped).await;
    Ok(())
}

fn edges(settings: &Settings) -> anyhow::Result<HelperEdges> {
    let pid1 = Pid1Edges {
        socket: PRIVATE_SOCKET.into(),
        packaged: UNIT_FOLDERS.map(Into::into).to_vec(),
        journal: Journal::new(JOURNALCTL),
    };
    Ok(HelperEdges {
        tailscaled: Arc::new(LocalApiClient::new(&settings.daemon.socket, LOGOUT_DEADLINE)?),
        unit: Arc::new(Pid1::new(pid1, &settings.daemon.unit)),
        hostname: Arc::new(Hostnamed::new(HOSTNAME_FILE, SYSTEM_BUS)),
        state: settings.daemon.state.clone(),
        gate: GATE.into(),
        clock: Arc::new(SystemClock),
    })
}
