//! From a token to a login.

use std::time::Duration;

use crate::core::decide::{Finding, Plan};
use crate::core::effect::{Effect, Kind, Login};
use crate::core::phase::Phase;
use crate::core::reason::Code;
use crate::core::view::{Change, Goal, Verdict, View};
use crate::core::world::{Pending, World};
use crate::metadata::spec::Tailnet;

/// The kinds on the way to a key, last first: the furthest failure says most.
const WAY: &[Kind] = &[Kind::Login, Kind::Mint, Kind::Exchange, Kind::Token];

/// tailscaled may raise another AuthURL as soon as one is withdrawn; this is as fast as they are followed.
const WITHDRAW_SPACING: Duration = Duration::from_secs(1);

pub(super) fn withdraw(view: View<'_>, plan: &mut Plan) {
    let ours = matches!(view.goal(), Goal::Joined(_) | Goal::Left) && view.admitted();
    if !ours || !view.writable() || !view.world.node.browse {
        return;
    }
    let at = view.world.track(Kind::Withdraw).done.map_or(view.now.boot, |last| last + WITHDRAW_SPACING);
    if at <= view.now.boot {
        plan.want(view, Effect::Withdraw);
    } else {
        plan.wake(Some(at));
    }
}

pub(super) fn replace(view: View<'_>, plan: &mut Plan) {
    let Goal::Joined(tailnet) = view.goal() else { return };
    let has_key = view.status().is_some_and(|status| status.have_node_key);
    if view.change(tailnet) != Some(Change::Replace) || !has_key || !view.writable() || view.admin_down() {
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
    if let (Some(Change::Reauthenticate), true) = (view.change(tailnet), view.reauth_at() > view.now.boot) {
        plan.wake(Some(view.reauth_at()));
    }
    if first_join(view) && unsure(view).is_none() {
        connect(view, plan);
    }
    if !view.admitted() || !view.needs_key(tailnet) || has_key_for(view, tailnet) {
        return;
    }
    if let Some(unsure) = unsure(view) {
        if !view.online() {
            plan.claim_unmet_by(view, Phase::WaitingForMetadata, unsure);
        }
        return;
    }
    if worth_a_key(view) {
        fetch_key(view, plan, tailnet);
    }
    if !view.online() {
        let waits_for = if view.perhaps_deleted() { Code::NodeDeleted } else { Code::TokenPending };
        plan.claim_unmet(view, Phase::Authenticating, WAY, waits_for);
    }
}

/// Why the spec in force is not one to make a node by: it was not confirmed in this run, is being taken back, or may be another machine's.
fn unsure(view: View<'_>) -> Option<Finding> {
    let platform = &view.world.platform;
    match &platform.refused {
        Some(fault) if fault.code == Code::MetadataUntrusted => Some(Finding::of(fault)),
        _ if platform.confirmed && platform.null_since.is_none() => None,
        _ => Some(view.fault(Kind::ReadSpec).map_or_else(|| Finding::plain(Code::MetadataPending), Finding::of)),
    }
}

/// The first key is made while tailscaled starts. Another one, when nobody was there to take that, waits until tailscaled answers.
fn worth_a_key(view: View<'_>) -> bool {
    !view.too_old() && (view.writable() || view.world.track(Kind::Mint).done.is_none())
}

fn has_key_for(view: View<'_>, tailnet: &Tailnet) -> bool {
    let key = view.world.credentials.key.as_ref();
    key.is_some_and(|(key, until)| key.inputs == view.key_request(tailnet) && *until > view.now.boot)
}

/// Wants the next step of the way, from its end: what a later step has to wait for, an earlier one need not fetch yet.
fn fetch_key(view: View<'_>, plan: &mut Plan, tailnet: &Tailnet) {
    let client_id = tailnet.client_id.clone();
    connect(view, plan);
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

/// Whether this will most likely be a node's first login: nothing was ever recorded of one, and whether tailscaled has a node is being looked up.
fn first_join(view: View<'_>) -> bool {
    view.verdict() == Verdict::Unknown && view.world.record.instance_id.is_none()
}

/// Opens the connection to the API before there is anything to ask over it; after a failure, it is opened by the request itself.
fn connect(view: View<'_>, plan: &mut Plan) {
    if WAY.iter().all(|kind| view.ready(*kind)) && view.fault(Kind::Connect).is_none() && !connected(view) {
        plan.want(view, Effect::Connect);
    }
}

/// Whether the connection to the API was opened; it is no request of its own worth repeating.
fn connected(view: View<'_>) -> bool {
    view.world.track(Kind::Connect).done.is_some()
}

pub(super) fn login(view: View<'_>, plan: &mut Plan) {
    let Goal::Joined(tailnet) = view.goal() else { return };
    if let Some(pending) = &view.world.login.pending {
        plan.wake(Some(pending.expires_at));
        let finding = joining(view, pending);
        return if asked_for(view, pending) {
            plan.claim(Phase::Joining, Some(finding))
        } else {
            plan.claim_unmet_by(view, Phase::Joining, finding)
        };
    }
    if !view.needs_key(tailnet) || !has_key_for(view, tailnet) {
        return;
    }
    if view.writable() && on_disk(view) && !view.world.node.browse {
        plan.want(view, Effect::Login(Box::new(made_for(view, tailnet))));
    }
    if view.change(tailnet).is_some() && view.fault(Kind::Login).is_none() {
        return plan.claim(Phase::Joining, Some(Finding::plain(Code::JoinPending)));
    }
    plan.claim_unmet(view, Phase::Joining, &[Kind::Login], Code::JoinPending);
}

/// Whether the login follows what the platform changed: then nothing is at fault.
fn asked_for(view: View<'_>, pending: &Pending) -> bool {
    view.world.record.applied.as_ref() != Some(&pending.login.inputs)
}

fn made_for(view: View<'_>, tailnet: &Tailnet) -> Login {
    Login { preferences: view.preferences(tailnet), inputs: World::inputs(tailnet, &view.world.configured.control_url) }
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
