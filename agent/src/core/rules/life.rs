//! How a life begins and ends: the record, whose node it is, leaving and stopping.

use crate::core::decide::{Finding, Plan};
use crate::core::effect::{Effect, Kind};
use crate::core::phase::Phase;
use crate::core::reason::Code;
use crate::core::view::{Goal, Verdict, View};
use crate::metadata::spec::Lifecycle;

pub(super) fn stop(view: View<'_>, plan: &mut Plan) {
    let Some(stopping) = view.world.stopping else { return };
    plan.closed = true;
    save(view, plan);
    let up = view.world.daemon.up_since.is_some();
    let removal = removal(view);
    if up && view.now.boot < stopping.deadline && removal != Removal::Nothing && view.fault(Kind::Logout).is_none() {
        plan.claim(Phase::Leaving, None);
        plan.want(view, Effect::MindDaemon);
        match removal {
            Removal::Unclear => super::daemon::read_status(view, plan),
            _ => plan.want(view, Effect::Logout),
        }
        return plan.wake(Some(stopping.deadline));
    }
    match (stopping.removes && ephemeral(view), removal) {
        (_, _) if matches!(view.goal(), Goal::Left) => plan.claim(Phase::Left, None),
        (true, Removal::Nothing) => plan.claim(Phase::Left, None),
        (true, _) => plan.claim(Phase::Leaving, Some(unconfirmed(view))),
        (false, _) if stopping.stays && view.online() => plan.claim(Phase::Online, None),
        (false, _) => plan.claim(Phase::Stopped, Some(Finding::plain(Code::AgentStopping))),
    }
    let stays = !up || view.world.configured.unit;
    plan.done = stays && plan.effects.is_empty() && view.world.track(Kind::Save).began.is_none();
    if !stays {
        plan.want(view, Effect::StopDaemon);
    }
}

/// What a stop has to take from the tailnet.
#[derive(Clone, Copy, PartialEq)]
enum Removal {
    Nothing,
    Node,
    /// A login is under way: the control server may have taken it.
    Unclear,
}

fn removal(view: View<'_>) -> Removal {
    let removes = view.world.stopping.is_some_and(|stopping| stopping.removes);
    match view.has_key() {
        _ if !removes || !ephemeral(view) || !view.admitted() => Removal::Nothing,
        Some(true) => Removal::Node,
        _ if view.world.logging_in() => Removal::Unclear,
        _ => Removal::Nothing,
    }
}

fn unconfirmed(view: View<'_>) -> Finding {
    view.fault(Kind::Logout).map_or_else(|| Finding::plain(Code::LogoutFailed), Finding::of)
}

fn ephemeral(view: View<'_>) -> bool {
    let applied = view.world.record.applied.as_ref().map(|applied| applied.lifecycle);
    let wanted = view.world.platform.tailnet.as_ref().map(|tailnet| tailnet.lifecycle);
    applied.or(wanted) == Some(Lifecycle::Ephemeral)
}

pub(super) fn save(view: View<'_>, plan: &mut Plan) {
    if view.world.saved.as_ref() != Some(&view.world.record) {
        plan.want(view, Effect::Save(Box::new(view.world.record.clone())));
    }
}

pub(super) fn identity(view: View<'_>, plan: &mut Plan) {
    match view.verdict() {
        Verdict::Unknown => {
            plan.want(view, Effect::Inspect);
            plan.claim_unmet(view, Phase::CheckingIdentity, &[Kind::Inspect], Code::TailscaledStarting);
        }
        Verdict::Foreign => {
            leave_alone(view, plan);
            // On a machine without a tailnet of its own a person may have one.
            if matches!(view.goal(), Goal::Joined(_) | Goal::Left) {
                plan.claim(Phase::Blocked, Some(Finding::plain(Code::ForeignNode)));
            }
        }
        Verdict::OtherInstance => {
            if view.world.daemon.up_since.is_some() {
                plan.want(view, Effect::StopDaemon);
            }
            plan.claim(Phase::Blocked, Some(other_instance(view)));
        }
        Verdict::Fresh | Verdict::Ours => {}
    }
}

/// A person's own node runs as it would without the agent: the gate is opened for it once.
fn leave_alone(view: View<'_>, plan: &mut Plan) {
    let adopts = view.world.configured.adopt && matches!(view.goal(), Goal::Unknown | Goal::Joined(_));
    if view.world.configured.unit && !adopts && view.world.track(Kind::LeaveAlone).done.is_none() {
        plan.want(view, Effect::LeaveAlone);
    }
}

fn other_instance(view: View<'_>) -> Finding {
    let ours = view.world.record.instance_id.as_deref().unwrap_or_default();
    let id = view.world.platform.instance.as_ref().map(|instance| instance.id.as_str()).unwrap_or_default();
    Finding {
        code: Code::InstanceChanged,
        detail: format!("the node was made for instance {ours}; the metadata speaks of {id}"),
        next_try: None,
    }
}

pub(super) fn leave(view: View<'_>, plan: &mut Plan) {
    let at_rest = match view.goal() {
        Goal::Left => Phase::Left,
        Goal::Unassigned => Phase::Unassigned,
        Goal::Unknown | Goal::Joined(_) => return,
    };
    if view.has_key() != Some(true) || !view.admitted() {
        return plan.claim(at_rest, None);
    }
    if view.writable() {
        plan.want(view, Effect::Logout);
    }
    let failed = view.fault(Kind::Logout);
    let next_try = view.world.track(Kind::Logout).not_before;
    plan.claim(Phase::Leaving, failed.map(|fault| Finding { next_try, ..Finding::of(fault) }));
}
