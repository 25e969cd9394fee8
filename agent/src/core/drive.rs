//! The loop: decides, keeps the wanted effects in flight, and folds what happens back into the world.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::task::JoinMap;

use super::decide::{Decision, decide};
use super::edges::Edges;
use super::effect::{Effect, Kind, Outcome};
use super::fold::{Ending, Event};
use super::launch::{Sources, Supplies, launch};
use super::reason::Fault;
use super::resume::Watch;
use super::scribe::{Outlets, Scribe};
use super::world::{Configured, World};
use crate::clock::Now;
use crate::config::Settings;
use crate::retry::Pace;
use crate::socket::Command;
use crate::systemd::HostEvent;
use crate::tailscaled::Notify;

/// The loop looks at the clocks and tells the watchdog at least this often: the tick of all periodic work.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// What reaches the loop from outside its effects.
pub enum Input {
    /// Something happened.
    Event(Event),
    /// A person asked for something, and waits to hear that it was taken.
    Asked(Command),
    /// Configuration was read again: other settings, and the edges made from them.
    Reconfigured(Box<(Settings, Edges)>),
}

/// The loop's state.
pub struct Drive {
    world: World,
    settings: Settings,
    edges: Edges,
    tasks: JoinMap<Kind, (Effect, Result<Outcome, Fault>)>,
    in_flight: BTreeMap<Kind, Effect>,
    sources: Sources,
    bus: mpsc::Receiver<Notify>,
    host: mpsc::Receiver<HostEvent>,
    clocks: Watch,
    scribe: Scribe,
}

/// A task of the agent itself panicked: half an agent is worse than none, so the process ends.
#[derive(Debug, thiserror::Error)]
#[error("failed to finish the effect {kind:?}: it panicked; this is a bug, please report it with the log above")]
pub struct Panicked {
    kind: Kind,
    #[source]
    source: tokio::task::JoinError,
}

impl Drive {
    /// A loop over `world` that publishes on `outlets`.
    pub fn new(world: World, settings: Settings, edges: Edges, outlets: Outlets) -> Self {
        let scribe = Scribe::new(outlets, edges.service.clone(), edges.metadata.provider());
        // 128 is tailscaled's own queue for a slow reader.
        let (to_bus, bus) = mpsc::channel(128);
        let (to_host, host) = mpsc::channel(8);
        Self {
            world,
            settings,
            edges,
            tasks: JoinMap::new(),
            in_flight: BTreeMap::new(),
            sources: Sources { bus: to_bus, host: to_host },
            bus,
            host,
            clocks: Watch::default(),
            scribe,
        }
    }

    /// Runs until a stop has been carried out.
    pub async fn run(mut self, inputs: &mut mpsc::Receiver<Input>) -> Result<(), Panicked> {
        self.edges.service.ready();
        loop {
            let decision = self.settle();
            if decision.done {
                return Ok(());
            }
            self.edges.service.alive();
            self.wait(&decision, inputs).await?;
            if let Some(why) = self.clocks.look(self.edges.clock.now()) {
                self.fold(Event::Resumed(why));
            }
        }
    }

    /// Decides until the effects in flight are the ones wanted; starting one is itself a fact.
    fn settle(&mut self) -> Decision {
        loop {
            let now = self.edges.clock.now();
            let decision = decide(&self.world, &self.settings, now);
            if !self.reconcile(&decision) {
                self.scribe.write(&self.world, &self.settings, &decision, now);
                return decision;
            }
        }
    }

    /// Cancels what is no longer wanted, starts what is; says whether that changed anything.
    fn reconcile(&mut self, decision: &Decision) -> bool {
        let mut changed = false;
        let wanted: BTreeMap<Kind, &Effect> = decision.effects.iter().map(|effect| (effect.kind(), effect)).collect();
        let unwanted = |(kind, effect): (&Kind, &Effect)| (wanted.get(kind) != Some(&effect)).then_some(*kind);
        let unwanted: Vec<Kind> =
            self.in_flight.iter().filter_map(unwanted).filter(|kind| !kind.runs_to_end()).collect();
        for kind in unwanted {
            self.tasks.abort(&kind);
            self.in_flight.remove(&kind);
            self.fold(Event::Cancelled(kind));
            changed = true;
        }
        for (kind, effect) in wanted {
            if !self.in_flight.contains_key(&kind) {
                self.start(effect.clone());
                changed = true;
            }
        }
        changed
    }

