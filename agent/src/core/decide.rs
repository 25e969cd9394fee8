//! The decision: a pure function of what is known, what is configured, and the moment.

use super::effect::{Effect, Kind};
use super::phase::Phase;
use super::reason::{Code, Fault};
use super::rules::RULES;
use super::view::View;
use super::world::World;
use crate::clock::{BootTime, Now};
use crate::config::Settings;

/// What follows from the world.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Where the agent is.
    pub phase: Phase,
    /// Why it is not online.
    pub reason: Option<Finding>,
    /// What is true besides.
    pub notices: Vec<Finding>,
    /// The effects to have in flight.
    pub effects: Vec<Effect>,
    /// When to look again if nothing happens before.
    pub wake_at: Option<BootTime>,
    /// Nothing is left to do: the agent may end.
    pub done: bool,
}

/// A row of the reason table with this case's words.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The row.
    pub code: Code,
    /// This case.
    pub detail: String,
    /// When the agent tries again.
    pub next_try: Option<BootTime>,
}

impl Finding {
    /// A row whose sentence says it all.
    pub fn plain(code: Code) -> Self {
        Self { code, detail: String::new(), next_try: None }
    }

    /// A row of the table in the words of a failure.
    pub fn of(fault: &Fault) -> Self {
        Self { code: fault.code, detail: fault.detail.clone(), next_try: None }
    }
}

/// The decision while the rules add to it. The first rule that claims the phase has it; effects add up.
pub struct Plan {
    now: BootTime,
    pub(super) claim: Option<(Phase, Option<Finding>)>,
    pub(super) notices: Vec<Finding>,
    pub(super) effects: Vec<Effect>,
    pub(super) wake_at: Option<BootTime>,
    pub(super) done: bool,
    pub(super) closed: bool,
}

impl Plan {
    pub(super) fn at(now: BootTime) -> Self {
        Self { now, claim: None, notices: Vec::new(), effects: Vec::new(), wake_at: None, done: false, closed: false }
    }

    /// Says where the agent is, unless an earlier rule has.
    pub fn claim(&mut self, phase: Phase, finding: Option<Finding>) {
        self.claim.get_or_insert((phase, finding));
    }

    /// Claims `phase`, or `blocked` when the failure of `kind` waits for a person, or `degraded` when the node was online; `otherwise`
    /// is the reason while nothing has failed.
    pub fn claim_unmet(&mut self, view: View<'_>, phase: Phase, kinds: &[Kind], otherwise: Code) {
        let failed = kinds.iter().find_map(|kind| view.fault(*kind).map(|fault| (*kind, fault)));
        let finding = failed.map_or_else(
            || Finding::plain(otherwise),
            |(kind, fault)| Finding { next_try: view.next_try(kind), ..Finding::of(fault) },
        );
        let phase = match failed {
            Some((_, fault)) if View::blocks(fault) => Phase::Blocked,
            _ if view.was_online() => Phase::Degraded,
            _ => phase,
        };
        self.claim(phase, Some(finding));
    }

    /// Claims `phase` for a reason that is no failure, or `degraded` when the node was online.
    pub fn claim_unmet_by(&mut self, view: View<'_>, phase: Phase, finding: Finding) {
        self.claim(if view.was_online() { Phase::Degraded } else { phase }, Some(finding));
    }

    /// Wants an effect: now, or when its pace allows.
    pub fn want(&mut self, view: View<'_>, effect: Effect) {
        let kind = effect.kind();
        if view.world.track(kind).began.is_some() {
            self.effects.push(effect);
        } else if !view.ready(kind) {
            self.wake(view.world.track(kind).not_before);
        } else if !(kind.writes() && self.writing(view)) {
            self.effects.push(effect);
        }
    }

    /// Whether a write to tailscaled is in flight or about to be.
    fn writing(&self, view: View<'_>) -> bool {
        let in_flight = Kind::ALL.iter().any(|kind| kind.writes() && view.world.track(*kind).began.is_some());
        in_flight || self.effects.iter().any(|effect| effect.kind().writes())
    }

    /// Asks to be decided again at `at`. A time that has come asks for nothing: what it was waited for shows in this decision.
    pub fn wake(&mut self, at: Option<BootTime>) {
        let at = at.filter(|at| *at > self.now);
        self.wake_at = [self.wake_at, at].into_iter().flatten().min();
    }
}

/// Says where the agent is, what is wrong, and what is to be done.
pub fn decide(world: &World, settings: &Settings, now: Now) -> Decision {
    let view = View { world, settings, now };
    let mut plan = Plan::at(now.boot);
    for rule in RULES {
        (rule.apply)(view, &mut plan);
        if plan.closed {
            break;
        }
    }
    let (phase, reason) = plan.claim.unwrap_or((Phase::Online, None));
    Decision { phase, reason, notices: plan.notices, effects: plan.effects, wake_at: plan.wake_at, done: plan.done }
}
