//! Every code that the agent can give is reached by some story or test through real code: this list says by which.

use std::path::Path;

use devbox_agent::core::reason::Code;

const METADATA: &str = "tests/suites/faults/metadata.rs";
const TOKEN: &str = "tests/suites/faults/token.rs";
const API: &str = "tests/suites/faults/api.rs";
const CONTROL: &str = "tests/suites/faults/control.rs";
const REPORTS: &str = "tests/suites/faults/reports.rs";
const GITHUB: &str = "tests/suites/providers/github.rs";
const JOIN: &str = "tests/suites/process/join.rs";
const DAEMON: &str = "tests/suites/process/daemon.rs";
const REFUSALS: &str = "tests/suites/process/refusals.rs";
const SERVICE: &str = "tests/suites/process/service.rs";
const PROCESS: &str = "agent/src/core/simulation/process.rs";
const SIMULATION: &str = "agent/src/core/simulation/stories.rs";
const BOOT_BUS: &str = "tests/suites/boot/bus.rs";
const BOOT_UNIT: &str = "tests/suites/boot/unit.rs";
const CREDENTIALS: &str = "tests/suites/boot/credentials.rs";
const HELPER: &str = "agent/src/privilege/helper/tests.rs";
const HELPER_REFUSALS: &str = "agent/src/privilege/helper/tests/refusals.rs";

