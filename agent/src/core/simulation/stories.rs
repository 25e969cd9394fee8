//! Single stories in virtual time: what people would ask about.

use super::outside::Weak;
use super::{Event, Simulation, Verb};
use crate::core::effect::{Effect, Kind, Outcome};
use crate::core::fold::Ending;
use crate::core::phase::Phase;
use crate::core::reason::Code;
use crate::tailscaled::Notify;

pub(super) fn joined() -> Simulation {
    let mut simulation = Simulation::new();
    simulation.run_until_online().expect("joins");
    simulation
}

#[test]
fn a_fresh_box_joins_with_one_token_one_exchange_and_one_key() {
    let simulation = joined();
    for kind in [Kind::Token, Kind::Exchange, Kind::Mint, Kind::Login, Kind::StartDaemon] {
        assert_eq!(simulation.count(kind, 0), 1, "{kind:?}");
    }
    assert!(simulation.now_ms < 1_500, "took until {}", simulation.now_ms);
    let stages: Vec<_> = simulation.world.stages.iter().map(|stage| stage.name.as_str()).collect();
    for stage in ["spec", "daemon", "token", "exchange", "mint", "login", "join"] {
        assert!(stages.contains(&stage), "{stage} is missing of {stages:?}");
    }
}

#[test]
fn tailscaled_starts_before_the_metadata_has_answered() {
    let mut simulation = Simulation::new();
    simulation.outside.set(Weak::Metadata, true);
    simulation.run_until(simulation.now_ms + 10_000);
    assert_eq!(simulation.decide().phase, Phase::WaitingForMetadata);
    assert_eq!(simulation.decide().reason.expect("a reason").code, Code::MetadataUnreachable);
    assert_eq!(simulation.count(Kind::StartDaemon, 0), 1);
    assert_eq!(simulation.count(Kind::Token, 0), 0);
}

#[test]
fn an_agent_that_restarts_fetches_no_new_key() {
    let mut simulation = joined();
    simulation.kill_and_restart();
    let restarted = simulation.now_ms;
    simulation.run_until_online().expect("is online again");
    assert_eq!(simulation.count(Kind::Mint, restarted), 0);
    assert_eq!(simulation.count(Kind::Token, restarted), 0);
}

#[test]
fn an_idle_hour_costs_a_status_read_every_ten_seconds_and_one_long_poll_a_minute() {
    let mut simulation = joined();
    simulation.run_until(simulation.now_ms + 60_000);
    let start = simulation.now_ms;
    simulation.run_until(start + 3_600_000);
    let reads = simulation.count(Kind::ReadStatus, start);
    assert!((355..=365).contains(&reads), "{reads} status reads");
    assert!(simulation.count(Kind::ReadSpec, start) <= 66);
    assert_eq!(simulation.count(Kind::Apply, start) + simulation.count(Kind::Save, start), 0);
}

#[test]
fn changed_tags_authenticate_again_once_and_oscillating_ones_once_a_minute() {
    let mut simulation = joined();
    let start = simulation.now_ms;
    simulation.run_until(start + 70_000);
    for second in 0..120 {
        simulation.outside.change_tags(second % 2 == 0);
        simulation.fold(Event::Asked(Verb::Refresh));
        simulation.run_until(simulation.now_ms + 1_000);
    }
    assert!(simulation.count(Kind::Login, start) <= 3, "{} logins", simulation.count(Kind::Login, start));
}

#[test]
fn the_first_change_of_tags_after_a_join_is_followed_at_once() {
    let mut simulation = joined();
    let start = simulation.now_ms;
    simulation.phases.clear();
    simulation.outside.change_tags(true);
    simulation.fold(Event::Asked(Verb::Refresh));
    simulation.run_until(start + 2_000);
    assert_eq!(simulation.count(Kind::Login, start), 1);
    assert_eq!(simulation.phases, [Phase::Online, Phase::Joining, Phase::Online], "nothing was at fault");
}

#[test]
fn a_key_that_no_helper_takes_is_kept_for_when_one_does() {
    let mut simulation = joined();
    let start = simulation.now_ms;
    simulation.outside.set(Weak::Helper, true);
    simulation.outside.change_tags(true);
    simulation.run_until(start + 240_000);
    simulation.outside.heal();
    simulation.run_until(start + 310_000);
    assert_eq!((simulation.decide().phase, simulation.count(Kind::Mint, start)), (Phase::Online, 1));
    assert_eq!(simulation.world.node.status.as_ref().expect("a status").node.tags, ["tag:b"]);
}

