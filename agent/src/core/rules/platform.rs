//! What the platform says.

use std::time::Duration;

use crate::core::decide::{Finding, Plan};
use crate::core::effect::{Effect, Kind};
use crate::core::phase::Phase;
use crate::core::reason::Code;
use crate::core::view::{Goal, View};

/// How long the server is asked to hold a request; the protocol's longest.
const HOLD: Duration = Duration::from_secs(55);

pub(super) fn metadata(view: View<'_>, plan: &mut Plan) {
    let platform = &view.world.platform;
    let holds = platform.etag.is_some() && !platform.polls && !platform.resumed;
    let wait = if holds { HOLD } else { Duration::ZERO };
    plan.want(view, Effect::ReadSpec { etag: platform.etag.clone(), wait, round: platform.round });
    if view.goal() != Goal::Unknown {
        return;
    }
    match &platform.refused {
        Some(fault) if View::blocks(fault) => plan.claim(Phase::Blocked, Some(Finding::of(fault))),
        Some(fault) => plan.claim(Phase::WaitingForMetadata, Some(Finding::of(fault))),
        None if view.fault(Kind::ReadSpec).is_some() => {
            plan.claim_unmet(view, Phase::WaitingForMetadata, &[Kind::ReadSpec], Code::MetadataUnreachable);
        }
        None => plan.claim(Phase::WaitingForMetadata, None),
    }
}
