//! Questions about the world that several rules ask; pure.

use std::time::Duration;

use super::effect::Kind;
use super::reason::{Class, Fault};
use super::world::World;
use crate::clock::{BootTime, Now};
use crate::config::Settings;
use crate::config::settings::{AfterLogout, RespectDown};
use crate::federation::KeyRequest;
use crate::identity::record::Desired;
use crate::metadata::spec::Tailnet;
use crate::tailscaled::{Preferences, Status};

/// The world, the settings and the moment, as the rules see them.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// What is known.
    pub world: &'a World,
    /// What is configured.
    pub settings: &'a Settings,
    /// The moment.
    pub now: Now,
}

/// Where the node should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal<'a> {
    /// Nothing has said yet.
    Unknown,
    /// The platform wants no node.
    Unassigned,
    /// A person said `leave`.
    Left,
    /// The platform wants this node.
    Joined(&'a Tailnet),
}

/// Whose node tailscaled has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not found out yet.
    Unknown,
    /// It has none.
    Fresh,
    /// This agent's, for this instance.
    Ours,
    /// Somebody else's.
    Foreign,
    /// This agent's, for another instance.
    OtherInstance,
}

impl Verdict {
    /// The verdict as the status document spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Fresh => "fresh",
            Self::Ours => "ours",
            Self::Foreign => "foreign",
            Self::OtherInstance => "other_instance",
        }
    }
}

/// Why a node that has a key needs another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Tags or epoch: authenticate again, the node stays.
    Reauthenticate,
    /// Credential, lifecycle or control server: log out, then join anew.
    Replace,
}

/// A platform that changes its mind every second does not make the node flap: the first change is followed at once, the next ones this far apart.
const REAUTH_SPACING: Duration = Duration::from_secs(60);

/// A node that control does not hold as connected for this long may have been deleted.
const DELETED_AFTER: Duration = Duration::from_secs(120);

/// A node that may have been deleted joins again at most this often (faults F28).
const DELETED_SPACING: Duration = Duration::from_secs(600);

