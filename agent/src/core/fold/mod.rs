//! How what happens becomes facts. Delays are drawn here, so that the rules stay deterministic.

mod auth;
mod daemon;
mod host;
mod node;
mod pace;
mod platform;

use std::time::Duration;

use super::effect::{Effect, Kind, Outcome};
use super::reason::Fault;
use super::world::{Credentials, World};
use crate::clock::{BootTime, Now};
use crate::identity::record::Desired;
use crate::retry::Pace;
use crate::socket::Verb;
use crate::systemd::HostEvent;
use crate::tailscaled::Notify;

/// Signs of a resume this close to each other are of the same one.
const SAME_RESUME: Duration = Duration::from_secs(5);

/// Something that happened.
pub enum Event {
    /// An effect was started.
    Began(Kind),
    /// An effect ended by itself.
    Ended(Effect, Result<Outcome, Fault>),
    /// An effect was cancelled because it was no longer wanted.
    Cancelled(Kind),
    /// tailscaled said something.
    Bus(Box<Notify>),
    /// A person asked for something.
    Asked(Verb),
    /// The machine was resumed, or its clock stepped.
    Resumed(&'static str),
    /// The report publisher's state changed.
    Report(Option<Fault>),
    /// The machine told something.
    Host(HostEvent),
    /// The agent is to end.
    Stop(Ending),
}

/// What follows the end of this agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing: the machine ends too.
    WithMachine,
    /// Nothing, for as long as the machine runs: somebody stopped the agent.
    ForGood,
    /// Another agent: a restart, or an upgrade.
    ForNow,
}

/// Draws the delay after a number of failures; tests pass one that always draws the same.
pub type Draw<'a> = &'a dyn Fn(Pace, u32) -> Duration;

impl World {
    /// Takes in what happened at `now`.
    pub fn fold(&mut self, event: Event, now: Now, draw: Draw<'_>) {
        match event {
            Event::Began(kind) => self.began(kind, now.boot),
            Event::Ended(effect, result) => self.ended(effect, result, now, draw),
            Event::Cancelled(kind) => self.track_mut(kind).began = None,
            Event::Bus(notify) => self.heard(*notify, now, draw),
            Event::Asked(verb) => self.asked(verb),
            Event::Resumed(why) => self.resumed(why, now.boot),
            Event::Report(fault) => self.report_fault = fault,
            Event::Host(event) => self.told(event, now.boot),
            Event::Stop(ending) => self.stop(ending, now.boot),
        }
        self.settle_identity();
    }

    fn began(&mut self, kind: Kind, now: BootTime) {
        self.track_mut(kind).began = Some(now);
        match kind {
            Kind::ReadStatus => self.node.reading_round = self.node.wanted_round,
            Kind::Login => self.login_begins(),
            Kind::Withdraw => self.record.withdrawn = true,
            Kind::Prove => self.proof.seen_offline = false,
            _ => {}
        }
    }

    fn ended(&mut self, effect: Effect, result: Result<Outcome, Fault>, now: Now, draw: Draw<'_>) {
        let kind = effect.kind();
        let began = self.track_mut(kind).began.take().unwrap_or(now.boot);
        match result {
            Ok(outcome) => {
                self.succeeded(kind, began, now.boot);
                self.brought(effect, outcome, began, now, draw);
            }
            Err(fault) => self.failed_effect(kind, fault, now, draw),
        }
    }

    fn brought(&mut self, effect: Effect, outcome: Outcome, began: BootTime, now: Now, draw: Draw<'_>) {
        match (effect, outcome) {
            (Effect::Inspect, Outcome::Stored(stored)) => self.inspected(stored),
            (Effect::ReadSpec { wait, .. }, Outcome::Read(read)) => self.read(read, wait, began, now),
            (Effect::Save(record), _) => self.saved = Some(*record),
            (Effect::StartDaemon, _) => self.daemon_started(now.boot),
            (Effect::StopDaemon, _) => self.daemon_stopped(now.boot),
            (Effect::ReadStatus { run }, Outcome::Status(status)) if run == self.daemon.run => {
                self.status_read(*status, began, now, draw);
            }
            (Effect::Token { client_id }, Outcome::Token(jwt, claims)) => {
                self.token_fetched((client_id, jwt), &claims, now, draw);
            }
            (Effect::Exchange { client_id }, Outcome::Access(access)) => {
                self.exchanged(client_id, access, now.boot, draw);
            }
            (Effect::Mint(request), Outcome::Key(key)) => self.minted(request, key, now.boot),
            (Effect::Login(login), _) => self.login_sent(*login, now, draw),
            (Effect::Apply(wrote), _) => self.applied_preferences(wrote),
            (Effect::Up, _) => self.brought_up(),
            (Effect::Prove { .. }, _) => self.proof_asked(now.boot),
            (Effect::Withdraw, _) => self.withdrew(now.boot, draw),
            (Effect::Logout, _) => self.logged_out(now.boot),
            (Effect::SetHostname { name }, _) => self.host.named = Some(name),
            _ => {}
        }
    }

    fn asked(&mut self, verb: Verb) {
        self.forget_pace();
        match verb {
            Verb::Refresh => {
                self.reread();
                self.look_again_whose();
            }
            Verb::Rejoin => self.rejoin(),
            Verb::Leave => self.record.desired = Desired::Left,
        }
    }

    fn forgive_unless_running(&mut self, kind: Kind) {
        if self.track(kind).began.is_none() {
            self.forgive(kind);
        }
    }

    fn resumed(&mut self, why: &'static str, now: BootTime) {
        tracing::info!("the machine counts as resumed: {why}");
        self.platform.resumed = true;
        self.reread();
        self.start_over_after_resume(now);
    }

    /// Credentials and what was proven belong to the time before the pause. The clocks, the kernel and the platform each tell of the same
    /// resume; what comes moments after the first is no other one.
    fn start_over_after_resume(&mut self, now: BootTime) {
        let last = self.proof.resumed_at.replace(now);
        if last.is_some_and(|last| now.since(last) < SAME_RESUME) {
            return;
        }
        self.credentials = Credentials::default();
        // Its connection died in the pause without saying so; asked for again, the client starts afresh.
        self.tracks.remove(&Kind::Connect);
        self.proof.needed = self.node.status.as_ref().is_some_and(|status| status.have_node_key);
        self.proof.seen_offline = false;
        self.proof.asked_at = None;
        self.proof.round += 1;
        self.node.wanted_round += 1;
    }
}
