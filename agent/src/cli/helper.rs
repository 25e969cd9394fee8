//! `helper`: what needs root, for the agent alone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::unistd::User;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use super::exit::ExitCode;
use super::logging;
use super::output::Output;
use crate::clock::SystemClock;
use crate::config::Settings;
use crate::privilege::helper::{
    GATE, HOSTNAME_FILE, Helper, HelperEdges, Hostnamed, PRIVATE_SOCKET, Pid1, Policy, SYSTEM_BUS, serve,
};
use crate::sys::{dumpable, listener};
use crate::tailscaled::LocalApiClient;

/// The user that the agent runs as, and the only one that is served.
const USER: &str = "devbox-agent";

/// How long control may take to confirm a logout; as much as the verb may.
const LOGOUT_DEADLINE: Duration = Duration::from_secs(5);

/// Serves the agent until it has asked for nothing for a while; the socket starts it again.
pub async fn run(settings: &Settings, output: &mut Output<'_>) -> ExitCode {
    // The level stays: this process ends long before anybody changes it.
    let _set_log_level = logging::start(&settings.log_level, std::env::var("JOURNAL_STREAM").ok().as_deref());
    let result = match serve_agent(settings).await {
        Ok(()) => Ok(ExitCode::Fine),
        Err(error) => output.talk(format_args!("{error:#}")).map(|()| ExitCode::No),
    };
    output.ended(result)
}

async fn serve_agent(settings: &Settings) -> anyhow::Result<()> {
    dumpable::forbid().context("failed to forbid core dumps")?;
    let mut stop = signal(SignalKind::terminate()).context("failed to watch for signals")?;
    let listener = listener::passed().context("failed to serve: devbox-agent-helper.socket starts this verb")?;
    let listener = UnixListener::from_std(listener).context("failed to serve the socket that was passed")?;
    let user = User::from_name(USER).context("failed to look up the user devbox-agent")?;
    let user = user.context("failed to find the user devbox-agent: run systemd-sysusers")?;
    let helper = Helper::new(Policy::from(settings), edges(settings)?);
    let stopped = async move {
        stop.recv().await;
    };
    serve(listener, Arc::new(helper), user.uid.as_raw(), stopped).await.context("failed to serve the helper's socket")
}

fn edges(settings: &Settings) -> anyhow::Result<HelperEdges> {
    Ok(HelperEdges {
        tailscaled: Arc::new(LocalApiClient::new(&settings.daemon.socket, LOGOUT_DEADLINE)?),
        unit: Arc::new(Pid1::new(PRIVATE_SOCKET, &settings.daemon.unit)),
        hostname: Arc::new(Hostnamed::new(HOSTNAME_FILE, SYSTEM_BUS)),
        state: settings.daemon.state.clone(),
        gate: GATE.into(),
        clock: Arc::new(SystemClock),
    })
}