#[test]
fn a_change_that_waits_for_its_minute_is_said_until_it_is_followed() {
    let mut simulation = joined();
    let start = simulation.now_ms;
    for (changed, expected) in [(true, &[][..]), (false, &[Code::ChangePending])] {
        simulation.outside.change_tags(changed);
        simulation.fold(Event::Asked(Verb::Refresh));
        simulation.run_until(simulation.now_ms + 5_000);
        assert_eq!(simulation.notices(), expected);
    }
    assert!(simulation.decide().notices[0].next_try.is_some(), "a person is told when");
    simulation.run_until(start + 70_000);
    assert_eq!((simulation.notices(), simulation.count(Kind::Login, start)), (Vec::new(), 2));
}

#[test]
fn a_refused_exchange_is_asked_at_most_four_times_an_hour() {
    let mut simulation = Simulation::new();
    simulation.outside.set(Weak::ExchangeRefuses, true);
    simulation.run_until(simulation.now_ms + 3_600_000);
    assert_eq!(simulation.shows(), (Phase::Blocked, Some(Code::ExchangeDenied)));
    assert!(simulation.count(Kind::Exchange, 0) <= 4, "{}", simulation.count(Kind::Exchange, 0));
    assert_eq!(simulation.count(Kind::Token, 0), simulation.count(Kind::Exchange, 0));
}

#[test]
fn three_refused_keys_block_and_a_good_one_heals() {
    let mut simulation = Simulation::new();
    simulation.outside.set(Weak::Keys, true);
    simulation.run_until(simulation.now_ms + 120_000);
    assert_eq!(simulation.shows(), (Phase::Blocked, Some(Code::KeysExhausted)));
    assert_eq!(simulation.count(Kind::Mint, 0), 3);
    simulation.outside.heal();
    simulation.run_until_online().expect("heals by itself");
}

#[test]
fn new_configuration_has_the_document_read_as_a_whole_and_then_watched_again() {
    let mut simulation = joined();
    let start = simulation.now_ms;
    let configured = simulation.world.configured.clone();
    simulation.world.reconfigured(configured);
    simulation.ask(Verb::Refresh);
    simulation.run_until(start + 60_000);
    assert_eq!(simulation.count(Kind::ReadSpec, start), 3, "one at once, and two long polls");
    assert!(simulation.world.platform.etag.is_some() && !simulation.world.platform.polls);
    assert_eq!(simulation.count(Kind::Login, start), 0);
}

#[test]
fn a_name_that_somebody_keeps_setting_is_corrected_once_a_minute() {
    let mut simulation = joined();
    let start = simulation.now_ms;
    while simulation.now_ms < start + 170_000 {
        simulation.outside.admin_renames();
        simulation.run_until(simulation.now_ms + 2_000);
    }
    assert_eq!(simulation.count(Kind::Apply, start), 3);
    simulation.run_until(simulation.now_ms + 60_000);
    let prefs = simulation.world.node.prefs.as_ref().expect("preferences");
    assert_eq!(prefs.owned.hostname, "box");
    assert_eq!(simulation.count(Kind::Login, start), 0);
}

#[test]
fn a_correction_that_shows_before_it_is_answered_counts_as_one() {
    let mut simulation = joined();
    let start = simulation.now_ms;
    simulation.outside.admin_renames();
    while simulation.count(Kind::Apply, start) == 0 {
        simulation.run_until(simulation.now_ms + 1);
    }
    let mut prefs = simulation.world.node.prefs.clone().expect("preferences");
    prefs.owned.hostname = "box".to_owned();
    simulation.fold(Event::Bus(Box::new(Notify { prefs: Some(prefs), ..Notify::default() })));
    simulation.run_until(simulation.now_ms + 500);
    simulation.outside.admin_renames();
    simulation.run_until(start + 50_000);
    assert_eq!(simulation.count(Kind::Apply, start), 1);
}

