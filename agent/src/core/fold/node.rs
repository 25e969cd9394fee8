//! What tailscaled's status and bus messages become.

use std::time::Duration;

use super::Draw;
use crate::clock::{BootTime, Now};
use crate::core::effect::Kind;
use crate::core::world::{LoginFacts, World};
use crate::identity::record::LoginInputs;
use crate::tailscaled::{Notify, Preferences, Status};

/// `start` takes the node offline within 14 ms (measured) and the bus says so. Should that message be lost, a read that begins this long
/// after it and sees Online is the proof as well.
const PROOF_SETTLED: Duration = Duration::from_secs(1);

/// What an AuthURL in the middle of a login with a key means.
const INTERACTIVE: &str = "the control server asks for an interactive login";

impl World {
    pub(super) fn status_read(&mut self, status: Status, began: BootTime, now: Now, draw: Draw<'_>) {
        self.daemon.unanswered = 0;
        self.node.read_round = self.node.reading_round;
        self.node.read_at = began;
        self.node.offline_since = match (status.backend_state.as_str(), status.node.online) {
            ("Running", false) => self.node.offline_since.or(Some(now.boot)),
            _ => None,
        };
        let stands = !status.auth_url.is_empty();
        self.node.browse = stands;
        self.node.tried_control |= stands || status.node.online || status.backend_state == "NeedsMachineAuth";
        self.daemon.stored = Some(status.have_node_key);
        self.node.status = Some(status);
        self.judge_login(stands, began, now, draw);
        self.judge_proof(began, now);
        if self.taken_down() && self.record.down_in_boot.is_none() {
            self.record.down_in_boot = Some(self.boot_id.clone());
        }
        if self.node.connected() {
            self.connected(now.boot);
        }
    }

    fn connected(&mut self, now: BootTime) {
        self.login.rejoin = false;
        self.was_online = true;
        self.online_at.get_or_insert(now);
        if self.record.applied.is_none() && !self.logging_in() {
            self.record.applied = self.record.attempted.take().or_else(|| self.granted());
        }
    }

    /// What the node must have been made with when the record that knew it was unreadable: the tags say themselves.
    fn granted(&self) -> Option<LoginInputs> {
        let (tailnet, status) = (self.platform.tailnet.as_ref()?, self.node.status.as_ref()?);
        if !self.lost_record() {
            return None;
        }
        let mut tags = status.node.tags.clone();
        tags.sort();
        Some(LoginInputs { tags, ..Self::inputs(tailnet, &self.configured.control_url) })
    }

    fn judge_login(&mut self, stands: bool, began: BootTime, now: Now, draw: Draw<'_>) {
        let Some(pending) = self.login.pending.clone().filter(|pending| began >= pending.sent_at) else { return };
        let key = self.node.status.as_ref().map(|status| &status.node.public_key);
        if (self.node.connected() || self.is_down()) && key != pending.old_key.as_ref() {
            self.login_succeeded(pending, now);
        } else if stands {
            self.key_refused(INTERACTIVE, now.boot, draw);
        } else if pending.expires_at <= now.boot && !self.awaits_approval() {
            self.key_expired(now.boot, draw);
        }
    }

    /// Somebody has taken the node down meanwhile. tailscaled has another node key only when control has taken it.
    fn is_down(&self) -> bool {
        self.node.status.as_ref().is_some_and(|status| status.have_node_key && status.backend_state == "Stopped")
    }

    /// Control has taken the key and waits for a person: another key would not help.
    fn awaits_approval(&self) -> bool {
        self.node.status.as_ref().is_some_and(|status| status.backend_state == "NeedsMachineAuth")
    }

    /// A read that began after the proof was asked for counts: `start` makes the node offline until control has answered anew.
    fn judge_proof(&mut self, began: BootTime, now: Now) {
        let Some(asked_at) = self.proof.asked_at.filter(|_| self.proof.needed) else { return };
        if began < asked_at {
            return;
        }
        if !self.node.connected() {
            self.proof.seen_offline = true;
        } else if self.proof.seen_offline || began.since(asked_at) >= PROOF_SETTLED {
            self.proof.needed = false;
            self.proof.proven_at = Some(now.real);
        }
    }

    pub(super) fn heard(&mut self, notify: Notify, now: Now, draw: Draw<'_>) {
        if notify == Notify::default() {
            // Engine counters arrive unasked, a dozen to a login, and mean nothing here.
            return;
        }
        self.node.wanted_round += 1;
        if notify.initial {
            let watch = self.track_mut(Kind::WatchBus);
            (watch.attempts, watch.fault) = (0, None);
        }
        // `start` has made tailscaled ask control anew: what it says from here on is the proof.
        let asked = self.proof.asked_at.is_some() || self.track(Kind::Prove).began.is_some();
        self.proof.seen_offline |= asked && notify.state.is_some_and(|state| state != "Running");
        if let Some(prefs) = notify.prefs {
            if prefs.want_running {
                self.record.down_in_boot = None;
                self.record.withdrawn &= self.track(Kind::Withdraw).began.is_some();
            }
            self.node.prefs = Some(prefs);
        }
        self.node.tried_control |=
            notify.browse || notify.error.is_some() || notify.login_state.iter().any(Option::is_some);
        if let Some(words) = notify.login_state {
            self.node.login_state = words;
        }
        self.node.browse |= notify.browse;
        if let Some(words) = notify.error.filter(|_| !notify.initial) {
            self.rejected(words, now, draw);
        }
    }

    fn rejected(&mut self, words: String, now: Now, draw: Draw<'_>) {
        if self.login.pending.is_some() {
            self.key_refused(&words, now.boot, draw);
        } else if self.track(Kind::Login).began.is_some() {
            self.login.early_refusal = Some(words);
        }
    }

    pub(super) fn applied_preferences(&mut self, wrote: Preferences) {
        if let Some(prefs) = &mut self.node.prefs {
            prefs.owned = wrote.clone();
            prefs.auto_update = false;
        }
        self.node.wrote = Some(wrote);
        self.node.wanted_round += 1;
    }

    pub(super) fn brought_up(&mut self) {
        if let Some(prefs) = &mut self.node.prefs {
            prefs.want_running = true;
            prefs.logged_out = false;
        }
        self.login.rejoin = false;
        self.record.down_in_boot = None;
        self.node.wanted_round += 1;
    }

    pub(super) fn proof_asked(&mut self, now: BootTime) {
        self.proof.asked_at = Some(now);
        self.proof.last_asked = Some(now);
        self.node.wanted_round += 1;
    }

    /// A login that was under way is over with it: it had led to the AuthURL.
    pub(super) fn withdrew(&mut self, now: BootTime, draw: Draw<'_>) {
        if self.login.pending.is_some() {
            self.key_refused(INTERACTIVE, now, draw);
        }
        self.node.browse = false;
        if let Some(status) = &mut self.node.status {
            status.auth_url.clear();
        }
        self.node.wanted_round += 1;
    }

    /// The logout was ours, so that its missing key is no surprise.
    pub(super) fn logged_out(&mut self, now: BootTime) {
        self.record.applied = None;
        self.record.attempted = None;
        self.record.withdrawn = false;
        // What somebody logs in from now on is not ours, unless a login of ours says so again.
        self.record.instance_id = None;
        self.was_online = false;
        self.login = LoginFacts { renewed: Some(now), ..LoginFacts::default() };
        if let Some(status) = &mut self.node.status {
            status.have_node_key = false;
            status.node.online = false;
        }
        self.daemon.stored = Some(false);
        self.node.wanted_round += 1;
    }
}
