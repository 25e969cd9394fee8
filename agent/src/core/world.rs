//! What is known now: facts only, each with when it was seen. Nothing here decides anything.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::effect::{Kind, Login};
use super::reason::Fault;
use crate::clock::BootTime;
use crate::config::Settings;
use crate::config::settings::{Foreign, SupervisorKind};
use crate::federation::KeyRequest;
use crate::identity::record::LoginInputs;
use crate::identity::{Record, Trouble};
use crate::metadata::spec::{Instance, Tailnet};
use crate::secret::Secret;
use crate::socket::document::Stage;
use crate::tailscaled::types::CurrentPreferences;
use crate::tailscaled::{Preferences, Status};

/// Everything the rules look at.
pub struct World {
    /// The kernel's boot id.
    pub boot_id: String,
    /// What configuration says of how facts are taken.
    pub configured: Configured,
    /// What is remembered over restarts, as it should be on disk.
    pub record: Record,
    /// What is on disk, as far as is known.
    pub saved: Option<Record>,
    /// What was wrong with the record at start.
    pub trouble: Option<Trouble>,
    /// What each kind of effect went through.
    pub tracks: BTreeMap<Kind, Track>,
    /// What the platform says.
    pub platform: Platform,
    /// tailscaled, the process.
    pub daemon: Daemon,
    /// The node, as tailscaled tells.
    pub node: NodeFacts,
    /// What was fetched to log in with.
    pub credentials: Credentials,
    /// The login under way, and those that failed.
    pub login: LoginFacts,
    /// The machine, beyond tailscaled.
    pub host: HostFacts,
    /// Whether control has proven the node online since the machine was last resumed.
    pub proof: Proof,
    /// Set once the agent is to end.
    pub stopping: Option<Stopping>,
    /// What the report publisher last said is wrong.
    pub report_fault: Option<Fault>,
    /// The boot's stages so far.
    pub stages: Vec<Stage>,
    /// When the node was first online.
    pub online_at: Option<BootTime>,
    /// Whether the node that there is now was online: what keeps it from it is then a fault.
    pub was_online: bool,
}

/// What one kind of effect went through.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Track {
    /// Failures in a row.
    pub attempts: u32,
    /// The last failure, until a success.
    pub fault: Option<Fault>,
    /// No earlier than this may it run again; drawn when the failure was folded.
    pub not_before: Option<BootTime>,
    /// The time above was asked for by the other side: `refresh` does not forget it.
    pub asked: bool,
    /// Since when no packet leaves this machine.
    pub unsent_since: Option<BootTime>,
    /// When the one in flight began.
    pub began: Option<BootTime>,
    /// When it last succeeded.
    pub done: Option<BootTime>,
}

/// What the platform says this machine is.
#[derive(Clone, Debug, Default)]
pub struct Platform {
    /// This machine; kept from the record until the first read.
    pub instance: Option<Instance>,
    /// The node in force: what was last named, until it is taken back twice.
    pub tailnet: Option<Tailnet>,
    /// How often reports are due.
    pub report_interval: Option<std::time::Duration>,
    /// Whether metadata was read in this run.
    pub confirmed: bool,
    /// The tag of the last document.
    pub etag: Option<String>,
    /// When the last answer came.
    pub fetched_at: Option<SystemTime>,
    /// The last document was refused for this; what was valid before stays in force.
    pub refused: Option<Fault>,
    /// When `tailnet: null` was first read.
    pub null_since: Option<BootTime>,
    /// `tailnet: null` was read twice, ten seconds apart: leave.
    pub withdrawn: bool,
    /// The server does not hold requests: read once a minute.
    pub polls: bool,
    /// Grows when the document must be read anew at once.
    pub round: u64,
    /// A resume was noticed and metadata not read since: another instance id is then no fraud.
    pub resumed: bool,
}

/// tailscaled, the process.
#[derive(Clone, Debug, Default)]
pub struct Daemon {
    /// Whether it has a node stored, found before it is started.
    pub stored: Option<bool>,
    /// Since when it listens; none while it does not run.
    pub up_since: Option<BootTime>,
    /// Counts its starts.
    pub run: u32,
    /// Ends right after a start, in a row.
    pub crashes: u32,
    /// Status reads in a row that it left unanswered.
    pub unanswered: u32,
    /// When it was last stopped to be restarted.
    pub restarted: Option<BootTime>,
    /// It is started once, and what it serves ends with it.
    pub once: bool,
}

