//! The rules against a model of everything outside: random histories, in virtual time, with no I/O.

mod outside;
mod process;
mod stories;
mod unit;
mod whose;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use self::outside::Outside;
use super::decide::{Decision, Plan, decide};
use super::effect::{Effect, Kind, Outcome};
use super::fold::Event;
use super::phase::Phase;
use super::reason::{Code, Fault};
use super::rules::RULES;
use super::view::View;
use super::world::{Configured, World};
use crate::clock::{BootTime, Now};
use crate::config::Settings;
use crate::config::testing::settings;
use crate::identity::Loaded;
use crate::socket::Verb;

/// An agent that lives in virtual time beside an [`Outside`].
pub(super) struct Simulation {
    pub world: World,
    pub settings: Settings,
    pub outside: Outside,
    pub now_ms: u64,
    in_flight: BTreeMap<Kind, (Effect, u64)>,
    pub started: Vec<(u64, Kind)>,
    pub phases: Vec<Phase>,
    last: Option<Decision>,
}

impl Simulation {
    /// An agent whose child tailscaled is.
    pub fn new() -> Self {
        Self::under("child")
    }

    /// An agent with this `[daemon] supervisor`.
    pub fn under(supervisor: &str) -> Self {
        let supervisor = format!("daemon.supervisor={supervisor}");
        let settings = settings(&["tailnet.control_url=http://10.0.0.1:8080", &supervisor]);
        let mut simulation = Self::with(settings, Loaded::default(), Outside::default(), 1_000);
        simulation.outside.unit = simulation.world.configured.unit;
        simulation
    }

    fn with(settings: Settings, loaded: Loaded, outside: Outside, now_ms: u64) -> Self {
        let world = World::new("boot".to_owned(), Configured::of(&settings), loaded);
        let (started, phases, last) = (Vec::new(), Vec::new(), None);
        Self { world, settings, outside, now_ms, in_flight: BTreeMap::new(), started, phases, last }
    }

    pub fn now(&self) -> Now {
        let real = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_millis(self.now_ms);
        Now { boot: BootTime(self.now_ms), monotonic: Duration::from_millis(self.now_ms), real }
    }

    pub fn fold(&mut self, event: Event) {
        let now = self.now();
        // Always the middle of what full jitter would draw.
        self.world.fold(event, now, &|pace, attempts| {
            pace.base.saturating_mul(1 << (attempts.saturating_sub(1)).min(20)).min(pace.cap) / 2
        });
    }

    pub fn ask(&mut self, verb: Verb) {
        self.fold(Event::Asked(verb));
    }

    /// Ends this agent as SIGKILL does and starts another one; a child tailscaled goes with it, what was saved stays.
    pub fn kill_and_restart(&mut self) {
        let record = self.world.saved.clone().unwrap_or_default();
        let mut outside = std::mem::take(&mut self.outside);
        if !self.world.configured.unit {
            outside.tailscaled_ends();
        }
        let next = Self::with(self.settings.clone(), Loaded { record, trouble: None }, outside, self.now_ms);
        let old = std::mem::replace(self, next);
        self.started = old.started;
    }

    /// Lets everything that follows happen until `until`.
    pub fn run_until(&mut self, until_ms: u64) {
        let mut steps_at_once = 0;
        while self.now_ms < until_ms {
            let before = self.now_ms;
            let decision = self.settle();
            let wake = decision.wake_at.map_or(u64::MAX, |at| at.0.max(self.now_ms + 1));
            let ends = self.in_flight.values().map(|(_, at)| *at).min().unwrap_or(u64::MAX);
            let ends = ends.max(self.now_ms);
            self.now_ms = wake.min(ends).min(self.now_ms + 10_000).min(until_ms);
            self.finish_due();
            for notify in self.outside.say() {
                self.fold(Event::Bus(Box::new(notify)));
            }
            steps_at_once = if self.now_ms == before { steps_at_once + 1 } else { 0 };
            assert!(steps_at_once < 1_000, "a busy loop: {decision:?}");
        }
    }

    /// Runs until online, and says how long it took; none after an hour.
    pub fn run_until_online(&mut self) -> Option<u64> {
        let start = self.now_ms;
        while self.now_ms < start + 3_600_000 {
            if self.decide().phase == Phase::Online {
                return Some(self.now_ms - start);
            }
            self.run_until(self.now_ms + 100);
        }
        None
    }

    pub fn decide(&self) -> Decision {
        decide(&self.world, &self.settings, self.now())
    }

