//! `exec`: what the command line says of it.

use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::logging;
use super::run::{federation, provider, token_variable};
use super::wait_online::duration;
use crate::clock::{Clock, SystemClock};
use crate::config::keys::Key;
use crate::config::settings::{ProviderKind, ProviderSettings, SecretFile, TokenSource};
use crate::config::{ConfigErrors, Loaded, Origin, Settings, Sources};
use crate::exec::{self, AuthKeyFile, Request, Services, Target};
use crate::metadata::detect::{DetectError, Surroundings, detect};
use crate::metadata::hostname::sanitise;
use crate::socket::socket_path;
use crate::tailscaled::child::command::is_inherited;

/// What exec itself fails with.
pub(super) use crate::exec::FAILED;

/// How auth keys of Tailscale and of Headscale begin.
const KEYS: [&[u8]; 2] = [b"tskey-", b"hskey-"];

/// Variables of a CI job's OIDC token request.
const OIDC: &str = "ACTIONS_ID_TOKEN_REQUEST_";

/// What tailscaled is given of the caller's environment: its own settings, and how to reach the control server.
const TAILSCALEDS: [&str; 2] = ["TS_", "SSL_CERT_"];
const PROXIES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Run a command on a tailnet node of its own, without root
///
/// The command's traffic of any protocol goes through the node, which is made for this run and gone when it ends. Its exit code is the
/// command's own; 128+N when signal N killed it; 124 when --timeout ended it; 125 when exec itself failed, with the cause on stderr; 126 and 127
/// as a shell has them.
///
/// The command has a network of its own and is otherwise the caller: what it asks of the machine through a socket, such as Docker's, happens
/// outside. sudo and other setuid programs have no effect inside.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Give the node this tag; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Name the node so [default: exec-, this machine's name and a random number]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// The federated credential's client id
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// Where the workload token comes from, as [metadata] provider; "agent" is the agent that runs here, if [exec] lend_credential lets it
    /// [default: as configured, else found out: GitHub Actions, Namespace, Google's or Azure's VM]
    #[arg(long, value_name = "PROVIDER")]
    provider: Option<String>,
    /// Take the workload token from here, as [metadata] token: /path, env:NAME, fd:N or credential:NAME
    #[arg(long, value_name = "SOURCE", conflicts_with = "provider")]
    token: Option<String>,
    /// As a last resort, join with the auth key in this file or open descriptor instead of trading a token for one
    #[arg(long, value_name = "FILE|FD", value_parser = opened, conflicts_with_all = ["provider", "token", "client_id"])]
    auth_key: Option<PathBuf>,
    /// Give up when the command does not run after this long
    #[arg(long, value_name = "DURATION", value_parser = some_time, default_value = "60s")]
    join_timeout: Duration,
    /// End the command after this long [default: never]
    #[arg(long, value_name = "DURATION", value_parser = some_time)]
    timeout: Option<Duration>,
    /// Start the command when this peer answers: a connection to PORT, or a ping
    #[arg(long, value_name = "HOST[:PORT]")]
    wait_for: Option<Target>,
    /// Use routes that other nodes advertise
    #[arg(long)]
    accept_routes: bool,
    /// Reach the ordinary network through this node
    #[arg(long, value_name = "NODE|ADDRESS", conflicts_with = "tailnet_only")]
    exit_node: Option<String>,
    /// Reach nothing but the tailnet; public names still resolve
    #[arg(long)]
    tailnet_only: bool,
    /// Let peers open this port of the command; may be repeated
    #[arg(long = "publish", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    publish: Vec<u16>,
    /// Keep ACTIONS_ID_TOKEN_REQUEST_* from the command
    #[arg(long)]
    drop_oidc: bool,
    /// Append a record of the run, one JSON object a line, to this open descriptor or file
    #[arg(long = "json", value_name = "FD|FILE", value_parser = opened)]
    record: Option<PathBuf>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Only say whether commands can be run on this machine, and run none
    #[arg(long, conflicts_with = "command")]
    check: bool,
    /// The command and its arguments
    #[arg(value_name = "CMD", required_unless_present = "check", last = true)]
    command: Vec<OsString>,
}

fn some_time(text: &str) -> Result<Duration, String> {
    let time = duration(text).map_err(|error| error.to_string())?;
    if time.is_zero() { Err("it is no time at all".to_owned()) } else { Ok(time) }
}

