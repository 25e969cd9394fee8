//! The third stage: inputs checked and typed, with every problem said.

use super::inputs::Inputs;
use super::keys::Key;
use super::problem::{Origin, Problem};
use super::settings::{
    AfterLogout, DaemonSettings, Endpoint, ExecSettings, Foreign, HostnameSettings, IdentitySettings, MetadataSettings,
    Paths, ProviderKind, ProviderSettings, ReportSettings, RespectDown, Settings, SupervisorKind, TailnetSettings,
};
use super::values::{self, Checked};
use crate::metadata::spec::Lifecycle;

/// Makes settings of the merged inputs; `None` when anything was added to `problems`.
pub fn resolve(inputs: &Inputs, problems: &mut Vec<Problem>) -> Option<Settings> {
    let before = problems.len();
    let mut checker = Checker { inputs, problems };
    // Each section is checked even when an earlier one was bad; only then does `?` give up.
    let (metadata, tailnet) = (metadata(&mut checker), tailnet(&mut checker));
    let (daemon, report) = (daemon(&mut checker), report(&mut checker));
    let foreign = checker.value(Key::IdentityForeign, |value| values::one_of(value, FOREIGN));
    let system = checker.value(Key::HostnameSystem, values::flag);
    let lend_credential = checker.value(Key::ExecLendCredential, values::flag);
    let (paths, log_level) = (paths(&mut checker), checker.value(Key::LogLevel, values::log_level));
    if problems.len() > before {
        return None;
    }
    Some(Settings {
        metadata: metadata?,
        tailnet: tailnet?,
        daemon: daemon?,
        identity: IdentitySettings { foreign: foreign? },
        hostname: HostnameSettings { system: system? },
        report: report?,
        exec: ExecSettings { lend_credential: lend_credential? },
        paths: paths?,
        log_level: log_level?,
    })
}

