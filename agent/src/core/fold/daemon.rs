//! What becomes of tailscaled, the process.

use std::time::Duration;

use super::Draw;
use crate::clock::{BootTime, Now};
use crate::core::effect::Kind;
use crate::core::reason::{Code, Fault};
use crate::core::world::World;
use crate::identity::record::Desired;

/// A tailscaled that ran this long did not crash at its start: it is started again at once.
const STEADY: Duration = Duration::from_secs(10);

/// So many ends right after the start in a row are a crash loop.
const CRASHES: u32 = 3;

impl World {
    pub(super) fn inspected(&mut self, stored: bool) {
        self.daemon.stored = Some(stored);
        if stored && self.record.applied.is_none() {
            // Only our own login can have made the node: the agent ended before it saw the success.
            self.record.applied = self.record.attempted.take();
        }
    }

    /// A node that is not ours may have been logged out since.
    pub(super) fn look_again_whose(&mut self) {
        if self.daemon.stored == Some(true) && self.record.instance_id.is_none() {
            self.daemon.stored = None;
        }
    }

    /// Keeps the record's instance and intent in step with what is known, well before the first login needs them on disk.
    pub(super) fn settle_identity(&mut self) {
        if self.record.desired == Desired::Left {
            return;
        }
        let Some(instance) = self.platform.instance.as_ref().filter(|_| self.platform.confirmed) else { return };
        let lost = self.lost_record() && self.record.instance_id.is_none();
        let fresh = self.daemon.stored == Some(false);
        // A person who says `rejoin` of a node that is not ours hands it over, or configuration does: it authenticates anew, as ours.
        let foreign = self.daemon.stored == Some(true) && self.record.instance_id.is_none();
        let handed_over = foreign && (self.login.rejoin || self.configured.adopt);
        let ours = fresh || lost || handed_over;
        let Some(tailnet) = self.platform.tailnet.as_ref().filter(|_| ours) else { return };
        self.record.instance_id = Some(instance.id.clone());
        self.login.forced |= handed_over;
        if fresh && self.record.applied.is_none() && !self.logging_in() {
            self.record.attempted = Some(Self::inputs(tailnet, &self.configured.control_url));
        }
    }

    pub(super) fn daemon_started(&mut self, now: BootTime) {
        self.daemon.up_since = Some(now);
        self.daemon.run += 1;
        self.daemon.unanswered = 0;
        self.node.forget();
        for kind in [Kind::ReadStatus, Kind::WatchBus, Kind::MindDaemon] {
            self.tracks.remove(&kind);
        }
    }

    pub(super) fn daemon_stopped(&mut self, now: BootTime) {
        self.daemon.restarted = Some(now);
        self.daemon_gone();
    }

    /// The process is gone, and with it a key that it had not used yet.
    pub(super) fn daemon_gone(&mut self) {
        self.daemon.up_since = None;
        self.login.early_refusal = None;
        if self.login.pending.take().is_some() {
            // Control may have taken the key just before: what is stored now has to be looked at.
            self.daemon.stored = None;
        }
        self.node.forget();
    }

    pub(super) fn failed_effect(&mut self, kind: Kind, fault: Fault, now: Now, draw: Draw<'_>) {
        self.auth_failed(kind, &fault);
        match kind {
            Kind::MindDaemon => self.daemon_ended(fault, now.boot, draw),
            Kind::StartDaemon => self.crashed(fault, now.boot, draw),
            Kind::ReadStatus => self.status_unread(fault, now.boot, draw),
            Kind::WatchBus => {
                self.node.wanted_round += 1;
                self.failed(kind, fault, now.boot, draw);
            }
            _ => self.failed(kind, fault, now.boot, draw),
        }
    }

    fn daemon_ended(&mut self, fault: Fault, now: BootTime, draw: Draw<'_>) {
        let meant = self.track(Kind::StopDaemon).began.is_some();
        let steady = self.daemon.up_since.is_some_and(|since| now.since(since) >= STEADY);
        let hands_off = fault.retry_after.filter(|_| !meant);
        self.daemon_gone();
        // systemd starts a unit again by itself, and says when it gives up.
        if meant || steady || self.configured.unit {
            self.daemon.crashes = 0;
            self.tracks.remove(&Kind::StartDaemon);
            self.track_mut(Kind::StartDaemon).not_before = hands_off.map(|wait| now + wait);
        } else {
            self.crashed(fault, now, draw);
        }
    }

    /// The start failed, or the process ended right after it: both count towards the crash loop and set the next start's pace.
    fn crashed(&mut self, fault: Fault, now: BootTime, draw: Draw<'_>) {
        self.daemon.crashes += 1;
        let looping = self.daemon.crashes >= CRASHES && fault.code == Code::TailscaledStarting;
        let code = if looping { Code::TailscaledCrashloop } else { fault.code };
        self.track_mut(Kind::StartDaemon).attempts = self.daemon.crashes - 1;
        self.failed(Kind::StartDaemon, Fault { code, ..fault }, now, draw);
    }

    /// The first unanswered read is repeated at once; only two in a row mean that tailscaled hangs (design §4).
    fn status_unread(&mut self, fault: Fault, now: BootTime, draw: Draw<'_>) {
        let hung = fault.code == Code::TailscaledHung;
        self.failed(Kind::ReadStatus, fault, now, draw);
        if hung {
            self.daemon.unanswered += 1;
            self.track_mut(Kind::ReadStatus).not_before = None;
        }
    }
}