/// A file; a number is a descriptor that the caller opened. While arguments are read, none of this process's own is open.
fn opened(text: &str) -> Result<PathBuf, String> {
    text.parse().map_or_else(|_| Ok(text.into()), open_descriptor)
}

fn open_descriptor(number: u32) -> Result<PathBuf, String> {
    if number <= 2 {
        return Err("0, 1 and 2 are the command's; expected another open descriptor, or a file".to_owned());
    }
    let path = PathBuf::from(format!("/proc/self/fd/{number}"));
    if path.is_symlink() { Ok(path) } else { Err(format!("the descriptor {number} is not open")) }
}

/// The number of the descriptor that a file is, if it is one of this process's.
fn descriptor(file: &Path) -> Option<RawFd> {
    let number = file.strip_prefix("/proc/self/fd").or_else(|_| file.strip_prefix("/dev/fd"));
    number.ok()?.to_str()?.parse().ok()
}

impl Args {
    /// The command line as configuration: it wins over files.
    fn override_in(&self, sources: &mut Sources) {
        let text = |text: &str| toml::Value::from(text).to_string();
        let mut set = |key: Key, value: String| sources.overrides.push(format!("{}={value}", key.name()));
        // A node of one run, driven by nobody else.
        set(Key::DaemonSupervisor, text("child"));
        set(Key::TailnetLifecycle, text("ephemeral"));
        // Its server would be this machine's, and every account of it open to whoever reaches a port of the command.
        set(Key::TailnetSsh, false.to_string());
        // The sandbox's rules are about an interface, and no other tailscaled is there to take its name.
        set(Key::DaemonTun, text("tailscale0"));
        set(Key::TailnetHostname, text(self.hostname.as_deref().unwrap_or(&default_name())));
        if !self.tags.is_empty() {
            set(Key::TailnetTags, toml::Value::from(self.tags.clone()).to_string());
        }
        for (key, value) in [(Key::TailnetClientId, &self.client_id), (Key::MetadataProvider, &self.provider)] {
            value.iter().for_each(|value| set(key, text(value)));
        }
        if let Some(token) = &self.token {
            set(Key::MetadataProvider, text("file"));
            set(Key::MetadataToken, text(token));
        }
        if self.accept_routes {
            set(Key::TailnetAcceptRoutes, true.to_string());
        }
    }
}

/// Why exec is not configured.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureError {
    /// Something is wrong with what files or the command line say.
    #[error("the configuration cannot be used\n{0}")]
    Invalid(#[from] ConfigErrors),
    /// Nobody said where the token comes from, and several answers are as good.
    #[error("{0}: --provider, or [metadata] provider")]
    Provider(#[from] DetectError),
}

/// Reads configuration. Where nobody said where the token comes from, the job or the machine says it itself.
///
/// # Errors
/// When something is wrong, or several providers may be meant.
pub fn configure(args: &Args, sources: &mut Sources) -> Result<Loaded, ConfigureError> {
    args.override_in(sources);
    let loaded = crate::config::load(sources)?;
    if args.check || args.auth_key.is_some() || loaded.origins.origin(Key::MetadataProvider) != Origin::Default {
        return Ok(loaded);
    }
    let found = match detect(&HERE) {
        Ok(found) => found,
        Err(DetectError::Nothing) => return Ok(loaded),
        Err(error) => return Err(error.into()),
    };
    // Where an agent runs, its provider is the machine's; a job's own comes before it.
    let of_the_machine = matches!(found.provider, ProviderKind::Gce | ProviderKind::Azure);
    if of_the_machine && socket_path(&loaded.settings.paths.runtime).exists() {
        return Ok(loaded);
    }
    if !args.quiet {
        eprintln!("devbox-agent exec: the token comes from {found}");
    }
    sources.overrides.push(format!("{}={}", Key::MetadataProvider.name(), found.provider.as_str()));
    Ok(crate::config::load(sources)?)
}

const HERE: Surroundings<'static> = Surroundings {
    variable: &|name| std::env::var_os(name),
    exists: &|path| path.exists(),
    text: &|path| std::fs::read_to_string(path).ok(),
};