impl<'a> View<'a> {
    /// Where the node should be.
    pub fn goal(self) -> Goal<'a> {
        let platform = &self.world.platform;
        match (&platform.tailnet, self.world.record.desired) {
            (_, Desired::Left) => Goal::Left,
            (Some(tailnet), Desired::Joined) => Goal::Joined(tailnet),
            (None, Desired::Joined) if platform.confirmed => Goal::Unassigned,
            (None, Desired::Joined) => Goal::Unknown,
        }
    }

    /// The node's status, while tailscaled runs.
    pub fn status(self) -> Option<&'a Status> {
        self.world.node.status.as_ref().filter(|_| self.world.daemon.up_since.is_some())
    }

    /// Whether the node has a key, as far as is known.
    pub fn has_key(self) -> Option<bool> {
        self.status().map(|status| status.have_node_key).or(self.world.daemon.stored)
    }

    /// Whether tailscaled answers and is one that this agent may write to.
    pub fn writable(self) -> bool {
        self.status().is_some() && !self.too_old() && self.verdict() != Verdict::OtherInstance
    }

    /// Whether tailscaled is older than supported.
    pub fn too_old(self) -> bool {
        let min = self.settings.daemon.min_version;
        self.status().is_some_and(|status| !crate::tailscaled::supported(&status.version, min))
    }

    /// Whether control holds the node as connected, and that is proven.
    pub fn online(self) -> bool {
        self.world.node.connected() && !self.world.proof.needed && self.world.login.pending.is_none()
    }

    /// Whether control is still to show that the node is online; one that somebody took down is not to be, until it is up.
    pub fn unproven(self) -> bool {
        self.world.proof.needed && !self.admin_down()
    }

    /// Whether the node that there is now was online in this run of the agent.
    pub fn was_online(self) -> bool {
        self.world.was_online
    }

    /// Whose node tailscaled has.
    pub fn verdict(self) -> Verdict {
        let record = &self.world.record;
        let platform = &self.world.platform;
        // One that an earlier run was told of stands until the metadata says otherwise: a machine that was seen to be a clone remains one.
        let known = platform.instance.as_ref().map(|instance| &instance.id);
        match (self.world.daemon.stored, &record.instance_id, known) {
            (None, ..) => Verdict::Unknown,
            (Some(false), ..) => Verdict::Fresh,
            (Some(true), None, _) if self.world.lost_record() => Verdict::Ours,
            (Some(true), None, _) => Verdict::Foreign,
            (Some(true), Some(ours), Some(id)) if ours != id => Verdict::OtherInstance,
            (Some(true), Some(_), _) => Verdict::Ours,
        }
    }

    /// Whether tailscaled has no node, or this instance's own.
    pub fn admitted(self) -> bool {
        matches!(self.verdict(), Verdict::Fresh | Verdict::Ours)
    }

    /// Whether `kind` may run now.
    pub fn ready(self, kind: Kind) -> bool {
        self.world.track(kind).not_before.is_none_or(|at| at <= self.now.boot)
    }

    /// When `kind` is tried again, if that is still to come.
    pub fn next_try(self, kind: Kind) -> Option<BootTime> {
        self.world.track(kind).not_before.filter(|at| *at > self.now.boot)
    }

    /// The last failure of `kind`, until a success.
    pub fn fault(self, kind: Kind) -> Option<&'a Fault> {
        self.world.tracks.get(&kind).and_then(|track| track.fault.as_ref())
    }

    /// The preferences that are ours, for this node.
    pub fn preferences(self, tailnet: &Tailnet) -> Preferences {
        Preferences {
            control_url: self.world.configured.control_url.clone(),
            hostname: tailnet.hostname.clone(),
            accept_dns: tailnet.accept_dns,
            accept_routes: tailnet.accept_routes,
            ssh: tailnet.ssh,
        }
    }

    /// What a key for this node is made for.
    pub fn key_request(self, tailnet: &Tailnet) -> KeyRequest {
        let instance = self.world.platform.instance.as_ref();
        KeyRequest {
            client_id: tailnet.client_id.clone(),
            tags: tailnet.tags.clone(),
            lifecycle: tailnet.lifecycle,
            instance_id: instance.map(|instance| instance.id.clone()).unwrap_or_default(),
        }
    }

    /// How the spec differs from what the last login was made with.
    pub fn change(self, tailnet: &Tailnet) -> Option<Change> {
        let forced = self.world.login.forced.then_some(Change::Reauthenticate);
        let Some(applied) = self.world.record.applied.as_ref() else { return forced };
        let replaced = applied.client_id != tailnet.client_id
            || applied.lifecycle != tailnet.lifecycle
            || applied.control_url != self.world.configured.control_url;
        let renewed = applied.tags != tailnet.tags || tailnet.epoch > applied.epoch;
        match (replaced, renewed) {
            (true, _) => Some(Change::Replace),
            (false, true) => Some(Change::Reauthenticate),
            (false, false) => forced,
        }
    }

    /// When the node key may be given up because the spec asks for it; a person is never held up.
    pub fn reauth_at(self) -> BootTime {
        match self.world.login.renewed {
            Some(last) if !self.world.login.forced => last + REAUTH_SPACING,
            _ => self.now.boot,
        }
    }

    /// Whether the node needs a key, and none was handed over yet.
    pub fn needs_key(self, tailnet: &Tailnet) -> bool {
        if self.world.login.pending.is_some() || self.admin_down() || self.stays_logged_out() {
            return false;
        }
        let change = self.change(tailnet);
        let has_key = self.has_key().unwrap_or(true);
        if has_key && change == Some(Change::Replace) {
            return false;
        }
        let renew = change == Some(Change::Reauthenticate) && self.reauth_at() <= self.now.boot;
        !has_key || renew || self.locked_out() || self.in_vain() || self.perhaps_deleted()
    }

    /// Whether tailscaled goes on in vain with a key that control has refused, beside the node that it has: health's `login-state` says so. (Without
    /// a refusal it may also be a network that is down.)
    fn in_vain(self) -> bool {
        let node = &self.world.node;
        self.world.login.refused > 0 && node.login_state.is_some() && !node.connected()
    }

    /// Whether the node has a key that does not let it in: expired, half logged out, or taken down by ourselves.
    fn locked_out(self) -> bool {
        let Some(status) = self.status() else { return false };
        let prefs = self.world.node.prefs.as_ref();
        status.backend_state == "NeedsLogin"
            || prefs.is_some_and(|prefs| prefs.logged_out)
            || (self.world.record.withdrawn && status.backend_state == "Stopped")
    }

    /// Whether control has not held the node as connected for so long that it may be gone.
    pub fn perhaps_deleted(self) -> bool {
        let offline = self.world.node.offline_since.is_some_and(|since| self.now.boot.since(since) >= DELETED_AFTER);
        let last = self.world.login.tried;
        offline && last.is_none_or(|last| self.now.boot.since(last) >= DELETED_SPACING)
    }

    /// Since when tailscaled has had something to ask of control and has not even tried to. While it starts there is a moment in which it misses
    /// that the network has come up, and then waits for the next change of it (seen three times in a thousand starts aimed at that moment).
    pub fn idle_since(self) -> Option<BootTime> {
        let node = &self.world.node;
        // One that runs has a tunnel, which control is not needed for.
        let settled =
            self.status().is_some_and(|status| matches!(status.backend_state.as_str(), "Running" | "Stopped"));
        if node.tried_control || settled || !self.world.platform.confirmed {
            return None;
        }
        let wanted = node.prefs.as_ref().is_some_and(|prefs| prefs.want_running && !prefs.logged_out);
        match &self.world.login.pending {
            Some(pending) => Some(pending.sent_at),
            None => self.world.daemon.up_since.filter(|_| wanted && self.has_key() == Some(true)),
        }
    }

    /// Whether somebody took the node down, and that is respected.
    pub fn admin_down(self) -> bool {
        self.world.taken_down() && !self.overrules_down()
    }

    /// Whether a node that is down is brought up all the same.
    pub fn overrules_down(self) -> bool {
        let seen_in = self.world.record.down_in_boot.as_ref();
        let other_boot = seen_in.is_some_and(|boot| *boot != self.world.boot_id);
        match self.settings.tailnet.respect_down {
            _ if self.world.login.rejoin => true,
            RespectDown::Never => true,
            RespectDown::Always => false,
            RespectDown::Boot => other_boot,
        }
    }

    /// Whether somebody logged the node out, and that is respected.
    pub fn stays_logged_out(self) -> bool {
        let by_others = self.world.record.applied.is_some() && self.has_key() == Some(false);
        by_others && self.settings.tailnet.after_logout == AfterLogout::Stay
    }

    /// Whether a fault waits for a person.
    pub fn blocks(fault: &Fault) -> bool {
        fault.code.class() == Class::Blocked
    }
}
