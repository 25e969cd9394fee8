//! A model of metadata, exchange, control and tailscaled: just enough to be truthful to what was measured of them.

mod node;
mod platform;

use proptest::prelude::*;

use self::platform::token;
use super::Performed;
use crate::clock::Now;
use crate::core::effect::{Effect, Outcome};
use crate::core::reason::{Code, Fault};
use crate::federation::KeyRequest;
use crate::metadata::spec::{Lifecycle, Tailnet};
use crate::tailscaled::Notify;
use crate::tailscaled::types::CurrentPreferences;

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) enum Weak {
    Metadata,
    Token,
    Exchange,
    ExchangeRefuses,
    Mint,
    Control,
    Keys,
    Daemon,
    Disk,
    Hostname,
    /// What writes to tailscaled cannot be reached.
    Helper,
}

pub(super) fn weak() -> impl Strategy<Value = Weak> {
    prop_oneof![
        Just(Weak::Metadata),
        Just(Weak::Token),
        Just(Weak::Exchange),
        Just(Weak::ExchangeRefuses),
        Just(Weak::Mint),
        Just(Weak::Control),
        Just(Weak::Keys),
        Just(Weak::Daemon),
        Just(Weak::Disk),
        Just(Weak::Hostname),
        Just(Weak::Helper),
    ]
}

/// Everything outside the agent.
#[derive(Default)]
pub(in crate::core) struct Outside {
    broken: Vec<Weak>,
    pub hangs: bool,
    /// The next tailscaled misses that the network is there, and leaves control alone.
    pub deaf_next: bool,
    deaf: bool,
    /// tailscaled has said that it cannot reach control.
    complained: bool,
    /// tailscaled is a unit: it may run already when it is started.
    pub unit: bool,
    /// tailscaled's process is gone, and its stop is not done.
    stopping: bool,
    /// The metadata speaks of another instance.
    pub cloned: bool,
    /// What the machine is called.
    pub named: Option<String>,
    /// Whether the document names no tailnet.
    pub unassigned: bool,
    /// How much longer than usual a metadata read takes, in milliseconds.
    pub metadata_delay: u64,
    /// How much longer than usual it takes to look for a node, in milliseconds.
    pub inspect_delay: u64,
    pub tailnet: Tailnet,
    version: u64,
    running: bool,
    died: bool,
    node: Option<Registered>,
    prefs: Option<CurrentPreferences>,
    login: Option<KeyRequest>,
    auth_url: bool,
    connected: bool,
    logins: u64,
    keys: Vec<KeyRequest>,
    said: Vec<Notify>,
}

/// The node as tailscaled's state and control have it.
#[derive(Clone)]
struct Registered {
    key: u64,
    tags: Vec<String>,
    expired: bool,
    deleted: bool,
}

impl Default for Tailnet {
    fn default() -> Self {
        Self {
            client_id: "client".to_owned(),
            tags: vec!["tag:a".to_owned()],
            hostname: "box".to_owned(),
            lifecycle: Lifecycle::Persistent,
            accept_dns: true,
            accept_routes: false,
            ssh: false,
            epoch: 0,
        }
    }
}

fn fault(code: Code) -> Fault {
    Fault { code, detail: "the model says so".to_owned(), retry_after: None, unsent: false }
}

impl Outside {
    pub fn set(&mut self, weak: Weak, broken: bool) {
        self.broken.retain(|other| *other != weak);
        if broken {
            self.broken.push(weak);
        }
    }

    pub fn heal(&mut self) {
        self.broken.clear();
        self.hangs = false;
    }

    fn ok(&self, weak: Weak) -> Result<(), Fault> {
        let code = match weak {
            Weak::Metadata => Code::MetadataUnreachable,
            Weak::Token => Code::TokenUnavailable,
            Weak::Exchange => Code::ExchangeUnavailable,
            Weak::ExchangeRefuses => Code::ExchangeDenied,
            Weak::Mint => Code::MintUnavailable,
            Weak::Control | Weak::Keys => Code::LogoutFailed,
            Weak::Daemon => Code::TailscaledStarting,
            Weak::Disk => Code::StateUnwritable,
            Weak::Hostname => Code::HostnameUnset,
            Weak::Helper => Code::HelperUnavailable,
        };
        let unsent = weak == Weak::Helper;
        if self.broken.contains(&weak) { Err(Fault { unsent, ..fault(code) }) } else { Ok(()) }
    }

    /// How long an effect takes, in milliseconds.
    pub fn lasts(&self, effect: &Effect) -> u64 {
        match effect {
            Effect::MindDaemon | Effect::WatchBus { .. } | Effect::WatchHost => u64::MAX / 2,
            Effect::ReadSpec { etag: Some(etag), wait, .. } if *etag == self.etag() => wait.as_millis() as u64,
            Effect::ReadSpec { .. } => 5 + self.metadata_delay,
            Effect::Inspect => 5 + self.inspect_delay,
            Effect::ReadStatus { .. } if self.hangs => 3_000,
            Effect::Logout if self.ok(Weak::Control).is_err() => 5_000,
            Effect::StartDaemon => 60,
            // `tailscaled --cleanup` comes after the process's end.
            Effect::StopDaemon if self.unit => 1_500,
            _ => 5,
        }
    }