/// The node, as tailscaled tells.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// The last status of this run of tailscaled.
    pub status: Option<Status>,
    /// When the read that brought it began.
    pub read_at: BootTime,
    /// Grows with every reason to read the status again.
    pub wanted_round: u64,
    /// The round of the read in flight.
    pub reading_round: u64,
    /// The round of the last read.
    pub read_round: u64,
    /// The preferences as the bus told them.
    pub prefs: Option<CurrentPreferences>,
    /// An AuthURL was announced on the bus and not taken back.
    pub browse: bool,
    /// It has tried to reach control since it was started, whatever came of it.
    pub tried_control: bool,
    /// What health says of the last login try.
    pub login_state: Option<String>,
    /// The preferences that we last wrote: a difference is somebody else's doing.
    pub wrote: Option<Preferences>,
    /// Since when the node is not held as connected though it should be.
    pub offline_since: Option<BootTime>,
}

impl NodeFacts {
    /// Another tailscaled has to tell everything anew; only what we ourselves wrote stays known.
    pub fn forget(&mut self) {
        *self = Self { wanted_round: self.wanted_round + 1, wrote: self.wrote.take(), ..Self::default() };
    }

    /// tailscaled has taken a login: these are its preferences now, whether the bus has said so or not.
    pub fn logged_in_with(&mut self, owned: &Preferences) {
        self.wrote = Some(owned.clone());
        self.browse = false;
        self.prefs = Some(CurrentPreferences {
            owned: owned.clone(),
            auto_update: false,
            want_running: true,
            logged_out: false,
        });
    }

    /// Whether tailscaled says that it runs, that control holds the node as connected, and what it is called.
    pub fn connected(&self) -> bool {
        let logged_out = self.prefs.as_ref().is_some_and(|prefs| prefs.logged_out);
        self.status.as_ref().is_some_and(|status| {
            status.backend_state == "Running" && status.node.online && !status.node.dns_name.is_empty() && !logged_out
        })
    }
}

/// A credential with the inputs it is for; dropped when they differ.
pub struct Credential<I> {
    /// What is sent.
    pub value: Secret<String>,
    /// What it is for.
    pub inputs: I,
}

/// What was fetched to log in with.
#[derive(Default)]
pub struct Credentials {
    /// The workload token, for a client id, and until when it holds.
    pub jwt: Option<(Credential<String>, SystemTime)>,
    /// The access token, for a client id, and until when it is used.
    pub access: Option<(Credential<String>, BootTime)>,
    /// The one-time key, and until when it is used.
    pub key: Option<(Credential<KeyRequest>, BootTime)>,
}

/// The login under way, and those that failed.
#[derive(Clone, Debug, Default)]
pub struct LoginFacts {
    /// Sent and not yet seen to succeed.
    pub pending: Option<Pending>,
    /// The node key before the login in flight.
    pub old_key: Option<String>,
    /// Control refused the key before tailscaled had answered that it took it.
    pub early_refusal: Option<String>,
    /// Keys that control refused in a row.
    pub refused: u32,
    /// A person asked for a re-authentication.
    pub forced: bool,
    /// A person asked for a node that was taken down.
    pub rejoin: bool,
    /// When a login was last sent.
    pub tried: Option<BootTime>,
    /// When the last of the node keys that a changed spec replaced was given up.
    pub renewed: Option<BootTime>,
}

/// A login that was sent.
#[derive(Clone, Debug)]
pub struct Pending {
    /// What it was made with.
    pub login: Login,
    /// The node key before it: success shows another one.
    pub old_key: Option<String>,
    /// When tailscaled had taken it.
    pub sent_at: BootTime,
    /// When its key is no longer good.
    pub expires_at: BootTime,
}

/// Whether control has proven the node online since the machine was last resumed.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// `Online` does not count until proven.
    pub needed: bool,
    /// When the machine was last resumed: what tells of it comes by several ways within moments.
    pub resumed_at: Option<BootTime>,
    /// When the proof that is needed now was asked for.
    pub asked_at: Option<BootTime>,
    /// When any proof was last asked for.
    pub last_asked: Option<BootTime>,
    /// Whether `Online` was seen false since.
    pub seen_offline: bool,
    /// Which proof.
    pub round: u64,
    /// When the node was last proven.
    pub proven_at: Option<SystemTime>,
}

/// What configuration says of how facts are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    /// Where nodes are registered; part of what a login is remembered with.
    pub control_url: String,
    /// tailscaled is a unit of systemd: it outlives the agent, and each of its starts takes the helper.
    pub unit: bool,
    /// A node that this agent did not make becomes this machine's.
    pub adopt: bool,
}

