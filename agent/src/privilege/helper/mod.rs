//! The helper: root, without a network, asked over a socket by the agent's user alone.

mod connection;
pub mod hostnamed;
pub mod journal;
pub mod pid1;
mod private_bus;
mod server;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use serde::Serialize;

pub use self::hostnamed::{Hostnamed, StaticName};
pub use self::journal::Journal;
pub use self::pid1::{Pid1, Pid1Edges, Unit};
pub use self::server::serve;
use super::fields::{AuthKey, Label, NodePreferences};
use super::request::{Admission, Inspected, Request, UnitState};
use super::wire::Done;
use crate::clock::Clock;
use crate::config::settings::{Settings, SpecField};
use crate::config::{self, ConfigErrors};
use crate::core::reason::{Code, Fault, Reasoned};
use crate::tailscaled::{LocalApi, Preferences, stored_node};

/// PID 1's private socket.
pub const PRIVATE_SOCKET: &str = "/run/systemd/private";

/// While this file is there, tailscaled's unit does not start (its drop-in has a condition on it).
pub const GATE: &str = "/run/devbox-agent-gate/closed";

/// The system bus, by its fixed address: whoever set another in the environment is not the one to be trusted with the machine's name.
pub const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";

/// Where packages put units (systemd.unit(5)); an administrator's own are in /etc.
pub const UNIT_FOLDERS: [&str; 3] = ["/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// What reads the journal.
pub const JOURNALCTL: &str = "/usr/bin/journalctl";

/// tailscaled, where configuration says that it is.
#[derive(Clone)]
pub struct Tailscaled {
    /// Its API, as root.
    pub api: Arc<dyn LocalApi>,
    /// Its unit.
    pub unit: Arc<dyn Unit>,
    /// Its state directory.
    pub state: PathBuf,
}

/// Everything else outside, passed in.
#[derive(Clone)]
pub struct HelperEdges {
    /// The machine's name.
    pub hostname: Arc<dyn StaticName>,
    /// The file that keeps tailscaled from starting, [`GATE`].
    pub gate: PathBuf,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// What root's own configuration lets the agent's user ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Where the node is registered, whatever the caller wants.
    pub control_url: String,
    /// Whether Tailscale SSH may be switched on.
    pub ssh: bool,
    /// Whether the machine may be named.
    pub hostname: bool,
}

impl From<&Settings> for Policy {
    fn from(settings: &Settings) -> Self {
        let may_set = settings.metadata.may_set.contains(&SpecField::Ssh);
        Self {
            control_url: config::control_url(settings),
            ssh: settings.tailnet.ssh.unwrap_or(may_set),
            hostname: settings.hostname.system,
        }
    }
}

/// Why a request that is well formed is not carried out.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("Tailscale SSH is asked for; to allow it, set [tailnet] ssh = true or list \"ssh\" in [metadata] may_set")]
    Ssh,
    #[error("a host name is asked for; to allow it, set [hostname] system = true")]
    Hostname,
    #[error("the configuration, which says what is allowed, is wrong; see devbox-agent config check")]
    Configuration(#[source] ConfigErrors),
    #[error("failed to open tailscaled's gate {}; remove the file", path.display())]
    Gate { path: PathBuf, source: io::Error },
    #[error("failed to read tailscaled's state in {}: the reader ended", path.display())]
    Reader { path: PathBuf, source: tokio::task::JoinError },
}

impl Reasoned for Refused {
    fn code(&self) -> Code {
        match self {
            Self::Ssh | Self::Hostname | Self::Configuration(_) => Code::HelperDenied,
            Self::Gate { .. } => Code::GateStuck,
            Self::Reader { .. } => Code::HelperUnavailable,
        }
    }
}

/// What a verb brings.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Brought {
    Nothing(Done),
    Inspected(Inspected),
    Unit(UnitState),
}

/// Reads the policy as it is now: an agent that follows a changed configuration is not to be held to what it was before.
pub type ReadPolicy = Box<dyn Fn() -> Result<Policy, ConfigErrors> + Send + Sync>;

/// Finds tailscaled; until it can, a wrong configuration is what every request is answered with.
pub type FindTailscaled = Box<dyn Fn() -> Result<Tailscaled, Fault> + Send + Sync>;