    /// What is shown: the phase, and the reason's code.
    pub fn shows(&self) -> (Phase, Option<Code>) {
        let decision = self.decide();
        (decision.phase, decision.reason.map(|reason| reason.code))
    }

    /// The codes of what is said besides.
    pub fn notices(&self) -> Vec<Code> {
        self.decide().notices.iter().map(|notice| notice.code).collect()
    }

    fn settle(&mut self) -> Decision {
        for _ in 0..100 {
            let decision = self.decide();
            self.check(&decision);
            if !self.reconcile(&decision) {
                if self.phases.last() != Some(&decision.phase) {
                    self.phases.push(decision.phase);
                }
                return decision;
            }
        }
        panic!("the decision does not settle: {:?}", self.decide());
    }

    fn reconcile(&mut self, decision: &Decision) -> bool {
        let mut changed = false;
        let unwanted = |(effect, _): &(Effect, u64)| !effect.kind().runs_to_end() && !decision.effects.contains(effect);
        let unwanted: Vec<Kind> =
            self.in_flight.iter().filter(|(_, entry)| unwanted(entry)).map(|(kind, _)| *kind).collect();
        for kind in unwanted {
            self.in_flight.remove(&kind);
            self.fold(Event::Cancelled(kind));
            changed = true;
        }
        for effect in &decision.effects {
            let kind = effect.kind();
            if !self.in_flight.contains_key(&kind) {
                self.outside.begin(effect);
                let lasts = self.outside.lasts(effect);
                self.in_flight.insert(kind, (effect.clone(), self.now_ms.saturating_add(lasts)));
                self.started.push((self.now_ms, kind));
                self.fold(Event::Began(kind));
                changed = true;
            }
        }
        changed
    }

    fn finish_due(&mut self) {
        let due = |entry: &(Kind, (Effect, u64))| entry.1.1 <= self.now_ms;
        let all = self.in_flight.iter().map(|(kind, entry)| (*kind, entry.clone()));
        let mut ended: Vec<_> = all.filter(due).collect();
        if self.outside.daemon_died() {
            ended.extend(self.in_flight.get_key_value(&Kind::MindDaemon).map(|(kind, entry)| (*kind, entry.clone())));
        }
        for (kind, (effect, _)) in ended {
            if self.in_flight.remove(&kind).is_some() {
                let result = self.outside.perform(&effect, self.now());
                self.fold(Event::Ended(effect, result));
            }
        }
    }

    /// What must hold of every decision, whatever happened before.
    fn check(&mut self, decision: &Decision) {
        let mut kinds: Vec<Kind> = decision.effects.iter().map(Effect::kind).collect();
        kinds.sort();
        kinds.dedup();
        assert_eq!(kinds.len(), decision.effects.len(), "one effect a kind: {:?}", decision.effects);
        self.check_rules();
        let running = self.world.daemon.up_since.is_some();
        let writes = [Kind::Login, Kind::Apply, Kind::Up, Kind::Prove, Kind::Withdraw, Kind::Logout];
        assert!(running || !kinds.iter().any(|kind| writes.contains(kind)), "a write without tailscaled: {kinds:?}");
        let crossing = [Kind::Login, Kind::Withdraw].iter().all(|kind| self.in_flight.contains_key(kind));
        assert!(!crossing, "a login crosses a withdrawal");
        if self.last.as_ref() != Some(decision) {
            let record = serde_json::to_string(&self.world.record).expect("a record is JSON");
            assert!(!format!("{decision:?}{record}").contains("CANARY"), "a secret was emitted");
            self.last = Some(decision.clone());
        }
    }

    /// Each rule claims and wants only what its row of the table, and so the documentation, says.
    fn check_rules(&self) {
        let view = View { world: &self.world, settings: &self.settings, now: self.now() };
        for rule in RULES {
            let mut plan = Plan::at(view.now.boot);
            (rule.apply)(view, &mut plan);
            let claimed = plan.claim.map(|(phase, _)| phase);
            assert!(claimed.is_none_or(|phase| rule.phases.contains(&phase)), "{} claims {claimed:?}", rule.name);
            let wanted = plan.effects.iter().find(|effect| !rule.wants.contains(&effect.kind()));
            assert!(wanted.is_none(), "{} wants {wanted:?}", rule.name);
        }
    }

    pub fn count(&self, kind: Kind, from_ms: u64) -> usize {
        self.started.iter().filter(|(at, started)| *started == kind && *at >= from_ms).count()
    }
}