#[test]
fn an_admins_down_is_respected_until_rejoin() {
    let mut simulation = joined();
    simulation.outside.admin(false);
    simulation.run_until(simulation.now_ms + 600_000);
    assert_eq!(simulation.shows(), (Phase::Stopped, Some(Code::AdminDown)));
    assert_eq!(simulation.count(Kind::Up, 0), 0);
    let mints = simulation.count(Kind::Mint, 0);
    simulation.ask(Verb::Rejoin);
    simulation.run_until_online().expect("comes up");
    assert_eq!(simulation.count(Kind::Mint, 0), mints, "no key is needed to come up");
}

#[test]
fn a_resumed_node_is_degraded_until_control_answers_anew() {
    let mut simulation = joined();
    simulation.outside.set(Weak::Control, true);
    simulation.fold(Event::Resumed("the story says so"));
    simulation.run_until(simulation.now_ms + 5_000);
    assert_eq!(simulation.shows(), (Phase::Degraded, Some(Code::Unproven)));
    simulation.outside.heal();
    let mints = simulation.count(Kind::Mint, 0);
    simulation.run_until_online().expect("is proven");
    assert_eq!(simulation.count(Kind::Mint, 0), mints);
    assert!(simulation.world.proof.proven_at.is_some());
}

#[test]
fn a_node_that_somebody_took_down_is_not_to_be_proven_until_it_is_up() {
    let mut simulation = joined();
    simulation.run_until(simulation.now_ms + 60_000);
    simulation.outside.admin(false);
    simulation.run_until(simulation.now_ms + 15_000);
    simulation.fold(Event::Resumed("the story says so"));
    let resumed = simulation.now_ms;
    simulation.run_until(resumed + 600_000);
    assert_eq!(simulation.count(Kind::Prove, resumed), 0);
    let reads = simulation.count(Kind::ReadStatus, resumed);
    assert!(reads < 70, "{reads} in ten minutes");
    simulation.outside.admin(true);
    simulation.run_until_online().expect("is proven");
    assert_eq!(simulation.count(Kind::Prove, resumed), 1);
}

#[test]
fn an_expired_node_key_is_renewed_and_leaves_no_auth_url() {
    let mut simulation = joined();
    simulation.run_until(simulation.now_ms + 60_000);
    simulation.outside.key_expires();
    let expired = simulation.now_ms;
    simulation.run_until(expired + 15_000);
    assert_eq!(simulation.decide().phase, Phase::Online, "{:?}", simulation.decide());
    assert_eq!(simulation.count(Kind::Mint, expired), 1);
}

#[test]
fn a_deleted_node_joins_again_once_in_ten_minutes() {
    let mut simulation = joined();
    simulation.run_until(simulation.now_ms + 600_000);
    simulation.outside.node_deleted();
    let deleted = simulation.now_ms;
    simulation.run_until(deleted + 15_000);
    assert_eq!(simulation.decide().reason.expect("a reason").code, Code::ControlLost);
    simulation.run_until(deleted + 180_000);
    assert_eq!(simulation.decide().phase, Phase::Online);
    assert_eq!(simulation.count(Kind::Login, deleted), 1);
}

#[test]
fn leave_logs_out_and_holds_over_a_restart() {
    let mut simulation = joined();
    simulation.ask(Verb::Leave);
    simulation.run_until(simulation.now_ms + 5_000);
    assert_eq!(simulation.decide().phase, Phase::Left);
    simulation.kill_and_restart();
    simulation.run_until(simulation.now_ms + 60_000);
    assert_eq!(simulation.decide().phase, Phase::Left);
    simulation.ask(Verb::Rejoin);
    simulation.run_until_online().expect("joins again");
}

#[test]
fn a_full_disk_does_not_keep_a_box_from_joining() {
    let mut simulation = Simulation::new();
    simulation.outside.set(Weak::Disk, true);
    simulation.run_until_online().expect("goes on from memory");
    assert_eq!(simulation.notices(), [Code::StateUnwritable]);
}

#[test]
fn an_agent_asked_to_stop_ends_tailscaled_and_is_done() {
    let mut simulation = joined();
    simulation.fold(Event::Stop(Ending::ForGood));
    simulation.run_until(simulation.now_ms + 1_000);
    assert_eq!(simulation.count(Kind::StopDaemon, 0), 1);
    assert_eq!(simulation.count(Kind::Logout, 0), 0, "a devbox keeps its node");
    assert!(simulation.decide().done);
}