/// Different for each run: two nodes of one name would be renamed by the control server.
fn default_name() -> String {
    let machine = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let random = RandomState::new().build_hasher().finish() as u32;
    // The number is kept when a long name is cut.
    let machine: String = machine.chars().take(40).collect();
    sanitise(&format!("exec-{machine}-{random:08x}")).unwrap_or_else(|| format!("exec-{random:08x}"))
}

/// Runs the command; gives its exit code.
pub fn run(args: Args, loaded: Loaded) -> u8 {
    if loaded.origins.origin(Key::LogLevel) != Origin::Default {
        let _never_changed = logging::start(&loaded.settings.log_level, None);
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let settings = loaded.settings;
    let auth_key = args.auth_key.clone();
    let request = request(args, settings.clone(), clock.as_ref());
    if let Err(error) = credential(&request, auth_key.as_deref()) {
        eprintln!("devbox-agent exec: {error}");
        return FAILED;
    }
    exec::run(&request, async || {
        if let Some(file) = auth_key {
            let read = AuthKeyFile::read(&file, settings.tailnet.clone()).await;
            let key =
                read.context("failed to use --auth-key; make a key in the admin console, under Settings, Keys")?;
            return Ok(Services { metadata: key.clone(), federation: key, clock });
        }
        let metadata = provider(&settings, &clock)?;
        Ok(Services { metadata, federation: federation(&settings, &clock), clock })
    })
}

/// Looks at what holds the credential, before anything is made: what this process was not given, it will not be given later.
fn credential(request: &Request, auth_key: Option<&Path>) -> Result<(), String> {
    // The key itself must not be in a log, now that it has been on a command line.
    if auth_key.is_some_and(|file| KEYS.iter().any(|start| file.as_os_str().as_encoded_bytes().starts_with(start))) {
        return Err("--auth-key takes a file or a descriptor, not the key; what was given has been in a command line: revoke it".to_owned());
    }
    if let Some(name) = token_variable(&request.settings).filter(|name| std::env::var_os(name).is_none()) {
        return Err(format!("failed to read the token: the variable {name} is not set; pass it on to exec"));
    }
    let closed = request.withheld.iter().find_map(|number| open_descriptor(number.cast_unsigned()).err());
    closed.map_or(Ok(()), |error| Err(format!("failed to read the token: {error}; open it for exec")))
}

fn request(args: Args, settings: Settings, clock: &dyn Clock) -> Request {
    let now = clock.now();
    let variables: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let token = token_variable(&settings).map(str::to_owned);
    let kept = |name: &OsStr| {
        let name = name.to_str().unwrap_or_default();
        token.as_deref() != Some(name) && !(args.drop_oidc && name.starts_with(OIDC))
    };
    let token_descriptor = match &settings.metadata.provider {
        ProviderSettings::File { token: TokenSource::Descriptor(number), .. } => Some(*number),
        ProviderSettings::File { token: TokenSource::File(SecretFile::Path(path)), .. } => descriptor(path),
        _ => None,
    };
    let key_descriptor = args.auth_key.as_deref().and_then(descriptor);
    Request {
        withheld: token_descriptor.into_iter().chain(key_descriptor).collect(),
        auth_key: args.auth_key.is_some(),
        command: args.command,
        environment: variables.iter().filter(|(name, _)| kept(name)).cloned().collect(),
        daemon_environment: daemon_environment(&variables, &settings),
        settings,
        check: args.check,
        tailnet_only: args.tailnet_only,
        publish: args.publish,
        exit_node: args.exit_node,
        wait_for: args.wait_for,
        join_timeout: args.join_timeout,
        timeout: args.timeout,
        record: args.record,
        quiet: args.quiet,
        shared_group: exec::has_terminal(),
        began: now,
    }
}

fn daemon_environment(variables: &[(OsString, OsString)], settings: &Settings) -> Vec<(OsString, OsString)> {
    let given = variables.iter().filter(|(name, _)| is_tailscaleds(name)).cloned();
    given.chain(settings.tailnet.proxy_variables()).collect()
}

fn is_tailscaleds(variable: &OsStr) -> bool {
    let name = variable.to_str().unwrap_or_default();
    let own = TAILSCALEDS.iter().any(|start| name.starts_with(start));
    let proxy = PROXIES.iter().any(|proxy| name.eq_ignore_ascii_case(proxy));
    (own || proxy) && is_inherited(variable)
}