/// Carries requests out.
pub struct Helper {
    read_policy: ReadPolicy,
    find_tailscaled: FindTailscaled,
    tailscaled: OnceLock<Tailscaled>,
    edges: HelperEdges,
}

impl Helper {
    /// A helper that does by `edges` what the policy of the moment allows, to the tailscaled that is found first.
    pub fn new(read_policy: ReadPolicy, find_tailscaled: FindTailscaled, edges: HelperEdges) -> Self {
        Self { read_policy, find_tailscaled, tailscaled: OnceLock::new(), edges }
    }

    fn tailscaled(&self) -> Result<&Tailscaled, Fault> {
        if let Some(found) = self.tailscaled.get() {
            return Ok(found);
        }
        let found = (self.find_tailscaled)()?;
        Ok(self.tailscaled.get_or_init(|| found))
    }

    fn policy(&self) -> Result<Policy, Fault> {
        (self.read_policy)().map_err(unusable)
    }

    async fn carry_out(&self, request: Request) -> Result<Brought, Fault> {
        match request {
            Request::Inspect {} => self.inspect().await.map(Brought::Inspected),
            Request::Admit { admission } => self.admit(admission).await.map(Brought::Unit),
            Request::Stop {} => match self.tailscaled()?.unit.stop().await {
                Ok(state) => Ok(Brought::Unit(state)),
                Err(error) => Err(Fault::from(&error)),
            },
            Request::Hostname { name } => self.name(&name).await.map(nothing),
            Request::Login { preferences, key } => self.login(&preferences, &key).await.map(nothing),
            Request::Apply { preferences } => self.apply(&preferences).await.map(nothing),
            Request::Up {} => self.tailscaled()?.api.up().await.map(nothing),
            Request::Prove {} => self.tailscaled()?.api.prove().await.map(nothing),
            Request::Withdraw {} => self.tailscaled()?.api.withdraw().await.map(nothing),
            Request::Logout {} => self.tailscaled()?.api.logout().await.map(nothing),
        }
    }

    async fn inspect(&self) -> Result<Inspected, Fault> {
        let path = self.tailscaled()?.state.clone();
        let read = path.clone();
        // A disk that hangs must not keep the helper from everything else.
        match tokio::task::spawn_blocking(move || stored_node(&read)).await {
            Ok(Ok(stored_node)) => Ok(Inspected { stored_node }),
            Ok(Err(error)) => Err(Fault::from(&error)),
            Err(source) => Err(Fault::from(&Refused::Reader { path, source })),
        }
    }

    async fn admit(&self, admission: Admission) -> Result<UnitState, Fault> {
        match std::fs::remove_file(&self.edges.gate) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Fault::from(&Refused::Gate { path: self.edges.gate.clone(), source }));
            }
            _ => {}
        }
        self.tailscaled()?.unit.admit(admission).await.map_err(|error| Fault::from(&error))
    }

    async fn name(&self, name: &Label) -> Result<(), Fault> {
        if !self.policy()?.hostname {
            return Err(Fault::from(&Refused::Hostname));
        }
        self.edges.hostname.set(name).await.map_err(|error| Fault::from(&error))
    }

    async fn login(&self, preferences: &NodePreferences, key: &AuthKey) -> Result<(), Fault> {
        self.tailscaled()?.api.login(&self.allowed(preferences)?, key.secret()).await
    }

    async fn apply(&self, preferences: &NodePreferences) -> Result<(), Fault> {
        self.tailscaled()?.api.apply(&self.allowed(preferences)?).await
    }

    fn allowed(&self, preferences: &NodePreferences) -> Result<Preferences, Fault> {
        let policy = self.policy()?;
        if preferences.ssh && !policy.ssh {
            return Err(Fault::from(&Refused::Ssh));
        }
        Ok(preferences.with_control_url(&policy.control_url))
    }
}

/// What a request is answered with while the configuration cannot be used.
pub fn unusable(errors: ConfigErrors) -> Fault {
    Fault::from(&Refused::Configuration(errors))
}

fn nothing((): ()) -> Brought {
    Brought::Nothing(Done {})
}

#[cfg(test)]
mod tests;
