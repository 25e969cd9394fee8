//! Stories of whose node tailscaled has.

use super::outside::Weak;
use super::stories::joined;
use super::{Simulation, Verb};
use crate::core::effect::Kind;
use crate::core::phase::Phase;
use crate::core::reason::Code;

#[test]
fn a_persons_own_node_on_a_machine_that_the_platform_then_assigns_is_left_alone() {
    let mut simulation = Simulation::new();
    simulation.outside.unassigned = true;
    simulation.run_until(simulation.now_ms + 1_000);
    assert_eq!(simulation.decide().phase, Phase::Unassigned);
    simulation.outside.somebody_joins();
    simulation.run_until(simulation.now_ms + 11_000);
    assert_eq!(simulation.decide().phase, Phase::Unassigned);
    simulation.outside.unassigned = false;
    simulation.outside.change_hostname(false);
    simulation.ask(Verb::Refresh);
    simulation.run_until(simulation.now_ms + 70_000);
    assert_eq!(simulation.shows(), (Phase::Blocked, Some(Code::ForeignNode)));
    assert_eq!(simulation.count(Kind::Logout, 0) + simulation.count(Kind::Login, 0), 0);
    simulation.ask(Verb::Rejoin);
    simulation.run_until(simulation.now_ms + 2_000);
    assert_eq!(simulation.decide().phase, Phase::Online, "a person handed it over");
    assert_eq!(simulation.count(Kind::Login, 0), 1);
}

#[test]
fn what_somebody_logs_in_after_the_node_has_left_is_theirs() {
    let mut simulation = joined();
    simulation.ask(Verb::Leave);
    simulation.run_until(simulation.now_ms + 5_000);
    assert_eq!(simulation.shows(), (Phase::Left, None));
    simulation.outside.somebody_joins();
    simulation.run_until(simulation.now_ms + 60_000);
    assert_eq!(simulation.shows(), (Phase::Blocked, Some(Code::ForeignNode)));
    assert_eq!(simulation.count(Kind::Logout, 0), 1, "it was logged out");
}

#[test]
fn a_foreign_node_that_was_logged_out_is_no_obstacle_after_a_refresh() {
    let mut simulation = Simulation::new();
    simulation.outside.somebody_joins();
    simulation.run_until(simulation.now_ms + 5_000);
    assert_eq!(simulation.shows(), (Phase::Blocked, Some(Code::ForeignNode)));
    simulation.outside.forget_node();
    simulation.ask(Verb::Refresh);
    simulation.run_until_online().expect("joins");
}

#[test]
fn a_clone_that_was_seen_to_be_one_is_one_while_the_metadata_is_away() {
    let mut simulation = joined();
    simulation.kill_and_restart();
    simulation.outside.cloned = true;
    simulation.run_until(simulation.now_ms + 5_000);
    assert_eq!(simulation.shows(), (Phase::Blocked, Some(Code::InstanceChanged)));
    simulation.outside.set(Weak::Metadata, true);
    simulation.kill_and_restart();
    let restarted = simulation.now_ms;
    simulation.run_until(restarted + 60_000);
    assert_eq!(simulation.shows(), (Phase::Blocked, Some(Code::InstanceChanged)));
    assert_eq!(simulation.count(Kind::StartDaemon, restarted), 0, "it ran with the copied key");
}