    fn start(&mut self, effect: Effect) {
        let kind = effect.kind();
        tracing::debug!(effect = kind.as_str(), "{} starts", kind.as_str());
        let supplies = Supplies::new(&self.edges, &self.world.credentials, &self.sources);
        self.tasks.spawn(kind, launch(effect.clone(), supplies));
        self.in_flight.insert(kind, effect);
        self.fold(Event::Began(kind));
    }

    async fn wait(&mut self, decision: &Decision, inputs: &mut mpsc::Receiver<Input>) -> Result<(), Panicked> {
        let sleep = self.sleep_until(decision, self.edges.clock.now());
        tokio::select! {
            Some((kind, ended)) = self.tasks.join_next() => self.ended(kind, ended)?,
            Some(notify) = self.bus.recv() => self.fold(Event::Bus(Box::new(notify))),
            Some(event) = self.host.recv() => self.fold(Event::Host(event)),
            input = inputs.recv() => self.take(input),
            () = self.edges.clock.sleep(sleep) => {}
        }
        Ok(())
    }

    fn sleep_until(&self, decision: &Decision, now: Now) -> Duration {
        // A millisecond more than the difference, whose fraction was cut off.
        let wake = decision.wake_at.map(|at| at.since(now.boot) + Duration::from_millis(1));
        wake.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)
    }

    fn ended(
        &mut self,
        kind: Kind,
        ended: Result<(Effect, Result<Outcome, Fault>), tokio::task::JoinError>,
    ) -> Result<(), Panicked> {
        match ended {
            Ok((effect, result)) => {
                self.in_flight.remove(&kind);
                self.log(kind, &result);
                self.fold(Event::Ended(effect, result));
                Ok(())
            }
            Err(error) if error.is_cancelled() => Ok(()),
            Err(source) => Err(Panicked { kind, source }),
        }
    }

    fn log(&self, kind: Kind, result: &Result<Outcome, Fault>) {
        let effect = kind.as_str();
        match result {
            Ok(_) => tracing::debug!(effect, "{effect} is done"),
            Err(fault) if self.world.track(kind).fault.as_ref().is_some_and(|last| last.code == fault.code) => {
                tracing::debug!(
                    effect,
                    code = fault.code.as_str(),
                    "{effect} failed again: {}: {}",
                    fault.code,
                    fault.detail
                );
            }
            Err(fault) => {
                tracing::warn!(effect, code = fault.code.as_str(), "{effect} failed: {}: {}", fault.code, fault.detail);
            }
        }
    }

    fn take(&mut self, input: Option<Input>) {
        match input {
            Some(Input::Event(event)) => self.fold(event),
            Some(Input::Asked(Command { verb, reply })) => {
                tracing::info!(verb = verb.as_str(), "somebody asked for {}", verb.as_str());
                self.fold(Event::Asked(verb));
                // A caller that went away does not need to hear it.
                let _ = reply.send(Ok(()));
            }
            Some(Input::Reconfigured(both)) => {
                let (settings, edges) = *both;
                self.hang_up();
                self.world.reconfigured(Configured::of(&settings));
                self.settings = settings;
                self.edges = edges;
                self.fold(Event::Asked(crate::socket::Verb::Refresh));
            }
            // Nobody is left who could ask for anything: the agent ends.
            None => self.fold(Event::Stop(Ending::ForGood)),
        }
    }

    /// Cancels what the provider of before is still being asked: its answer would count as that of the one that is configured now.
    fn hang_up(&mut self) {
        for kind in [Kind::ReadSpec, Kind::Token] {
            if self.in_flight.remove(&kind).is_some() {
                self.tasks.abort(&kind);
                self.fold(Event::Cancelled(kind));
            }
        }
    }

    fn fold(&mut self, event: Event) {
        let now = self.edges.clock.now();
        self.world.fold(event, now, &|pace: Pace, attempts| pace.delay(attempts));
    }
}
