//! The node itself: down, corrected, proven, online, and what is true besides.

use std::time::Duration;

use crate::clock::BootTime;
use crate::core::decide::{Finding, Plan};
use crate::core::effect::{Effect, Kind};
use crate::core::phase::Phase;
use crate::core::reason::Code;
use crate::core::view::{Goal, View};
use crate::identity::Trouble;
use crate::metadata::spec::Tailnet;
use crate::tailscaled::Preferences;

/// Somebody else's change of a preference that is ours is corrected at most this often.
const CORRECTION_SPACING: Duration = Duration::from_secs(60);

/// A spec that changes every second is followed at this pace.
const CHANGE_SPACING: Duration = Duration::from_secs(10);

/// At most one proof a minute (design §4).
const PROOF_SPACING: Duration = Duration::from_secs(60);

pub(super) fn down(view: View<'_>, plan: &mut Plan) {
    if !matches!(view.goal(), Goal::Joined(_)) {
        return;
    }
    if view.stays_logged_out() {
        return plan.claim(Phase::Blocked, Some(Finding::plain(Code::AdminLogout)));
    }
    if view.admin_down() {
        plan.claim(Phase::Stopped, Some(Finding::plain(Code::AdminDown)));
    } else if view.world.taken_down() && view.writable() {
        plan.want(view, Effect::Up);
    }
}

pub(super) fn preferences(view: View<'_>, plan: &mut Plan) {
    let Goal::Joined(tailnet) = view.goal() else { return };
    let settled = view.writable() && view.has_key() == Some(true) && view.world.login.pending.is_none();
    if !settled || view.needs_key(tailnet) {
        return;
    }
    let Some(wanted) = drift(view, tailnet) else { return };
    let at = correct_at(view, view.world.node.wrote.as_ref() == Some(&wanted));
    if at <= view.now.boot {
        plan.want(view, Effect::Apply(wanted));
    } else {
        plan.wake(Some(at));
    }
}

/// The preferences that are ours, if tailscaled's differ.
fn drift(view: View<'_>, tailnet: &Tailnet) -> Option<Preferences> {
    let prefs = view.world.node.prefs.as_ref()?;
    let wanted = view.preferences(tailnet);
    (prefs.owned != wanted || prefs.auto_update).then_some(wanted)
}

/// When a difference may be corrected: what we wrote and somebody changed, slowly; what the spec newly says, at once.
fn correct_at(view: View<'_>, drifted: bool) -> BootTime {
    let spacing = if drifted { CORRECTION_SPACING } else { CHANGE_SPACING };
    view.world.track(Kind::Apply).done.map_or(view.now.boot, |last| last + spacing)
}

pub(super) fn prove(view: View<'_>, plan: &mut Plan) {
    let proof = &view.world.proof;
    let Goal::Joined(tailnet) = view.goal() else { return };
    if !view.unproven() || view.needs_key(tailnet) || view.world.login.pending.is_some() {
        return;
    }
    let at = proof.last_asked.map_or(view.now.boot, |last| last + PROOF_SPACING);
    if at <= view.now.boot && view.writable() {
        plan.want(view, Effect::Prove { round: proof.round });
    } else {
        plan.wake(Some(at));
    }
    let phase = if view.was_online() { Phase::Degraded } else { Phase::Joining };
    plan.claim(phase, Some(Finding { next_try: Some(at), ..Finding::plain(Code::Unproven) }));
}

pub(super) fn online(view: View<'_>, plan: &mut Plan) {
    if view.online() {
        return plan.claim(Phase::Online, None);
    }
    plan.claim_unmet_by(view, Phase::Joining, lost(view));
}

/// Why a node that has what it needs is not online.
fn lost(view: View<'_>) -> Finding {
    let code = match view.status().map(|status| status.backend_state.as_str()) {
        Some("NeedsMachineAuth") => Code::ApprovalPending,
        _ if view.perhaps_deleted() => Code::NodeDeleted,
        _ if view.was_online() => Code::ControlLost,
        _ => Code::JoinPending,
    };
    let health = view.status().map(|status| status.health.join("; ")).unwrap_or_default();
    Finding { detail: health, ..Finding::plain(code) }
}

pub(super) fn notices(view: View<'_>, plan: &mut Plan) {
    let world = view.world;
    let metadata = view.fault(Kind::ReadSpec).or(world.platform.refused.as_ref());
    let host = [view.fault(Kind::SetHostname), view.fault(Kind::WatchHost)];
    let faults = [metadata, view.fault(Kind::Save), world.report_fault.as_ref()].into_iter().chain(host);
    plan.notices.extend(faults.flatten().map(Finding::of));
    if let Some(trouble) = &world.trouble {
        let (code, why) = match trouble {
            Trouble::SetAside(why) => (Code::StateSetAside, why),
            Trouble::Unreadable(why) => (Code::StateUnreadable, why),
        };
        plan.notices.push(Finding { detail: why.clone(), ..Finding::plain(code) });
    }
    if let (Goal::Joined(tailnet), true) = (view.goal(), view.online()) {
        plan.notices.extend(granted_otherwise(view, tailnet));
        plan.notices.extend(held_back(view, tailnet));
        plan.notices.extend(way_failed(view, tailnet));
    }
    let reason = plan.claim.as_ref().and_then(|(_, finding)| finding.as_ref()).map(|finding| finding.code);
    plan.notices.retain(|notice| Some(notice.code) != reason);
}

/// A node that is online and waits for another key, or for its preferences, says why it does not get them.
fn way_failed(view: View<'_>, tailnet: &Tailnet) -> Option<Finding> {
    let way: &[Kind] = if view.needs_key(tailnet) { &[Kind::Mint, Kind::Exchange, Kind::Token] } else { &[] };
    let apply = view.fault(Kind::Apply).filter(|_| drift(view, tailnet).is_some());
    way.iter().find_map(|kind| view.fault(*kind)).or(apply).map(Finding::of)
}

/// A change of the spec that takes a login, which comes too soon after the last.
fn held_back(view: View<'_>, tailnet: &Tailnet) -> Option<Finding> {
    let at = view.reauth_at();
    let waits = view.change(tailnet).is_some() && at > view.now.boot;
    waits.then(|| Finding { next_try: Some(at), ..Finding::plain(Code::ChangePending) })
}

fn granted_otherwise(view: View<'_>, tailnet: &Tailnet) -> Vec<Finding> {
    let Some(node) = view.status().map(|status| &status.node) else { return Vec::new() };
    let name = node.dns_name.split('.').next().unwrap_or_default();
    let mut tags = node.tags.clone();
    tags.sort();
    let mut found = Vec::new();
    if name != tailnet.hostname && node.host_name == tailnet.hostname {
        let detail = format!("asked for {}, got {name}", tailnet.hostname);
        found.push(Finding { detail, ..Finding::plain(Code::HostnameConflict) });
    }
    if tags != tailnet.tags && view.change(tailnet).is_none() {
        let detail = format!("asked for {}, got {}", tailnet.tags.join(", "), tags.join(", "));
        found.push(Finding { detail, ..Finding::plain(Code::TagsDiffer) });
    }
    found
}