/// What a random history is made of.
#[derive(Clone, Debug)]
enum Happening {
    Fault(outside::Weak, bool),
    DaemonDies,
    DaemonHangs(bool),
    NetworkMissed,
    AgentKilled,
    Asked(Verb),
    Resumed,
    Tags(bool),
    Hostname(bool),
    AdminDown,
    AdminUp,
    AdminLogout,
    KeyExpires,
    NodeDeleted,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (outside::weak(), any::<bool>()).prop_map(|(weak, broken)| Happening::Fault(weak, broken)),
        Just(Happening::DaemonDies),
        any::<bool>().prop_map(Happening::DaemonHangs),
        Just(Happening::NetworkMissed),
        Just(Happening::AgentKilled),
        prop_oneof![Just(Verb::Refresh), Just(Verb::Rejoin)].prop_map(Happening::Asked),
        Just(Happening::Resumed),
        any::<bool>().prop_map(Happening::Tags),
        any::<bool>().prop_map(Happening::Hostname),
        Just(Happening::AdminDown),
        Just(Happening::AdminUp),
        Just(Happening::AdminLogout),
        Just(Happening::KeyExpires),
        Just(Happening::NodeDeleted),
    ]
}

impl Simulation {
    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Fault(weak, broken) => self.outside.set(weak, broken),
            Happening::DaemonDies => self.outside.tailscaled_ends(),
            Happening::DaemonHangs(hangs) => self.outside.hangs = hangs,
            Happening::NetworkMissed => self.outside.deaf_next = true,
            Happening::AgentKilled => self.kill_and_restart(),
            Happening::Asked(verb) => self.ask(verb),
            Happening::Resumed => self.fold(Event::Resumed("the story says so")),
            Happening::Tags(other) => self.outside.change_tags(other),
            Happening::Hostname(other) => self.outside.change_hostname(other),
            Happening::AdminDown => self.outside.admin(false),
            Happening::AdminUp => self.outside.admin(true),
            Happening::AdminLogout => self.outside.admin_logout(),
            Happening::KeyExpires => self.outside.key_expires(),
            Happening::NodeDeleted => self.outside.node_deleted(),
        }
    }
}

/// Requests that full jitter's middle allows in a time: about eight while the delay doubles, then one each half cap.
fn budget(elapsed_ms: u64, cap_ms: u64, lives: usize) -> usize {
    (8 + usize::try_from(elapsed_ms / (cap_ms / 2)).expect("fits")) * (lives + 1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, max_shrink_time: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happened_the_node_is_online_once_faults_stop(
        supervisor in prop_oneof![Just("child"), Just("systemd")],
        history in proptest::collection::vec((0_u64..120_000, happening()), 0..24)
    ) {
        let mut simulation = Simulation::under(supervisor);
        for (delay, happening) in history {
            simulation.run_until(simulation.now_ms + delay);
            simulation.happen(happening);
        }
        simulation.outside.heal();
        simulation.ask(Verb::Rejoin);
        let took = simulation.run_until_online();
        prop_assert!(took.is_some(), "never online: {:?}\n{:?}", simulation.decide(), simulation.world.tracks);
        simulation.run_until(simulation.now_ms + 180_000);
        let decision = simulation.decide();
        prop_assert_eq!(decision.phase, Phase::Online, "{:?}", decision);
        let status = simulation.world.node.status.clone().unwrap_or_default();
        prop_assert_eq!(&status.node.tags, &simulation.outside.tailnet.tags);
        prop_assert_eq!(status.node.host_name, simulation.outside.tailnet.hostname.clone());
    }

    #[test]
    fn a_restart_loop_does_not_hammer_the_exchange(lives in proptest::collection::vec(200_u64..5_000, 1..40)) {
        let mut simulation = Simulation::new();
        simulation.outside.set(outside::Weak::Exchange, true);
        let start = simulation.now_ms;
        let mut unanswered = 0;
        for life in &lives {
            simulation.run_until(simulation.now_ms + life);
            // What was not answered when the agent was killed was not written down, and is asked again at once.
            unanswered += usize::from(simulation.in_flight.contains_key(&Kind::Exchange));
            simulation.kill_and_restart();
        }
        let made = simulation.count(Kind::Exchange, start) - unanswered;
        prop_assert!(made <= budget(simulation.now_ms - start, 60_000, 0), "{made} exchanges in {} ms", simulation.now_ms - start);
    }
}

/// The outcome of an effect, as the model of the outside gives it.
type Performed = Result<Outcome, Fault>;