impl Configured {
    /// What `settings` say.
    pub fn of(settings: &Settings) -> Self {
        Self {
            control_url: crate::config::control_url(settings),
            unit: settings.daemon.supervisor == SupervisorKind::Systemd,
            adopt: settings.identity.foreign == Foreign::Adopt,
        }
    }
}

/// The machine, beyond tailscaled.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// The static name that it was given, or already had.
    pub named: Option<String>,
    /// logind has announced a shutdown or reboot.
    pub goes_down: bool,
}

/// How the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopping {
    /// Whether no other agent follows, so that an ephemeral node is removed.
    pub removes: bool,
    /// Whether tailscaled goes on without the agent, and with it a node that is not removed.
    pub stays: bool,
    /// When the node's removal is given up.
    pub deadline: BootTime,
}

impl World {
    /// The world before anything was seen, but for what was remembered.
    pub fn new(boot_id: String, configured: Configured, loaded: crate::identity::Loaded) -> Self {
        let mut record = loaded.record;
        let tracks = remembered_pace(&mut record, &boot_id);
        let saved = Some(record.clone());
        let mut platform = Platform::default();
        if let Some(spec) = &record.spec {
            platform.instance = Some(spec.instance.clone());
            platform.report_interval = Some(spec.report_interval);
            if let crate::metadata::spec::Wanted::Node(tailnet) = &spec.tailnet {
                platform.tailnet = Some(tailnet.clone());
            }
        }
        Self {
            boot_id,
            configured,
            record,
            saved,
            trouble: loaded.trouble,
            tracks,
            platform,
            daemon: Daemon::default(),
            node: NodeFacts { wanted_round: 1, ..NodeFacts::default() },
            credentials: Credentials::default(),
            login: LoginFacts::default(),
            host: HostFacts::default(),
            proof: Proof::default(),
            stopping: None,
            report_fault: None,
            stages: Vec::new(),
            online_at: None,
            was_online: false,
        }
    }

    /// Whether there was a record of ours that can no longer be read: what it knew of a node has to be taken from the node.
    pub fn lost_record(&self) -> bool {
        matches!(self.trouble, Some(Trouble::SetAside(_)))
    }

    /// What `kind` went through.
    pub fn track(&self, kind: Kind) -> &Track {
        static FRESH: Track = Track {
            attempts: 0,
            fault: None,
            not_before: None,
            asked: false,
            unsent_since: None,
            began: None,
            done: None,
        };
        self.tracks.get(&kind).unwrap_or(&FRESH)
    }

    /// Whether a login is being handed over, or waits for control.
    pub fn logging_in(&self) -> bool {
        self.login.pending.is_some() || self.track(Kind::Login).began.is_some()
    }

    /// Whether the node is down by somebody else's hand.
    pub fn taken_down(&self) -> bool {
        let Some((status, prefs)) = self.node.status.as_ref().zip(self.node.prefs.as_ref()) else { return false };
        let ours = self.record.withdrawn || self.login.pending.is_some();
        status.backend_state == "Stopped" && !prefs.want_running && !prefs.logged_out && !ours
    }

    /// The inputs that a login for `tailnet` would be remembered with.
    pub fn inputs(tailnet: &Tailnet, control_url: &str) -> LoginInputs {
        LoginInputs {
            client_id: tailnet.client_id.clone(),
            tags: tailnet.tags.clone(),
            lifecycle: tailnet.lifecycle,
            epoch: tailnet.epoch,
            control_url: control_url.to_owned(),
        }
    }
}

/// Takes the pace of the last run over, if it was in this boot: CLOCK_BOOTTIME of another boot means nothing.
fn remembered_pace(record: &mut Record, boot_id: &str) -> BTreeMap<Kind, Track> {
    if record.boot_id != boot_id {
        record.boot_id = boot_id.to_owned();
        record.not_before.clear();
    }
    let kinds = Kind::ALL.iter().filter(|kind| kind.remembers_pace());
    kinds
        .filter_map(|kind| {
            let pace = record.not_before.get(kind.as_str())?;
            let fault = pace.fault.clone().map(|(code, detail)| Fault::new(code, detail));
            let not_before = Some(pace.at);
            let track = Track { attempts: pace.attempts, fault, not_before, asked: pace.asked, ..Track::default() };
            Some((*kind, track))
        })
        .collect()
}
