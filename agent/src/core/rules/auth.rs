//! From a token to a login.

use super::super::decide::{Finding, Plan};
use super::super::effect::{Effect, Kind, Login};
use super::super::phase::Phase;
use super::super::reason::Code;
use super::super::view::{Change, Goal, Verdict, View};
use super::super::world::{Pending, World};
use crate::metadata::spec::Tailnet;

/// The kinds on the way to a key, last first: the furthest failure says most.
const WAY: &[Kind] = &[Kind::Login, Kind::Mint, Kind::Exchange, Kind::Token];

pub(super) fn withdraw(view: View<'_>, plan: &mut Plan) {
    let logging_in = view.world.track(Kind::Login).began.is_some();
    if matches!(view.goal(), Goal::Joined(_)) && view.writable() && view.world.node.browse && !logging_in {
        plan.want(view, Effect::Withdraw);
    }
}

pub(super) fn replace(view: View<'_>, plan: &mut Plan) {
    let Goal::Joined(tailnet) = view.goal() else { return };
    let has_key = view.status().is_some_and(|status| status.have_node_key);
    if view.change(tailnet) != Some(Change::Replace) || !has_key || !view.writable() {
        return;
    }
    if view.reauth_at() > view.now.boot {
        return plan.wake(Some(view.reauth_at()));
    }
    plan.want(view, Effect::Logout);
    plan.claim_unmet(view, Phase::Joining, &[Kind::Logout], Code::JoinPending);
}

pub(super) fn authenticate(view: View<'_>, plan: &mut Plan) {
    let Goal::Joined(tailnet) = view.goal() else { return };
    let admitted = matches!(view.verdict(), Verdict::Fresh | Verdict::Ours);
    if let (Some(Change::Reauthenticate), true) = (view.change(tailnet), view.reauth_at() > view.now.boot) {
        plan.wake(Some(view.reauth_at()));
    }
    if !admitted || view.untrusted() || !view.needs_key(tailnet) || has_key_for(view, tailnet) {
        return;
    }
    fetch_key(view, plan, tailnet);
    if !view.online() {
        let waits_for = if view.perhaps_deleted() { Code::NodeDeleted } else { Code::TokenPending };
        plan.claim_unmet(view, Phase::Authenticating, WAY, waits_for);
    }
}

fn has_key_for(view: View<'_>, tailnet: &Tailnet) -> bool {
    let key = view.world.credentials.key.as_ref();
    key.is_some_and(|(key, until)| key.inputs == view.key_request(tailnet) && *until > view.now.boot)
}

/// Wants the next step of the way, from its end: what a later step has to wait for, an earlier one need not fetch yet.
fn fetch_key(view: View<'_>, plan: &mut Plan, tailnet: &Tailnet) {
    let client_id = tailnet.client_id.clone();
    if view.world.track(Kind::Connect).done.is_none() {
        plan.want(view, Effect::Connect);
    }
    if !view.ready(Kind::Login) {
        return plan.wake(view.world.track(Kind::Login).not_before);
    }
    let access = view.world.credentials.access.as_ref();
    if access.is_some_and(|(access, until)| access.inputs == client_id && *until > view.now.boot) {
        return plan.want(view, Effect::Mint(view.key_request(tailnet)));
    }
    if !view.ready(Kind::Mint) {
        return plan.wake(view.world.track(Kind::Mint).not_before);
    }
    let jwt = view.world.credentials.jwt.as_ref();
    if jwt.is_some_and(|(jwt, until)| jwt.inputs == client_id && *until > view.now.real) {
        return plan.want(view, Effect::Exchange { client_id });
    }
    if !view.ready(Kind::Exchange) {
        return plan.wake(view.world.track(Kind::Exchange).not_before);
    }
    plan.want(view, Effect::Token { client_id });
}

pub(super) fn login(view: View<'_>, plan: &mut Plan) {
    let Goal::Joined(tailnet) = view.goal() else { return };
    if let Some(pending) = &view.world.login.pending {
        plan.wake(Some(pending.expires_at));
        return plan.claim_unmet_by(view, Phase::Joining, joining(view, pending));
    }
    if !view.needs_key(tailnet) || !has_key_for(view, tailnet) {
        return;
    }
    if view.writable() && on_disk(view) && !withdrawing(view) {
        plan.want(view, Effect::Login(Box::new(made_for(view, tailnet))));
    }
    plan.claim_unmet(view, Phase::Joining, &[Kind::Login], Code::JoinPending);
}

/// A login waits for the withdrawal: crossing it, one of the two would take the node down again.
fn withdrawing(view: View<'_>) -> bool {
    view.world.node.browse || view.world.track(Kind::Withdraw).began.is_some()
}

fn made_for(view: View<'_>, tailnet: &Tailnet) -> Login {
    Login { preferences: view.preferences(tailnet), inputs: World::inputs(tailnet, &view.world.control_url) }
}

/// Whether the record that tells a later run whose node this is has been written, or cannot be: then the agent goes on from memory.
fn on_disk(view: View<'_>) -> bool {
    let (record, saved) = (&view.world.record, view.world.saved.as_ref());
    let kept = saved.is_some_and(|saved| {
        saved.instance_id == record.instance_id && (record.applied.is_some() || saved.attempted == record.attempted)
    });
    kept || view.fault(Kind::Save).is_some()
}

/// What a login that was sent waits for, in the words of whoever holds it up.
fn joining(view: View<'_>, pending: &Pending) -> Finding {
    let code = match view.status().map(|status| status.backend_state.as_str()) {
        Some("NeedsMachineAuth") => Code::ApprovalPending,
        _ => Code::JoinPending,
    };
    let detail = view.world.node.login_state.clone().unwrap_or_default();
    Finding { code, detail, next_try: Some(pending.expires_at) }
}
