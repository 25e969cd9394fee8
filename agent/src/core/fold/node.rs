//! What tailscaled's status and bus messages become.

use super::super::world::World;
use super::Draw;
use crate::clock::{BootTime, Now};
use crate::tailscaled::{Notify, Preferences, Status};

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
        self.node.status = Some(status);
        self.judge_login(stands, began, now, draw);
        self.judge_proof(began, now);
        if self.taken_down() && self.record.down_in_boot.is_none() {
            self.record.down_in_boot = Some(self.boot_id.clone());
        }
        if self.node.connected() {
            self.login.rejoin = false;
            self.online_at.get_or_insert(now.boot);
        }
    }

    fn judge_login(&mut self, stands: bool, began: BootTime, now: Now, draw: Draw<'_>) {
        let Some(pending) = self.login.pending.clone().filter(|pending| began >= pending.sent_at) else { return };
        let key = self.node.status.as_ref().map(|status| &status.node.public_key);
        if self.node.connected() && key != pending.old_key.as_ref() {
            self.login_succeeded(pending, now);
        } else if stands {
            self.key_refused("the control server asks for an interactive login", now.boot, draw);
        } else if pending.expires_at <= now.boot {
            self.key_expired(now.boot, draw);
        }
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
        if let Some(prefs) = notify.prefs {
            if prefs.want_running {
                self.record.down_in_boot = None;
                self.record.withdrawn &= self.track(super::super::effect::Kind::Withdraw).began.is_some();
            }
            self.node.prefs = Some(prefs);
        }
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
        } else if self.track(super::super::effect::Kind::Login).began.is_some() {
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
        self.node.wanted_round += 1;
    }

    pub(super) fn withdrew(&mut self) {
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
        self.login = super::super::world::LoginFacts { renewed: Some(now), ..Default::default() };
        if let Some(status) = &mut self.node.status {
            status.have_node_key = false;
            status.node.online = false;
        }
        self.daemon.stored = Some(false);
        self.node.wanted_round += 1;
    }
}

/// `start` takes the node offline within 14 ms (measured): a read that begins this long after it and sees Online is the proof.
const PROOF_SETTLED: std::time::Duration = std::time::Duration::from_millis(100);