    fn etag(&self) -> String {
        format!("v{}", self.version)
    }

    pub fn daemon_died(&mut self) -> bool {
        std::mem::take(&mut self.died)
    }

    pub fn say(&mut self) -> Vec<Notify> {
        if self.running { std::mem::take(&mut self.said) } else { Vec::new() }
    }

    pub fn tailscaled_ends(&mut self) {
        self.died = std::mem::take(&mut self.running);
        self.deaf = false;
        self.complained = false;
        self.connected = false;
        self.login = None;
        self.auth_url = false;
        self.said.clear();
        if self.node.is_none() {
            self.prefs = None;
        }
    }

    pub fn change_tags(&mut self, other: bool) {
        self.tailnet.tags = vec![if other { "tag:b" } else { "tag:a" }.to_owned()];
        self.version += 1;
    }

    pub fn change_hostname(&mut self, other: bool) {
        self.tailnet.hostname = if other { "other" } else { "box" }.to_owned();
        self.version += 1;
    }

    pub fn admin(&mut self, up: bool) {
        if let (Some(prefs), true) = (&mut self.prefs, self.running) {
            prefs.want_running = up;
            self.tell_prefs();
        }
    }

    pub fn admin_renames(&mut self) {
        if let (Some(prefs), true) = (&mut self.prefs, self.running) {
            prefs.owned.hostname = "mine".to_owned();
            self.tell_prefs();
        }
    }

    pub fn admin_logout(&mut self) {
        if self.running && self.node.take().is_some() {
            // tailscaled gives up a login that it was about.
            self.login = None;
            self.reset_prefs();
        }
    }

    /// Somebody began to log in and left the AuthURL standing.
    pub fn leave_auth_url(&mut self) {
        self.auth_url = true;
    }

    pub fn key_expires(&mut self) {
        if let Some(node) = &mut self.node {
            node.expired = true;
            self.connected = false;
            self.said.push(Notify { self_changed: true, ..Notify::default() });
        }
    }

    pub fn node_deleted(&mut self) {
        if let Some(node) = &mut self.node {
            node.deleted = true;
            self.connected = false;
        }
    }

    /// A person logs this machine in by hand.
    pub fn somebody_joins(&mut self) {
        self.node = Some(Registered { key: 99, tags: Vec::new(), expired: false, deleted: false });
        if self.prefs.is_none() {
            self.reset_prefs();
        }
        if let Some(prefs) = &mut self.prefs {
            (prefs.want_running, prefs.logged_out) = (true, false);
        }
        self.tell_prefs();
    }

    /// Somebody logs a node out of which the agent hears nothing.
    pub fn forget_node(&mut self) {
        self.node = None;
    }

    /// tailscaled says nothing of control that it cannot reach, as where it has logged in before.
    pub fn forget_complaint(&mut self) {
        self.complained = true;
        self.said.clear();
    }

    pub fn begin(&mut self, effect: &Effect) {
        if let Effect::StopDaemon = effect {
            self.tailscaled_ends();
            self.hangs = false;
            self.stopping = true;
        }
    }

    pub fn perform(&mut self, effect: &Effect, now: Now) -> Performed {
        if let Effect::ReadStatus { .. } | Effect::Login(_) | Effect::Apply(_) | Effect::Prove { .. } = effect {
            self.answers()?;
        }
        if effect.kind().writes() {
            self.ok(Weak::Helper)?;
        }
        match effect {
            Effect::Inspect => Ok(Outcome::Stored(self.node.is_some())),
            Effect::ReadSpec { etag, .. } => self.read(etag.as_deref()),
            Effect::Save(_) => self.ok(Weak::Disk).map(|()| Outcome::Done),
            Effect::StartDaemon => self.start(),
            Effect::MindDaemon => Err(fault(Code::TailscaledStarting)),
            Effect::StopDaemon => self.stop(),
            Effect::WatchBus { .. } => Err(fault(Code::LocalapiError)),
            Effect::ReadStatus { .. } => Ok(Outcome::Status(Box::new(self.status()))),
            Effect::Connect => Ok(Outcome::Done),
            Effect::Token { .. } => self.ok(Weak::Token).map(|()| token(now.real)),
            Effect::Exchange { .. } => self.exchange(),
            Effect::Mint(request) => self.mint(request),
            Effect::Login(login) => self.log_in(&login.preferences),
            Effect::Apply(preferences) => self.apply(preferences),
            Effect::Up => self.up(),
            Effect::Prove { .. } => self.prove(),
            Effect::Withdraw => self.withdraw(),
            Effect::Logout => self.log_out(),
            Effect::LeaveAlone => Ok(Outcome::Done),
            Effect::WatchHost => Err(fault(Code::DbusUnavailable)),
            Effect::SetHostname { name } => self.name(name),
        }
    }

    fn answers(&self) -> Result<(), Fault> {
        match (self.running, self.hangs) {
            (false, _) => Err(fault(Code::TailscaledStarting)),
            (true, true) => Err(fault(Code::TailscaledHung)),
            (true, false) => Ok(()),
        }
    }

    fn name(&mut self, name: &str) -> Performed {
        self.ok(Weak::Hostname)?;
        self.named = Some(name.to_owned());
        Ok(Outcome::Done)
    }
}