/// The code as status spells it, the file, and the function in it.
const REACHED: &[(&str, &str, &str)] = &[
    ("metadata_pending", SIMULATION, "a_key_is_made_only_by_a_spec_that_was_confirmed_in_this_run"),
    ("metadata_unreachable", METADATA, "an_endpoint_that_comes_late_is_found"),
    ("metadata_timeout", METADATA, "an_endpoint_that_is_slow_or_silent_is_given_up_in_time"),
    ("metadata_unavailable", METADATA, "a_platform_that_recovers_is_asked_no_more_than_needed"),
    ("metadata_invalid", METADATA, "answers_that_are_no_metadata_are_refused_and_named"),
    ("metadata_redirect", METADATA, "a_redirect_leads_nowhere_and_a_refusal_waits_for_a_person"),
    ("metadata_untrusted", METADATA, "answers_that_are_no_metadata_are_refused_and_named"),
    ("metadata_version", METADATA, "a_hostile_value_is_named_and_what_was_valid_stays_in_force"),
    ("metadata_value", METADATA, "a_hostile_value_is_named_and_what_was_valid_stays_in_force"),
    ("metadata_denied", METADATA, "a_redirect_leads_nowhere_and_a_refusal_waits_for_a_person"),
    ("metadata_secret", CREDENTIALS, "a_metadata_endpoint_over_tls_is_shown_a_credential"),
    ("environment_invalid", GITHUB, "a_job_whose_environment_was_cut_is_told_at_once_what_is_missing"),
    ("not_provisioned", METADATA, "answers_that_are_no_metadata_are_refused_and_named"),
    ("token_pending", JOIN, "a_token_that_takes_its_time_is_waited_for"),
    ("token_unavailable", TOKEN, "a_token_that_cannot_do_is_named_and_never_sent"),
    ("token_denied", GITHUB, "a_job_that_github_refuses_waits_for_a_person_and_one_that_it_does_not_answer_for_itself"),
    ("token_permission", GITHUB, "a_job_without_the_permission_is_told_exactly_that"),
    ("token_expired", TOKEN, "a_token_that_cannot_do_is_named_and_never_sent"),
    ("token_claims", TOKEN, "a_token_that_cannot_do_is_named_and_never_sent"),
    ("clock_skew", TOKEN, "a_token_that_cannot_do_is_named_and_never_sent"),
    ("exchange_unreachable", API, "an_exchange_that_answers_nonsense_or_nothing_is_named"),
    ("exchange_unavailable", API, "an_exchange_that_is_down_gets_the_same_token_again"),
    ("exchange_denied", API, "an_exchange_that_refuses_waits_for_a_person"),
    ("exchange_invalid", API, "an_exchange_that_answers_nonsense_or_nothing_is_named"),
    ("mint_unreachable", API, "a_key_endpoint_that_answers_nonsense_or_nothing_is_named"),
    ("mint_unavailable", API, "a_key_endpoint_that_is_down_gets_the_same_access_token_until_that_is_over"),
    ("mint_denied", API, "tags_that_the_credential_may_not_give_are_named_and_never_left_out"),
    ("mint_invalid", API, "a_key_endpoint_that_answers_nonsense_or_nothing_is_named"),
    ("tags_forbidden", API, "tags_that_the_credential_may_not_give_are_named_and_never_left_out"),
    ("tls_untrusted", API, "an_api_with_a_wrong_certificate_is_told_nothing"),
    ("dns", REFUSALS, "an_api_whose_name_does_not_resolve_is_named"),
    ("tailscaled_missing", DAEMON, "a_tailscaled_that_is_missing_is_used_as_soon_as_it_is_there"),
    ("tailscaled_masked", BOOT_UNIT, "a_unit_that_cannot_start_says_why_and_heals_as_soon_as_it_can"),
    ("tailscaled_starting", DAEMON, "a_tailscaled_that_is_never_ready_counts_as_hung"),
    ("gate_stuck", HELPER, "a_gate_that_cannot_be_opened_is_said_and_nothing_is_started"),
    ("tailscaled_crashloop", DAEMON, "a_tailscaled_that_exits_at_every_start_is_a_crash_loop_with_its_last_words"),
    ("tailscaled_hung", DAEMON, "a_tailscaled_that_is_never_ready_counts_as_hung"),
    ("tailscaled_deaf", PROCESS, "a_tailscaled_that_misses_the_network_again_is_said_to_have_and_restarted_later"),
    ("tailscaled_too_old", REFUSALS, "a_tailscaled_that_is_too_old_is_not_written_to"),
    ("ts_state_corrupt", REFUSALS, "a_state_that_tailscaled_cannot_use_waits_for_a_person"),
    ("no_tun", DAEMON, "a_machine_without_a_tun_device_is_told_apart"),
    ("helper_unavailable", BOOT_BUS, "a_helper_that_is_away_dies_or_talks_nonsense_is_named_and_found_again"),
    ("helper_denied", HELPER_REFUSALS, "what_configuration_does_not_allow_is_refused"),
    ("localapi_denied", REFUSALS, "a_tailscaled_that_denies_is_named"),
    ("localapi_error", REFUSALS, "a_tailscaled_that_answers_nonsense_is_named"),
    ("join_pending", CONTROL, "control_that_falls_silent_after_the_login_is_waited_for"),
    ("key_refused", JOIN, "a_refused_key_shows_until_the_next_is_there"),
    ("keys_exhausted", CONTROL, "three_keys_that_control_refuses_are_enough"),
    ("approval_pending", JOIN, "a_node_that_needs_approval_waits_without_another_key"),
    ("control_lost", JOIN, "a_node_that_control_loses_is_degraded_until_it_is_back"),
    ("unproven", JOIN, "after_a_resume_online_counts_once_control_has_answered_anew"),
    ("node_deleted", SIMULATION, "a_node_that_may_have_been_deleted_is_said_to_be_while_it_joins_again"),
    ("admin_down", JOIN, "an_admins_down_is_respected_until_rejoin"),
    ("admin_logout", JOIN, "an_admins_logout_is_respected_when_configured_so"),
    ("agent_stopping", SERVICE, "the_last_word_is_that_the_agent_stops"),
    ("foreign_node", JOIN, "a_node_of_somebody_else_is_left_alone"),
    ("instance_changed", JOIN, "a_node_of_another_instance_is_not_used"),
    ("logout_failed", JOIN, "leave_logs_out_and_says_when_control_does_not_confirm"),
    ("hostname_conflict", JOIN, "what_the_platform_changes_is_followed_and_what_the_tailnet_grants_is_told"),
    ("tags_differ", JOIN, "what_the_platform_changes_is_followed_and_what_the_tailnet_grants_is_told"),
    ("change_pending", SIMULATION, "a_change_that_waits_for_its_minute_is_said_until_it_is_followed"),
    ("hostname_unset", BOOT_BUS, "a_machine_that_cannot_be_named_says_so_and_its_node_has_the_name"),
    ("dbus_unavailable", BOOT_BUS, "a_machine_without_a_bus_joins_and_finds_the_bus_when_it_comes"),
    ("state_unwritable", SERVICE, "a_disk_that_cannot_be_written_does_not_keep_the_node_away"),
    ("state_unreadable", SERVICE, "a_record_that_cannot_be_read_makes_nobody_s_node_ours"),
    ("state_set_aside", SERVICE, "a_record_that_is_no_record_is_set_aside"),
    ("report_unreachable", REPORTS, "a_sink_that_is_down_gets_the_latest_when_it_is_back"),
    ("report_denied", REPORTS, "a_sink_that_refuses_is_left_alone"),
];

/// A test function, from its attribute to the end of its body.
fn function(file: &str, name: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let text = std::fs::read_to_string(path).expect("a file of the list can be read");
    let start = text.find(&format!("#[test]\nfn {name}() {{"))?;
    let length = text[start..].find("\n}\n")?;
    Some(text[start..start + length].to_owned())
}

#[test]
fn every_code_is_reached_by_a_test_that_names_it() {
    for code in Code::ALL {
        let row = REACHED.iter().find(|(listed, ..)| *listed == code.as_str());
        let (_, file, name) = row.unwrap_or_else(|| panic!("nothing reaches {code}: add a test, and a row here"));
        let body =
            function(file, name).unwrap_or_else(|| panic!("{file} has no test {name}, which should reach {code}"));
        let named = [format!("\"{code}\""), format!("Code::{code:?}")];
        assert!(named.iter().any(|text| body.contains(text)), "{name} says nothing of {code}");
    }
}

#[test]
fn no_row_is_for_a_code_that_is_gone() {
    for (listed, ..) in REACHED {
        assert!(Code::ALL.iter().any(|code| code.as_str() == *listed), "{listed} is no code");
    }
}
