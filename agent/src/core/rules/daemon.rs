//! tailscaled, the process.

use std::time::Duration;

use crate::clock::BootTime;
use crate::core::decide::{Finding, Plan};
use crate::core::effect::{Effect, Kind};
use crate::core::phase::Phase;
use crate::core::reason::Code;
use crate::core::view::{Goal, View};

/// Status reads in a row that a hanging tailscaled leaves unanswered.
const UNANSWERED_MAX: u32 = 2;

/// A tailscaled that needs it again is given this long before it is restarted again (faults F38).
const RESTART_SPACING: Duration = Duration::from_secs(300);

/// A try to reach control takes a second, and one that fails says so; by then it was made even where nothing answers it.
const DEAF_AFTER: Duration = Duration::from_secs(30);

/// The one tick of all periodic work (design §10).
const TICK: Duration = Duration::from_secs(10);

/// `Online` has no bus message: while a login or a proof settles, the status is read this often…
const SETTLE_TICK: Duration = Duration::from_millis(25);

/// …for this long, and then every second.
const SETTLE_FOR: Duration = Duration::from_secs(3);

/// How often the status is read while control has not answered a login or a proof for longer than that.
const SETTLE_SLOW: Duration = Duration::from_secs(1);

pub(super) fn run(view: View<'_>, plan: &mut Plan) {
    let run = view.world.daemon.run;
    if view.world.daemon.up_since.is_some() {
        plan.want(view, Effect::MindDaemon);
        plan.want(view, Effect::WatchBus { run });
        return;
    }
    if !view.admitted() {
        return;
    }
    // A unit's process is gone before its stop is done, and a start would cancel the stop.
    if view.world.track(Kind::StopDaemon).began.is_none() {
        plan.want(view, Effect::StartDaemon);
    }
    plan.claim_unmet(view, Phase::StartingDaemon, &[Kind::StartDaemon], Code::TailscaledStarting);
}

pub(super) fn hang(view: View<'_>, plan: &mut Plan) {
    let daemon = &view.world.daemon;
    if daemon.up_since.is_none() {
        return;
    }
    let stopping = view.world.track(Kind::StopDaemon).began.is_some();
    let Some(code) = restart_for(view, plan).or(stopping.then_some(Code::TailscaledHung)) else { return };
    let at = daemon.restarted.map_or(view.now.boot, |last| last + RESTART_SPACING);
    if at <= view.now.boot || stopping {
        plan.want(view, Effect::StopDaemon);
    } else {
        plan.wake(Some(at));
    }
    let phase = if view.was_online() { Phase::Degraded } else { Phase::StartingDaemon };
    plan.claim(phase, Some(Finding::plain(code)));
}

/// Why tailscaled has to be restarted, where it can be.
fn restart_for(view: View<'_>, plan: &mut Plan) -> Option<Code> {
    let daemon = &view.world.daemon;
    if daemon.once {
        return None;
    }
    if daemon.unanswered >= UNANSWERED_MAX {
        return Some(Code::TailscaledHung);
    }
    let deaf_at = view.idle_since().filter(|_| matches!(view.goal(), Goal::Joined(_))).map(|since| since + DEAF_AFTER);
    plan.wake(deaf_at);
    deaf_at.filter(|at| *at <= view.now.boot).map(|_| Code::TailscaledDeaf)
}

pub(super) fn status(view: View<'_>, plan: &mut Plan) {
    if view.world.daemon.up_since.is_none() {
        return;
    }
    read_status(view, plan);
    if view.too_old() {
        return plan.claim(Phase::Blocked, Some(too_old(view)));
    }
    if view.status().is_none() {
        plan.claim_unmet(view, Phase::StartingDaemon, &[Kind::ReadStatus], Code::TailscaledStarting);
    }
}

/// Wants the status at its pace.
pub(super) fn read_status(view: View<'_>, plan: &mut Plan) {
    let Some(up_since) = view.world.daemon.up_since else { return };
    let due = due(view, up_since);
    if due <= view.now.boot {
        plan.want(view, Effect::ReadStatus { run: view.world.daemon.run });
    } else {
        plan.wake(Some(due));
    }
}

fn due(view: View<'_>, up_since: BootTime) -> BootTime {
    let node = &view.world.node;
    if node.status.is_none() || node.read_round != node.wanted_round {
        return view.now.boot;
    }
    node.read_at.max(up_since) + tick(view)
}

fn tick(view: View<'_>) -> Duration {
    let pending = view.world.login.pending.as_ref().map(|pending| pending.sent_at);
    let proving = view.world.proof.asked_at.filter(|_| view.unproven());
    match pending.or(proving) {
        Some(since) if view.now.boot.since(since) < SETTLE_FOR => SETTLE_TICK,
        Some(_) => SETTLE_SLOW,
        None => TICK,
    }
}

fn too_old(view: View<'_>) -> Finding {
    let version = view.status().map(|status| status.version.as_str()).unwrap_or_default();
    let (major, minor) = view.settings.daemon.min_version;
    Finding {
        code: Code::TailscaledTooOld,
        detail: format!("this is {version}; {major}.{minor} is the oldest that works"),
        next_try: None,
    }
}
