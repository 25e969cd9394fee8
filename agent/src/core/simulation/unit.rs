//! Stories of a machine under systemd: tailscaled is a unit, and the machine tells and is named.

use std::time::Duration;

use super::outside::Weak;
use super::{Event, Simulation, Verb};
use crate::config::settings::Foreign;
use crate::core::effect::{Effect, Kind};
use crate::core::fold::Ending;
use crate::core::phase::Phase;
use crate::core::reason::{Code, Fault};
use crate::core::world::Configured;
use crate::metadata::spec::Lifecycle;
use crate::systemd::HostEvent;

fn joined() -> Simulation {
    let mut simulation = Simulation::under("systemd");
    simulation.run_until_online().expect("joins");
    simulation
}

fn runner() -> Simulation {
    let mut simulation = Simulation::under("systemd");
    simulation.outside.tailnet.lifecycle = Lifecycle::Ephemeral;
    simulation.run_until_online().expect("joins");
    simulation
}

fn stop(simulation: &mut Simulation, ending: Ending) {
    simulation.fold(Event::Stop(ending));
    simulation.run_until(simulation.now_ms + 1_000);
    assert!(simulation.decide().done);
}

/// A machine on which a person made a node of their own before there was an agent.
fn somebody_elses(foreign: Foreign) -> Simulation {
    let mut simulation = Simulation::under("systemd");
    simulation.settings.identity.foreign = foreign;
    simulation.world.configured = Configured::of(&simulation.settings);
    simulation.outside.somebody_joins();
    simulation
}

#[test]
fn the_tunnel_outlives_the_agent_and_the_next_one_takes_it_over_without_a_login() {
    let mut simulation = joined();
    stop(&mut simulation, Ending::ForNow);
    assert_eq!(simulation.count(Kind::StopDaemon, 0), 0);
    assert_eq!(simulation.decide().phase, Phase::Online, "the node is still there");
    simulation.kill_and_restart();
    simulation.run_until_online().expect("online");
    assert_eq!((simulation.count(Kind::Mint, 0), simulation.count(Kind::Login, 0)), (1, 1));
}

#[test]
fn the_first_way_to_the_api_is_opened_while_a_node_is_looked_for_and_nothing_is_asked_before() {
    let mut simulation = Simulation::under("systemd");
    simulation.outside.inspect_delay = 100;
    simulation.run_until_online().expect("joins");
    let began = |kind| simulation.started.iter().find(|(_, started)| *started == kind).map(|(at, _)| *at);
    let looked = began(Kind::Inspect).map(|at| at + 105);
    assert!(began(Kind::Connect).is_some() && began(Kind::Connect) < looked);
    assert!(began(Kind::Token) >= looked);
    simulation.kill_and_restart();
    simulation.run_until_online().expect("online");
    assert_eq!(simulation.count(Kind::Connect, 0), 1, "a machine that was a node before needs no way to the API");
}

#[test]
fn a_runners_node_goes_with_the_machine_and_with_the_agents_own_stop_but_not_with_an_upgrade() {
    let mut upgraded = runner();
    stop(&mut upgraded, Ending::ForNow);
    assert_eq!((upgraded.count(Kind::Logout, 0), upgraded.decide().phase), (0, Phase::Online));

    let mut stopped = runner();
    stop(&mut stopped, Ending::ForGood);
    assert_eq!((stopped.count(Kind::Logout, 0), stopped.decide().phase), (1, Phase::Left));

    let mut powered_off = runner();
    powered_off.fold(Event::Host(HostEvent::GoesDown(true)));
    stop(&mut powered_off, Ending::ForNow);
    assert_eq!((powered_off.count(Kind::Logout, 0), powered_off.decide().phase), (1, Phase::Left));
}

#[test]
fn a_devboxs_node_is_said_to_be_online_unless_the_machine_goes() {
    for ending in [Ending::ForGood, Ending::ForNow] {
        let mut simulation = joined();
        stop(&mut simulation, ending);
        assert_eq!(
            (simulation.decide().phase, simulation.count(Kind::StopDaemon, 0)),
            (Phase::Online, 0),
            "{ending:?}"
        );
    }
    for announced in [false, true] {
        let mut simulation = joined();
        simulation.fold(Event::Host(HostEvent::GoesDown(announced)));
        stop(&mut simulation, if announced { Ending::ForGood } else { Ending::WithMachine });
        let decision = simulation.decide();
        assert_eq!((decision.phase, decision.reason.expect("a reason").code), (Phase::Stopped, Code::AgentStopping));
    }
}

#[test]
fn a_shutdown_that_was_taken_back_removes_nothing() {
    let mut simulation = runner();
    simulation.fold(Event::Host(HostEvent::GoesDown(true)));
    simulation.fold(Event::Host(HostEvent::GoesDown(false)));
    stop(&mut simulation, Ending::ForNow);
    assert_eq!(simulation.count(Kind::Logout, 0), 0);
}

