//! The machine that the agent is on: what it tells, and what it is called.

use crate::core::decide::Plan;
use crate::core::effect::Effect;
use crate::core::view::{Goal, View};

pub(super) fn watch(view: View<'_>, plan: &mut Plan) {
    if view.world.configured.unit {
        plan.want(view, Effect::WatchHost);
    }
}

pub(super) fn hostname(view: View<'_>, plan: &mut Plan) {
    let Goal::Joined(tailnet) = view.goal() else { return };
    let named = view.world.host.named.as_ref() == Some(&tailnet.hostname);
    // A person's own node goes by the machine's name in their tailnet: left alone means with its name.
    if view.world.configured.unit && view.settings.hostname.system && view.admitted() && !named {
        plan.want(view, Effect::SetHostname { name: tailnet.hostname.clone() });
    }
}