#[test]
fn a_control_server_that_is_silent_for_an_hour_is_joined_when_it_answers() {
    let mut simulation = Simulation::new();
    simulation.outside.set(Weak::Control, true);
    simulation.run_until(simulation.now_ms + 3_600_000);
    assert_eq!(simulation.shows(), (Phase::Joining, Some(Code::JoinPending)));
    let mints = simulation.count(Kind::Mint, 0);
    assert!((10..=14).contains(&mints), "a key for each five minutes: {mints}");
    assert_eq!(simulation.count(Kind::StartDaemon, 0), 1, "tailscaled is not restarted");
    simulation.outside.heal();
    simulation.run_until_online().expect("joins");
}

#[test]
fn a_runner_that_stops_removes_its_node_and_remembers_that_it_did_so_itself() {
    let mut simulation = Simulation::new();
    simulation.outside.tailnet.lifecycle = crate::metadata::spec::Lifecycle::Ephemeral;
    simulation.run_until_online().expect("joins");
    simulation.fold(Event::Stop(Ending::ForGood));
    simulation.run_until(simulation.now_ms + 1_000);
    assert!(simulation.decide().done);
    assert_eq!(simulation.count(Kind::Logout, 0), 1);
    assert_eq!(simulation.decide().phase, Phase::Left);
    assert_eq!(simulation.world.saved.as_ref().expect("a record on disk").applied, None);
}

#[test]
fn a_runner_whose_control_server_is_silent_stops_after_a_second_and_says_that_its_node_may_stay() {
    let mut simulation = Simulation::new();
    simulation.outside.tailnet.lifecycle = crate::metadata::spec::Lifecycle::Ephemeral;
    simulation.run_until_online().expect("joins");
    simulation.outside.set(Weak::Control, true);
    simulation.fold(Event::Stop(Ending::ForGood));
    simulation.run_until(simulation.now_ms + 1_200);
    let decision = simulation.decide();
    assert!(decision.done);
    assert_eq!((decision.phase, decision.reason.expect("a reason").code), (Phase::Leaving, Code::LogoutFailed));
}

#[test]
fn an_auth_url_that_stands_is_withdrawn_before_a_key_that_waits_is_used() {
    let mut simulation = Simulation::new();
    simulation.outside.leave_auth_url();
    simulation.run_until_online().expect("joins");
    let started = simulation.started.iter().map(|(_, kind)| *kind);
    let order: Vec<Kind> = started.filter(|kind| matches!(kind, Kind::Login | Kind::Withdraw)).collect();
    assert_eq!(order, [Kind::Withdraw, Kind::Login]);
}

#[test]
fn a_node_that_may_have_been_deleted_is_said_to_be_while_it_joins_again() {
    let mut simulation = joined();
    simulation.run_until(simulation.now_ms + 600_000);
    simulation.outside.node_deleted();
    let mut reasons = Vec::new();
    let deleted = simulation.now_ms;
    while simulation.count(Kind::Login, deleted) == 0 {
        assert!(simulation.now_ms < deleted + 180_000, "no new login");
        simulation.run_until(simulation.now_ms + 1);
        reasons.extend(simulation.decide().reason.map(|reason| reason.code));
        reasons.dedup();
    }
    assert!(reasons.starts_with(&[Code::ControlLost, Code::NodeDeleted]), "{reasons:?}");
}

#[test]
fn a_key_is_made_only_by_a_spec_that_was_confirmed_in_this_run() {
    let mut simulation = Simulation::new();
    simulation.outside.set(Weak::Token, true);
    simulation.run_until(simulation.now_ms + 2_000);
    simulation.outside.heal();
    simulation.outside.metadata_delay = 1_000;
    simulation.kill_and_restart();
    let restarted = simulation.now_ms;
    simulation.run_until(restarted + 500);
    assert_eq!(simulation.shows(), (Phase::WaitingForMetadata, Some(Code::MetadataPending)));
    assert_eq!(simulation.count(Kind::Token, restarted), 0);
    simulation.run_until_online().expect("joins");
}

#[test]
fn nobody_being_there_to_take_a_key_only_one_is_made() {
    let mut simulation = Simulation::new();
    simulation.outside.set(Weak::Daemon, true);
    simulation.run_until(simulation.now_ms + 3_600_000);
    assert_eq!(simulation.count(Kind::Mint, 0), 1);
    simulation.outside.heal();
    simulation.run_until_online().expect("joins");
}

