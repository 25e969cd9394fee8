//! What the agent runs with: every value valid and typed.

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;

use reqwest::Url;
use tracing_subscriber::filter::Targets;

use super::values::literal;
use crate::metadata::spec::Lifecycle;
use crate::metadata::{github, namespace};

/// Everything that configuration decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `[metadata]`.
    pub metadata: MetadataSettings,
    /// `[tailnet]`.
    pub tailnet: TailnetSettings,
    /// `[daemon]`.
    pub daemon: DaemonSettings,
    /// `[identity]`.
    pub identity: IdentitySettings,
    /// `[hostname]`.
    pub hostname: HostnameSettings,
    /// `[report]`.
    pub report: ReportSettings,
    /// `[exec]`.
    pub exec: ExecSettings,
    /// `[paths]`.
    pub paths: Paths,
    /// `[log] level`: levels by module.
    pub log_level: Targets,
}

/// Where the spec and the token come from.
#[derive(Clone, Debug, PartialEq)]
pub struct MetadataSettings {
    /// Which provider.
    pub provider: ProviderSettings,
    /// The fields that the spec may decide.
    pub may_set: Vec<SpecField>,
}

/// Who says what the machine is and gives it tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderKind {
    /// The platform's own endpoint.
    Devbox,
    /// Namespace's IAM.
    Namespace,
    /// GitHub's token service.
    GithubActions,
    /// Google's metadata server.
    Gce,
    /// Azure's instance metadata service.
    Azure,
    /// Something else that keeps a token fresh.
    File,
    /// The agent that runs on this machine; for `exec` alone.
    Agent,
}

impl ProviderKind {
    /// Each with its name in configuration.
    pub const NAMES: &[(&str, Self)] = &[
        ("devbox", Self::Devbox),
        ("namespace", Self::Namespace),
        ("github-actions", Self::GithubActions),
        ("gce", Self::Gce),
        ("azure", Self::Azure),
        ("file", Self::File),
        ("agent", Self::Agent),
    ];

    /// The name as configuration spells it.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// A provider and what it needs.
#[derive(Clone, Debug, PartialEq)]
pub enum ProviderSettings {
    /// The native protocol at this endpoint: `http` to an IP literal, `https` to a name, or `unix:/path`.
    Devbox {
        /// The endpoint.
        endpoint: Endpoint,
        /// What is shown to it; never over plain `http`.
        bearer: Option<SecretFile>,
    },
    /// A job of GitHub Actions, by its environment; the spec comes from configuration.
    GithubActions {
        /// `instance.id`; else made of the job's run, name and runner.
        instance: Option<String>,
    },
    /// A machine of Namespace's, with an integration of its workspace for a spec.
    Namespace {
        /// The integration's name; else `default`.
        integration: Option<String>,
        /// `instance.id`; else the metadata service's, else the machine id.
        instance: Option<String>,
    },
    /// A VM of Google Compute Engine, with an attribute for a spec.
    Gce {
        /// The metadata server.
        endpoint: Endpoint,
        /// The service account; else the VM's default one.
        identity: Option<String>,
    },
    /// A VM of Azure; the spec comes from configuration.
    Azure {
        /// The instance metadata service.
        endpoint: Endpoint,
        /// The client id of the managed identity; else the VM's only one.
        identity: Option<String>,
        /// `instance.id`; else the VM's id.
        instance: Option<String>,
    },
    /// A token that something else keeps fresh; the spec comes from configuration.
    File {
        /// Where the token is.
        token: TokenSource,
        /// `instance.id`; else the machine id.
        instance: Option<String>,
    },
    /// The agent that runs on this machine, which lends its spec and its tokens.
    Agent {
        /// Where that agent may ask: nothing that `exec` runs is to reach it.
        endpoint: Endpoint,
    },
}

impl ProviderSettings {
    /// The address of the metadata endpoint, where configuration names one.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Devbox { endpoint, .. }
            | Self::Gce { endpoint, .. }
            | Self::Azure { endpoint, .. }
            | Self::Agent { endpoint } => endpoint.address(),
            Self::GithubActions { .. } | Self::Namespace { .. } | Self::File { .. } => None,
        }
    }

    /// Whether a variable of the environment is for this agent alone, since it holds a token or what fetches one.
    pub fn keeps(&self, variable: &str) -> bool {
        match self {
            Self::File { token: TokenSource::Environment(name), .. } => name == variable,
            Self::GithubActions { .. } => [github::URL, github::TOKEN].contains(&variable),
            Self::Namespace { .. } => variable == namespace::SPEC,
            Self::Devbox { .. } | Self::Gce { .. } | Self::Azure { .. } | Self::File { .. } | Self::Agent { .. } => {
                false
            }
        }
    }
}

/// Where an HTTP service is.
#[derive(Clone, Debug, PartialEq)]
pub enum Endpoint {
    /// A URL without path.
    Url(Url),
    /// A unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// The URL that requests to it begin with, and the socket that they all go to if it is one.
    pub fn parts(&self) -> (Url, Option<PathBuf>) {
        match self {
            Self::Url(url) => (url.clone(), None),
            Self::Unix(path) => (localhost(), Some(path.clone())),
        }
    }

    fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Url(url) => literal(url),
            Self::Unix(_) => None,
        }
    }
}

fn localhost() -> Url {
    Url::parse("http://localhost").unwrap_or_else(|_| unreachable!("a constant URL parses"))
}

/// Where a secret is that configuration only names; read anew each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretFile {
    /// `/path`.
    Path(PathBuf),
    /// `credential:NAME`: what systemd passed to the agent's unit under this name.
    Credential(String),
}

/// Where the `file` provider's token is; read anew each time, but for a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// `token = "/path"` or `token = "credential:NAME"`.
    File(SecretFile),
    /// `token = "env:NAME"`.
    Environment(String),
    /// `token = "fd:N"`: read once, since a pipe gives it once.
    Descriptor(RawFd),
    /// `command = [argv]`: prints a JWT for the audience in its last argument.
    Command(Vec<String>),
}

/// A field of the spec's `tailnet` that `may_set` can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpecField {
    /// `client_id`
    ClientId,
    /// `tags`
    Tags,
    /// `hostname`
    Hostname,
    /// `lifecycle`
    Lifecycle,
    /// `accept_dns`
    AcceptDns,
    /// `accept_routes`
    AcceptRoutes,
    /// `ssh`
    Ssh,
}

/// The tailnet, and what of the node configuration decides instead of the spec.
#[derive(Clone, Debug, PartialEq)]
pub struct TailnetSettings {
    /// Where the node is registered.
    pub control_url: Url,
    /// Where exchange and mint go.
    pub api_url: Url,
    /// A proxy for the latter, and for a tailscaled that the agent starts; never taken from the environment.
    pub proxy: Option<Url>,
    /// How long an admin's `down` is respected.
    pub respect_down: RespectDown,
    /// What to do when somebody logged the node out.
    pub after_logout: AfterLogout,
    /// Set here, they win over the spec.
    pub client_id: Option<String>,
    /// See [`Self::client_id`].
    pub tags: Option<Vec<String>>,
    /// See [`Self::client_id`].
    pub hostname: Option<String>,
    /// See [`Self::client_id`].
    pub lifecycle: Option<Lifecycle>,
    /// See [`Self::client_id`].
    pub accept_dns: Option<bool>,
    /// See [`Self::client_id`].
    pub accept_routes: Option<bool>,
    /// See [`Self::client_id`].
    pub ssh: Option<bool>,
}

impl TailnetSettings {
    /// The proxy as the environment of a tailscaled that the agent starts has it; the first is for `https`, as Go's `httpproxy` reads them.
    pub fn proxy_variables(&self) -> impl Iterator<Item = (OsString, OsString)> {
        let proxy = self.proxy.as_ref().map(|proxy| OsString::from(proxy.as_str()));
        ["HTTPS_PROXY", "HTTP_PROXY"].into_iter().filter_map(move |name| Some((name.into(), proxy.clone()?)))
    }
}

/// How long an admin's `down` is respected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RespectDown {
    /// Until `up`, `rejoin` or the next boot.
    Boot,
    /// Until `up` or `rejoin`.
    Always,
    /// Not at all.
    Never,
}

/// What to do when somebody logged the node out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterLogout {
    /// Join again.
    Rejoin,
    /// Stay logged out until `rejoin`.
    Stay,
}

/// How tailscaled is run.
#[derive(Clone, Debug, PartialEq)]
pub struct DaemonSettings {
    /// Which supervisor.
    pub supervisor: SupervisorKind,
    /// tailscaled's unit, under systemd.
    pub unit: String,
    /// The LocalAPI socket.
    pub socket: PathBuf,
    /// The program: a path, or a name looked up in PATH.
    pub binary: PathBuf,
    /// tailscaled's `--statedir`.
    pub state: PathBuf,
    /// tailscaled's `--tun`.
    pub tun: String,
    /// tailscaled's `--port`; 0 lets the kernel choose.
    pub port: u16,
    /// The oldest version that is driven, as (major, minor).
    pub min_version: (u32, u32),
    /// Ask the network's router for port mappings (PCP, UPnP).
    pub port_mapping: bool,
}

/// Who starts and stops tailscaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupervisorKind {
    /// systemd, as a unit: it outlives the agent.
    Systemd,
    /// The agent itself, as a child process.
    Child,
}

/// Whose node tailscaled may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentitySettings {
    /// What to do with a node that this agent did not make.
    pub foreign: Foreign,
}

/// What to do with a node that this agent did not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Leave it alone, and say so.
    Refuse,
    /// Make it this machine's: it authenticates anew.
    Adopt,
}

/// The name of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostnameSettings {
    /// Whether the machine gets the node's name too.
    pub system: bool,
}

/// Reports to the platform.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportSettings {
    /// Whether any are sent.
    pub enabled: bool,
    /// Where to; the devbox provider's own endpoint when none is given.
    pub endpoint: Option<Endpoint>,
}

/// What `exec` may have of the agent that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecSettings {
    /// Whether those who may command the agent may use its credential.
    pub lend_credential: bool,
}

/// The agent's own directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// `state.json` and its lock; mode 0700.
    pub state: PathBuf,
    /// `agent.sock` and `status.json`.
    pub runtime: PathBuf,
}