struct Checker<'a> {
    inputs: &'a Inputs,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Checker<'a> {
    /// A key's typed value; `None` when it has no value, or a bad one, which is then a problem.
    fn value<T>(&mut self, key: Key, check: impl FnOnce(&'a toml::Value) -> Checked<T>) -> Option<T> {
        let input = self.inputs.get(key)?;
        match check(&input.value) {
            Ok(value) => Some(value),
            // A default is only bad when the directory that it is made of is, and that is said already.
            Err(_) if input.origin == Origin::Default => None,
            Err(found) => {
                self.problems.push(Problem::Value { origin: input.origin.clone(), key, found });
                None
            }
        }
    }

    fn is_set(&self, key: Key) -> bool {
        self.inputs.get(key).is_some()
    }

    fn conflict(&mut self, key: Key, conflict: impl Into<String>) {
        self.problems.push(Problem::Conflict { origin: self.inputs.origin(key), key, conflict: conflict.into() });
    }
}

fn metadata(checker: &mut Checker<'_>) -> Option<MetadataSettings> {
    let provider = checker.value(Key::MetadataProvider, |value| values::one_of(value, ProviderKind::NAMES));
    let may_set = checker.value(Key::MetadataMaySet, values::spec_fields);
    // Also what the chosen provider does not use is checked: it would be wrong on the day it is used.
    let endpoint = checker.value(Key::MetadataEndpoint, values::endpoint);
    let bearer = checker.value(Key::MetadataBearer, values::secret_file);
    let token = checker.value(Key::MetadataToken, values::token);
    let command = checker.value(Key::MetadataCommand, values::command);
    let instance = checker.value(Key::MetadataInstance, values::instance);
    let integration = checker.value(Key::MetadataIntegration, values::integration);
    let identity = checker.value(Key::MetadataIdentity, values::identity);
    let provider = match provider? {
        ProviderKind::Devbox => {
            let endpoint = endpoint?;
            check_bearer(checker, &endpoint);
            ProviderSettings::Devbox { endpoint, bearer }
        }
        ProviderKind::Namespace => ProviderSettings::Namespace { integration, instance },
        ProviderKind::GithubActions => {
            check_spec(checker, ProviderKind::GithubActions);
            ProviderSettings::GithubActions { instance }
        }
        ProviderKind::Gce => ProviderSettings::Gce { endpoint: endpoint?, identity },
        ProviderKind::Azure => {
            check_spec(checker, ProviderKind::Azure);
            ProviderSettings::Azure { endpoint: endpoint?, identity, instance }
        }
        ProviderKind::File => {
            check_file_provider(checker);
            check_spec(checker, ProviderKind::File);
            ProviderSettings::File { token: token.or(command)?, instance }
        }
        ProviderKind::Agent => ProviderSettings::Agent { endpoint: endpoint? },
    };
    Some(MetadataSettings { provider, may_set: may_set? })
}

/// A secret that everybody on the way can read is none.
fn check_bearer(checker: &mut Checker<'_>, endpoint: &Endpoint) {
    let plain = matches!(endpoint, Endpoint::Url(url) if url.scheme() != "https");
    if plain && checker.is_set(Key::MetadataBearer) {
        let set = checker.inputs.origin(Key::MetadataEndpoint);
        let conflict =
            format!("metadata.endpoint ({set}) is plain http, which would show the secret; use https or unix:");
        checker.conflict(Key::MetadataBearer, conflict);
    }
}

/// One source of the token, and no more.
fn check_file_provider(checker: &mut Checker<'_>) {
    match (checker.is_set(Key::MetadataToken), checker.is_set(Key::MetadataCommand)) {
        (true, true) => {
            let token = checker.inputs.origin(Key::MetadataToken);
            checker.conflict(
                Key::MetadataCommand,
                format!("metadata.token is set too, at {token}; remove one of the two"),
            );
        }
        (false, false) => checker.conflict(Key::MetadataProvider, "\"file\" needs metadata.token or metadata.command"),
        _ => {}
    }
}

/// What only configuration can say when there is no metadata document.
fn check_spec(checker: &mut Checker<'_>, provider: ProviderKind) {
    for key in [Key::TailnetClientId, Key::TailnetTags] {
        if !checker.is_set(key) {
            checker.conflict(Key::MetadataProvider, format!("\"{}\" needs {}", provider.as_str(), key.name()));
        }
    }
}

const RESPECT_DOWN: &[(&str, RespectDown)] =
    &[("boot", RespectDown::Boot), ("always", RespectDown::Always), ("never", RespectDown::Never)];

const AFTER_LOGOUT: &[(&str, AfterLogout)] = &[("rejoin", AfterLogout::Rejoin), ("stay", AfterLogout::Stay)];

const LIFECYCLES: &[(&str, Lifecycle)] = &[("persistent", Lifecycle::Persistent), ("ephemeral", Lifecycle::Ephemeral)];

fn tailnet(checker: &mut Checker<'_>) -> Option<TailnetSettings> {
    let control_url = checker.value(Key::TailnetControlUrl, values::url);
    let api_url = checker.value(Key::TailnetApiUrl, values::url);
    let respect_down = checker.value(Key::TailnetRespectDown, |value| values::one_of(value, RESPECT_DOWN));
    let after_logout = checker.value(Key::TailnetAfterLogout, |value| values::one_of(value, AFTER_LOGOUT));
    let proxy = checker.value(Key::TailnetProxy, values::proxy);
    let client_id = checker.value(Key::TailnetClientId, values::client_id);
    let tags = checker.value(Key::TailnetTags, values::tags);
    let hostname = checker.value(Key::TailnetHostname, values::hostname);
    let lifecycle = checker.value(Key::TailnetLifecycle, |value| values::one_of(value, LIFECYCLES));
    let accept_dns = checker.value(Key::TailnetAcceptDns, values::flag);
    let accept_routes = checker.value(Key::TailnetAcceptRoutes, values::flag);
    let ssh = checker.value(Key::TailnetSsh, values::flag);
    Some(TailnetSettings {
        control_url: control_url?,
        api_url: api_url?,
        proxy,
        respect_down: respect_down?,
        after_logout: after_logout?,
        client_id,
        tags,
        hostname,
        lifecycle,
        accept_dns,
        accept_routes,
        ssh,
    })
}

const FOREIGN: &[(&str, Foreign)] = &[("refuse", Foreign::Refuse), ("adopt", Foreign::Adopt)];

const SUPERVISORS: &[(&str, SupervisorKind)] =
    &[("systemd", SupervisorKind::Systemd), ("child", SupervisorKind::Child)];

fn daemon(checker: &mut Checker<'_>) -> Option<DaemonSettings> {
    let supervisor = checker.value(Key::DaemonSupervisor, |value| values::one_of(value, SUPERVISORS));
    let unit = checker.value(Key::DaemonUnit, values::service_unit);
    let socket = checker.value(Key::DaemonSocket, values::socket);
    let binary = checker.value(Key::DaemonBinary, values::program);
    let state = checker.value(Key::DaemonState, values::path);
    let tun = checker.value(Key::DaemonTun, values::interface);
    let port = checker.value(Key::DaemonPort, values::port);
    let min_version = checker.value(Key::DaemonMinVersion, values::version);
    let port_mapping = checker.value(Key::DaemonPortMapping, values::flag);
    Some(DaemonSettings {
        supervisor: supervisor?,
        unit: unit?.to_owned(),
        socket: socket?,
        binary: binary?,
        state: state?,
        tun: tun?,
        port: port?,
        min_version: min_version?,
        port_mapping: port_mapping?,
    })
}

fn report(checker: &mut Checker<'_>) -> Option<ReportSettings> {
    let enabled = checker.value(Key::ReportEnabled, values::flag);
    let endpoint = checker.value(Key::ReportEndpoint, values::endpoint);
    Some(ReportSettings { enabled: enabled?, endpoint })
}

fn paths(checker: &mut Checker<'_>) -> Option<Paths> {
    let state = checker.value(Key::PathsState, values::path);
    let runtime = checker.value(Key::PathsRuntime, values::runtime);
    Some(Paths { state: state?, runtime: runtime? })
}
