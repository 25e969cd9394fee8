//! Stories of tailscaled, the process: when it is restarted, and when it is not.

use super::Simulation;
use super::outside::Weak;
use super::stories::joined;
use crate::core::effect::Kind;
use crate::core::phase::Phase;
use crate::core::reason::Code;

#[test]
fn a_hanging_tailscaled_is_restarted_within_twenty_seconds() {
    let mut simulation = joined();
    simulation.outside.hangs = true;
    simulation.run_until(simulation.now_ms + 20_000);
    assert_eq!(simulation.count(Kind::StopDaemon, 0), 1);
    assert_eq!(simulation.decide().phase, Phase::Online);
}

#[test]
fn a_unit_that_hangs_for_good_is_restarted_every_five_minutes_and_never_started_while_it_stops() {
    let mut simulation = Simulation::under("systemd");
    simulation.run_until_online().expect("joins");
    let start = simulation.now_ms;
    while simulation.now_ms < start + 1_200_000 {
        simulation.outside.hangs = true;
        simulation.run_until(simulation.now_ms + 1_000);
    }
    let restarts = simulation.count(Kind::StopDaemon, start);
    assert!((3..=5).contains(&restarts), "{restarts} in twenty minutes");
}

#[test]
fn a_tailscaled_that_missed_the_network_is_restarted_before_and_after_the_first_login() {
    let mut simulation = Simulation::new();
    for supervised in ["for the first time", "with the node that it has"] {
        simulation.outside.deaf_next = true;
        let start = simulation.now_ms;
        simulation.run_until(start + 29_000);
        assert_eq!(simulation.count(Kind::StopDaemon, start), 0, "{supervised}: too early");
        simulation.run_until_online().expect("restarted");
        assert_eq!(simulation.count(Kind::StopDaemon, start), 1, "{supervised}");
        assert!(simulation.now_ms < start + 35_000, "{supervised}: {} ms", simulation.now_ms - start);
        simulation.run_until(simulation.now_ms + 300_000);
        simulation.outside.deaf_next = true;
        simulation.kill_and_restart();
    }
    assert_eq!(simulation.count(Kind::Mint, 0), 2, "one for each login of a node without a key");
}

#[test]
fn a_tailscaled_that_misses_the_network_again_is_said_to_have_and_restarted_later() {
    let mut simulation = Simulation::new();
    simulation.outside.deaf_next = true;
    simulation.run_until(simulation.now_ms + 29_000);
    simulation.outside.deaf_next = true;
    let start = simulation.now_ms;
    simulation.run_until(start + 290_000);
    assert_eq!(simulation.count(Kind::StopDaemon, start), 1);
    let reason = simulation.decide().reason.expect("a reason");
    assert_eq!(reason.code, Code::TailscaledDeaf);
    simulation.run_until_online().expect("restarted");
    assert!((295_000..340_000).contains(&(simulation.now_ms - start)), "{} ms", simulation.now_ms - start);
}

#[test]
fn a_tunnel_without_control_outlives_another_agent() {
    let mut simulation = Simulation::under("systemd");
    simulation.run_until_online().expect("joins");
    simulation.outside.set(Weak::Control, true);
    simulation.run_until(simulation.now_ms + 20_000);
    simulation.kill_and_restart();
    // That it cannot be reached was said to the agent of before, and when it was tried last is nobody's to know.
    simulation.outside.forget_complaint();
    let restarted = simulation.now_ms;
    simulation.run_until(restarted + 100_000);
    assert_eq!(simulation.count(Kind::StopDaemon, restarted), 0);
}

#[test]
fn a_tailscaled_that_cannot_reach_control_is_left_to_its_tries() {
    let mut simulation = Simulation::new();
    simulation.outside.set(Weak::Control, true);
    simulation.run_until(simulation.now_ms + 1_800_000);
    assert_eq!(simulation.count(Kind::StopDaemon, 0), 0);
    assert_eq!(simulation.decide().reason.expect("a reason").code, Code::JoinPending);
}
