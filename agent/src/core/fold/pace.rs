//! How failures and successes set the pace of each kind of effect.

use std::time::Duration;

use super::Draw;
use crate::clock::BootTime;
use crate::core::effect::Kind;
use crate::core::reason::{Class, Code, Fault};
use crate::core::world::{Track, World};
use crate::identity::record::RememberedPace;
use crate::retry::{LOCAL, METADATA, Pace, REFUSED, REMOTE, RETRY_AFTER_MAX, UNIT, UNSENT, UNSENT_FOR};
use crate::socket::document::Stage;

impl World {
    pub(super) fn track_mut(&mut self, kind: Kind) -> &mut Track {
        self.tracks.entry(kind).or_default()
    }

    pub(super) fn succeeded(&mut self, kind: Kind, began: BootTime, now: BootTime) {
        *self.track_mut(kind) = Track { done: Some(now), ..Track::default() };
        self.record.not_before.remove(kind.as_str());
        if let Some(name) = kind.stage() {
            self.stage(name, began, now);
        }
    }

    /// Notes a stage of the boot; only the first of its name, and only until the node is online.
    pub(super) fn stage(&mut self, name: &str, began: BootTime, now: BootTime) {
        if self.online_at.is_some() || self.stages.iter().any(|stage| stage.name == name) {
            return;
        }
        let duration_ms = u64::try_from(now.since(began).as_millis()).unwrap_or(u64::MAX);
        self.stages.push(Stage { name: name.to_owned(), start_ms: began, duration_ms });
    }

    pub(super) fn failed(&mut self, kind: Kind, fault: Fault, now: BootTime, draw: Draw<'_>) {
        let track = self.track_mut(kind);
        let free = track.still_unsent(&fault, now);
        if !free {
            track.attempts += 1;
        }
        let attempts = track.attempts;
        let delay = if free { UNSENT } else { self.delay(kind, &fault, attempts, draw) };
        let track = self.track_mut(kind);
        let asked = fault.retry_after.map(|wait| wait.min(RETRY_AFTER_MAX));
        track.asked = asked.is_some();
        track.not_before = Some(now + delay.max(asked.unwrap_or_default()));
        track.fault = Some(fault);
        self.remember_pace(kind);
    }

    fn delay(&self, kind: Kind, fault: &Fault, attempts: u32, draw: Draw<'_>) -> Duration {
        let remote = matches!(kind, Kind::ReadSpec | Kind::Token | Kind::Exchange | Kind::Mint | Kind::Login);
        if remote && fault.code.class() == Class::Blocked {
            // Drawn on top, so that the least is REFUSED itself: four tries an hour at most.
            return REFUSED + draw(REMOTE, 8);
        }
        let given_up = kind == Kind::StartDaemon && fault.code != Code::HelperUnavailable;
        draw(if self.configured.unit && given_up { UNIT } else { pace(kind) }, attempts)
    }

    /// Forgets what went wrong, but not when it last went right.
    pub(super) fn forgive(&mut self, kind: Kind) {
        let done = self.track(kind).done;
        self.tracks.insert(kind, Track { done, ..Track::default() });
        self.record.not_before.remove(kind.as_str());
    }

    fn remember_pace(&mut self, kind: Kind) {
        let track = self.track(kind);
        let fault = track.fault.as_ref().map(|fault| (fault.code, fault.detail.clone()));
        let pace =
            track.not_before.map(|at| RememberedPace { at, attempts: track.attempts, asked: track.asked, fault });
        if let (true, Some(pace)) = (kind.remembers_pace(), pace) {
            self.record.not_before.insert(kind.as_str().to_owned(), pace);
        }
    }

    /// Forgets every `not_before` that the other side did not ask for.
    pub(super) fn forget_pace(&mut self) {
        for track in self.tracks.values_mut().filter(|track| !track.asked) {
            track.not_before = None;
        }
        self.record.not_before.retain(|_, pace| pace.asked);
    }
}

impl Track {
    /// Whether this failure costs nobody anything: no packet left, and that since less than a minute.
    fn still_unsent(&mut self, fault: &Fault, now: BootTime) -> bool {
        if !fault.unsent {
            self.unsent_since = None;
            return false;
        }
        let since = *self.unsent_since.get_or_insert(now);
        now.since(since) < UNSENT_FOR
    }
}

fn pace(kind: Kind) -> Pace {
    match kind {
        Kind::ReadSpec | Kind::Token => METADATA,
        Kind::Save | Kind::Connect | Kind::Exchange | Kind::Mint | Kind::Login | Kind::Logout => REMOTE,
        Kind::SetHostname | Kind::LeaveAlone => REMOTE,
        _ => LOCAL,
    }
}