#[test]
fn a_runner_that_is_stopped_while_it_logs_in_is_removed_as_soon_as_control_holds_it() {
    let mut simulation = Simulation::new();
    simulation.outside.tailnet.lifecycle = crate::metadata::spec::Lifecycle::Ephemeral;
    while simulation.count(Kind::Login, 0) == 0 {
        simulation.run_until(simulation.now_ms + 1);
    }
    let stopped = simulation.now_ms;
    simulation.fold(Event::Stop(Ending::ForGood));
    simulation.run_until(stopped + 900);
    assert_eq!(simulation.count(Kind::Logout, stopped), 1);
    assert!(simulation.count(Kind::ReadStatus, stopped) < 50, "the wait is no busy loop");
    let decision = simulation.decide();
    assert!(decision.done);
    assert_eq!(decision.phase, Phase::Left);
}

#[test]
fn a_login_whose_auth_url_is_withdrawn_before_it_is_judged_gets_another_key() {
    let mut simulation = Simulation::new();
    simulation.outside.set(Weak::Control, true);
    while simulation.world.login.pending.is_none() {
        simulation.run_until(simulation.now_ms + 1);
    }
    simulation.fold(Event::Bus(Box::new(crate::tailscaled::Notify { browse: true, ..Default::default() })));
    simulation.run_until(simulation.now_ms + 20);
    assert_eq!(simulation.count(Kind::Withdraw, 0), 1);
    simulation.outside.heal();
    let took = simulation.run_until_online().expect("joins with another key");
    assert!(took < 5_000, "took {took} ms");
    assert_eq!(simulation.count(Kind::Mint, 0), 2);
}

#[test]
fn a_login_that_control_answers_before_tailscaled_does_is_seen_to_succeed() {
    let mut simulation = Simulation::new();
    while simulation.count(Kind::Login, 0) == 0 {
        simulation.run_until(simulation.now_ms + 1);
    }
    simulation.outside.somebody_joins();
    let status = Box::new(simulation.outside.status());
    let run = simulation.world.daemon.run;
    simulation.fold(Event::Began(Kind::ReadStatus));
    simulation.fold(Event::Ended(Effect::ReadStatus { run }, Ok(Outcome::Status(status))));
    simulation.run_until(simulation.now_ms + 500);
    assert!(simulation.world.login.pending.is_none(), "the login is still waited for");
    assert_eq!(simulation.decide().phase, Phase::Online);
}

#[test]
fn a_login_that_succeeds_while_somebody_has_taken_the_node_down_is_seen_to() {
    let mut simulation = joined();
    simulation.outside.set(Weak::Control, true);
    simulation.outside.change_tags(true);
    while simulation.world.login.pending.is_none() {
        simulation.run_until(simulation.now_ms + 100);
    }
    simulation.outside.admin(false);
    simulation.run_until(simulation.now_ms + 20_000);
    simulation.outside.change_tags(false);
    simulation.outside.heal();
    simulation.run_until(simulation.now_ms + 20_000);
    assert!(simulation.world.login.pending.is_none(), "the login is still waited for");
    simulation.ask(Verb::Rejoin);
    simulation.run_until(simulation.now_ms + 180_000);
    let status = simulation.world.node.status.clone().expect("a status");
    assert_eq!(status.node.tags, simulation.outside.tailnet.tags, "it has the tags of the login that nobody noticed");
}

#[test]
fn a_key_that_is_refused_is_replaced_although_tailscaled_has_a_node() {
    let mut simulation = joined();
    simulation.outside.set(Weak::Control, true);
    simulation.outside.key_expires();
    while simulation.world.login.pending.is_none() {
        simulation.run_until(simulation.now_ms + 100);
    }
    simulation.outside.somebody_joins();
    simulation.run_until(simulation.now_ms + 2_000);
    let (refused, login_state) =
        (Some("authkey already used".to_owned()), Some(Some("You are logged out.".to_owned())));
    simulation.fold(Event::Bus(Box::new(Notify { error: refused, login_state, ..Notify::default() })));
    let start = simulation.now_ms;
    simulation.run_until(start + 30_000);
    assert_eq!(simulation.count(Kind::Mint, start), 1);
}