#[test]
fn the_machine_gets_the_nodes_name_once_and_again_when_it_changes() {
    let mut simulation = joined();
    simulation.run_until(simulation.now_ms + 3_600_000);
    assert_eq!((simulation.count(Kind::SetHostname, 0), simulation.outside.named.as_deref()), (1, Some("box")));
    simulation.outside.change_hostname(true);
    simulation.run_until(simulation.now_ms + 120_000);
    assert_eq!((simulation.count(Kind::SetHostname, 0), simulation.outside.named.as_deref()), (2, Some("other")));
}

#[test]
fn a_machine_that_cannot_be_named_joins_all_the_same_and_is_named_later() {
    let mut simulation = Simulation::under("systemd");
    simulation.outside.set(Weak::Hostname, true);
    simulation.run_until_online().expect("joins");
    simulation.run_until(simulation.now_ms + 600_000);
    assert_eq!(simulation.notices(), [Code::HostnameUnset]);
    assert!(simulation.count(Kind::SetHostname, 0) < 40, "at most about once every half minute");
    simulation.outside.heal();
    simulation.run_until(simulation.now_ms + 60_000);
    assert_eq!(simulation.outside.named.as_deref(), Some("box"));
}

#[test]
fn a_machine_keeps_its_own_name_when_configuration_says_so() {
    let mut simulation = Simulation::under("systemd");
    simulation.settings.hostname.system = false;
    simulation.run_until_online().expect("joins");
    assert_eq!(simulation.outside.named, None);
}

#[test]
fn a_woken_machine_is_proven_online() {
    let mut simulation = joined();
    simulation.fold(Event::Host(HostEvent::Woke));
    assert_eq!(simulation.decide().reason.expect("a reason").code, Code::Unproven);
    simulation.run_until_online().expect("proven");
    assert_eq!(simulation.count(Kind::Prove, 0), 1);
}

#[test]
fn a_unit_that_systemd_gave_up_on_is_started_ever_more_slowly_and_at_once_when_units_change() {
    let mut simulation = Simulation::under("systemd");
    simulation.outside.set(Weak::Daemon, true);
    simulation.run_until(simulation.now_ms + 3_600_000);
    let tries = simulation.count(Kind::StartDaemon, 0);
    assert!((20..=40).contains(&tries), "5 s, 10 s, … 5 min, with jitter: {tries}");
    simulation.outside.heal();
    let healed = simulation.now_ms;
    simulation.fold(Event::Host(HostEvent::UnitsChanged));
    simulation.run_until(healed + 100);
    assert_eq!(simulation.count(Kind::StartDaemon, healed), 1);
}

#[test]
fn a_bus_that_went_away_is_said_until_it_is_listened_to_again() {
    let mut simulation = joined();
    let gone = Fault::new(Code::DbusUnavailable, "the bus was restarted");
    simulation.fold(Event::Ended(Effect::WatchHost, Err(gone)));
    assert_eq!(simulation.notices(), [Code::DbusUnavailable]);
    simulation.fold(Event::Host(HostEvent::Listening));
    assert_eq!(simulation.notices(), []);
}

#[test]
fn a_unit_that_somebody_stopped_is_started_again_after_a_while_or_when_units_change() {
    for changed in [false, true] {
        let mut simulation = joined();
        let stopped = simulation.now_ms;
        let fault =
            Fault { retry_after: Some(Duration::from_secs(5)), ..Fault::new(Code::TailscaledStarting, "stopped") };
        simulation.fold(Event::Ended(Effect::MindDaemon, Err(fault)));
        simulation.run_until(stopped + 4_000);
        assert_eq!(simulation.count(Kind::StartDaemon, stopped), 0);
        if changed {
            simulation.fold(Event::Host(HostEvent::UnitsChanged));
        }
        simulation.run_until(stopped + if changed { 4_100 } else { 5_100 });
        assert_eq!(simulation.count(Kind::StartDaemon, stopped), 1);
    }
}

#[test]
fn somebody_elses_node_is_let_run_and_said_and_becomes_ours_when_a_person_says_so() {
    let mut simulation = somebody_elses(Foreign::Refuse);
    simulation.run_until(simulation.now_ms + 3_600_000);
    assert_eq!(simulation.shows(), (Phase::Blocked, Some(Code::ForeignNode)));
    assert_eq!(simulation.count(Kind::LeaveAlone, 0), 1, "the gate is opened, once");
    let touched = [Kind::StartDaemon, Kind::Login, Kind::Logout, Kind::Apply, Kind::StopDaemon, Kind::SetHostname];
    assert!(touched.iter().all(|kind| simulation.count(*kind, 0) == 0), "{:?}", simulation.started);
    simulation.ask(Verb::Rejoin);
    simulation.run_until_online().expect("joins");
    simulation.run_until(simulation.now_ms + 60_000);
    assert_eq!((simulation.count(Kind::Login, 0), simulation.outside.named.as_deref()), (1, Some("box")));
}

#[test]
fn somebody_elses_node_is_adopted_where_configuration_says_so() {
    let mut simulation = somebody_elses(Foreign::Adopt);
    simulation.run_until_online().expect("joins");
    assert_eq!((simulation.count(Kind::LeaveAlone, 0), simulation.count(Kind::Login, 0)), (0, 1));
    let tags = &simulation.world.node.status.as_ref().expect("a status").node.tags;
    assert_eq!(tags, &simulation.outside.tailnet.tags);
}
