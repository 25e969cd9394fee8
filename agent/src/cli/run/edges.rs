//! The real edges, made from settings.

use std::ffi::OsString;
use std::sync::Arc;

use super::metadata::channel;
use super::service::SdNotify;
use crate::clock::Clock;
use crate::config::settings::{ProviderSettings, SupervisorKind, TokenSource};
use crate::config::{Settings, Sources};
use crate::core::edges::Edges;
use crate::federation::Federation;
use crate::federation::api::{Api, ApiSettings, DEADLINE};
use crate::identity::store::FileStore;
use crate::metadata::Metadata;
use crate::privilege::{self, HelperClient};
use crate::report::{HttpSink, Sink};
use crate::systemd::{Alone, HOSTNAME_FILE, Host, SystemBus, SystemdHost, Units};
use crate::tailscaled::child::ChildSupervisor;
use crate::tailscaled::unit::UnitSupervisor;
use crate::tailscaled::{HelpedApi, LOGOUT_DEADLINE, LocalApi, LocalApiClient, Supervisor};

/// Everything outside, and where reports go.
#[derive(Clone)]
pub(super) struct Outside {
    pub edges: Edges,
    pub reports: Option<Arc<dyn Sink>>,
}

/// Makes every edge; nothing is sent or started yet.
pub(super) fn outside(settings: &Settings, sources: &Sources, clock: &Arc<dyn Clock>) -> anyhow::Result<Outside> {
    let (metadata, reports) = metadata(settings, clock)?;
    let Machine { tailscaled, supervisor, host } = machine(settings)?;
    let edges = Edges {
        metadata,
        federation: federation(settings, clock),
        tailscaled,
        supervisor,
        host,
        store: Arc::new(FileStore::new(&settings.paths.state, sources.uid)),
        clock: clock.clone(),
        service: Arc::new(SdNotify),
    };
    Ok(Outside { edges, reports })
}

/// Makes the edges that configuration decides anew; tailscaled, the record and the clock stay what they are, and so does what a provider has read
/// that can be read once, such as a token's descriptor.
pub(super) fn reconfigured(settings: &Settings, before: &Settings, edges: &Edges) -> anyhow::Result<Edges> {
    let same = settings.metadata == before.metadata && settings.tailnet == before.tailnet;
    let metadata = if same { edges.metadata.clone() } else { metadata(settings, &edges.clock)?.0 };
    Ok(Edges { metadata, federation: federation(settings, &edges.clock), ..edges.clone() })
}

/// The metadata provider as far as configuration lends it.
pub(super) fn lent(settings: &Settings, edges: &Edges) -> Option<Arc<dyn Metadata>> {
    settings.exec.lend_credential.then(|| edges.metadata.clone())
}

/// The metadata provider alone, for verbs that look without running anything.
pub(in crate::cli) fn provider(settings: &Settings, clock: &Arc<dyn Clock>) -> anyhow::Result<Arc<dyn Metadata>> {
    metadata(settings, clock).map(|(provider, _)| provider)
}

/// Exchange and mint alone.
pub(in crate::cli) fn federation(settings: &Settings, clock: &Arc<dyn Clock>) -> Arc<dyn Federation> {
    Arc::new(Api::new(ApiSettings {
        url: settings.tailnet.api_url.clone(),
        proxy: settings.tailnet.proxy.clone(),
        deadline: DEADLINE,
        clock: clock.clone(),
    }))
}

/// What the supervisor decides: with a child the agent does everything itself, under systemd the helper does what needs root.
struct Machine {
    tailscaled: Arc<dyn LocalApi>,
    supervisor: Arc<dyn Supervisor>,
    host: Arc<dyn Host>,
}

fn machine(settings: &Settings) -> anyhow::Result<Machine> {
    let daemon = &settings.daemon;
    let local = LocalApiClient::new(&daemon.socket, LOGOUT_DEADLINE)?;
    Ok(match daemon.supervisor {
        SupervisorKind::Child => Machine {
            tailscaled: Arc::new(local),
            supervisor: Arc::new(ChildSupervisor::new(
                daemon.clone(),
                settings.paths.runtime.clone(),
                inherited(settings),
            )),
            host: Arc::new(Alone),
        },
        SupervisorKind::Systemd => {
            let helper = Arc::new(HelperClient::new(privilege::SOCKET));
            let bus = Arc::new(SystemBus::default());
            let (unit, units) = (daemon.unit.clone(), Units::new(bus.clone()));
            Machine {
                tailscaled: Arc::new(HelpedApi::new(local, helper.clone())),
                supervisor: Arc::new(UnitSupervisor::new(unit, daemon.socket.clone(), helper.clone(), units)),
                host: Arc::new(SystemdHost::new(bus, helper, HOSTNAME_FILE.into())),
            }
        }
    })
}

/// The agent's environment for tailscaled, without the variables that hold a workload token or what fetches one.
fn inherited(settings: &Settings) -> Vec<(OsString, OsString)> {
    let secret = |name: &OsString| name.to_str().is_some_and(|name| settings.metadata.provider.keeps(name));
    let given = std::env::vars_os().filter(|(name, _)| !secret(name));
    given.chain(settings.tailnet.proxy_variables()).collect()
}

/// The variable that holds the workload token, if one does: it is this program's, and not for those that it starts.
pub(in crate::cli) fn token_variable(settings: &Settings) -> Option<&str> {
    match &settings.metadata.provider {
        ProviderSettings::File { token: TokenSource::Environment(name), .. } => Some(name),
        _ => None,
    }
}

type Provider = (Arc<dyn Metadata>, Option<Arc<dyn Sink>>);

/// The provider, and the sink: the one that configuration names, else the devbox provider's own.
fn metadata(settings: &Settings, clock: &Arc<dyn Clock>) -> anyhow::Result<Provider> {
    // The secret is the metadata endpoint's, and nobody else's.
    let named = settings.report.endpoint.as_ref().map(|endpoint| channel(endpoint, None, clock)).transpose()?;
    let (provider, own) = super::metadata::provider(settings, clock)?;
    let sink = named.or(own).map(|channel| Arc::new(HttpSink::new(channel)) as Arc<dyn Sink>);
    Ok((provider, sink))
}
