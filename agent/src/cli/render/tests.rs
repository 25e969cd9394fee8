use std::time::Duration;

use super::*;
use crate::clock::BootTime;
use crate::core::reason::Code;
use crate::socket::samples::{newborn, reason, sample};
use crate::tailscaled::types::Node;

/// Three minutes after the sample's phase began.
fn now() -> Now {
    let real = humantime::parse_rfc3339("2026-01-02T14:05:11Z").expect("a time");
    Now { boot: BootTime(190_000), monotonic: Duration::from_secs(190), real }
}

fn drawn(document: &Document) -> String {
    status(document, now(), false)
}

#[test]
fn an_online_node() {
    let expected = "\
● on the tailnet as web-api

  name       web-api.tail1234.ts.net
  addresses  100.64.0.7, fd7a:115c:a1e0::7
  tags       tag:devbox
  relay      fra
  instance   i-4f2c (devbox of acme)
  since      3 min ago (2026-01-02 14:02:11 UTC)

  online after 412 ms
    spec       ━                                           12 ms
    daemon     ━━━━━━━━━━━━━━━━━                          180 ms
    token       ━━━                                        31 ms
    join                          ━━━━━━━━━━━━━━━━━━━━━   212 ms

  devbox-agent 0.1.0 · tailscaled 1.92.3 · metadata devbox
";
    assert_eq!(drawn(&sample(Phase::Online)), expected);
}

#[test]
fn a_machine_that_knows_nothing_yet_says_why() {
    let mut document = newborn();
    let next = Some("2026-01-02T14:05:18Z");
    document.reason = Some(reason(Code::MetadataUnreachable, "connection refused", next));
    let expected = "\
● not on the tailnet: waiting for the platform's metadata

  why        the metadata endpoint cannot be reached (metadata_unreachable)
             connection refused
  do         check that the platform serves metadata to this machine at the configured endpoint
  next try   in 7 s

  since      3 min ago (2026-01-02 14:02:11 UTC)

  devbox-agent 0.1.0 · tailscaled unknown · metadata devbox
";
    assert_eq!(drawn(&document), expected);
}

#[test]
fn a_blocked_join_says_how_far_it_came_and_who_must_do_what() {
    let mut document = sample(Phase::Blocked);
    document.node = None;
    document.boot.stages.truncate(1);
    document.boot.online_ms = None;
    document.daemon.restarts = 1;
    document.reason = Some(reason(Code::TagsForbidden, "tag:devbox", Some("2026-01-02T14:19:11Z")));
    let expected = "\
● not on the tailnet: blocked, a person must act

  why        the credential may not give this node its tags (tags_forbidden)
             tag:devbox
  do         let the credential own the tags named in the detail, or change the spec
  next try   in 14 min

  instance   i-4f2c (devbox of acme)
  since      3 min ago (2026-01-02 14:02:11 UTC)

  not online yet; so far
    spec       ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━    12 ms

  devbox-agent 0.1.0 · tailscaled 1.92.3, restarted once · metadata devbox
";
    assert_eq!(drawn(&document), expected);
}

#[test]
fn notices_and_health_come_last_and_do_not_hide_that_it_is_online() {
    let mut document = sample(Phase::Online);
    document.boot.stages.clear();
    document.daemon.restarts = 3;
    document.daemon.health = vec!["Tailscale can't reach the configured DNS servers.".into()];
    document.notices = vec![reason(Code::HostnameConflict, "asked for web-api, got web-api-1", None)];
    let expected = "\
● on the tailnet as web-api

  name       web-api.tail1234.ts.net
  addresses  100.64.0.7, fd7a:115c:a1e0::7
  tags       tag:devbox
  relay      fra
  instance   i-4f2c (devbox of acme)
  since      3 min ago (2026-01-02 14:02:11 UTC)

  also       the tailnet gave the node another name than asked for (hostname_conflict)
             asked for web-api, got web-api-1
  do         remove the older node of that name

  health     Tailscale can't reach the configured DNS servers.

  devbox-agent 0.1.0 · tailscaled 1.92.3, restarted 3 times · metadata devbox
";
    assert_eq!(drawn(&document), expected);
}

#[test]
fn each_phase_has_its_headline() {
    let headlines = [
        (Phase::WaitingForMetadata, "not on the tailnet: waiting for the platform's metadata"),
        (Phase::Unassigned, "not on the tailnet: the platform assigns this machine to none"),
        (Phase::CheckingIdentity, "not on the tailnet: finding out whose node this is"),
        (Phase::StartingDaemon, "not on the tailnet: starting tailscaled"),
        (Phase::Authenticating, "not on the tailnet: getting a key"),
        (Phase::Joining, "not on the tailnet: joining"),
        (Phase::Online, "on the tailnet as web-api"),
        (Phase::Degraded, "degraded: web-api was on the tailnet, and a fault is being healed"),
        (Phase::Blocked, "not on the tailnet: blocked, a person must act"),
        (Phase::Stopped, "not on the tailnet: stopped by an admin"),
        (Phase::Leaving, "not on the tailnet: leaving"),
        (Phase::Left, "not on the tailnet: left, until devbox-agent rejoin"),
    ];
    for (phase, expected) in headlines {
        assert_eq!(drawn(&sample(phase)).lines().next(), Some(format!("● {expected}").as_str()));
    }
}

#[test]
fn an_agent_that_is_down_is_said_to_be_down_before_anything_else() {
    let known = LastKnown { document: sample(Phase::Online), written: now().real - Duration::from_secs(300) };
    let node = Node { online: true, ..Node::default() };
    let daemon = Ok(Status { backend_state: "Running".into(), node, ..Status::default() });
    let text = down(Down::NotRunning, Some(&known), Some(&daemon), now().real, false);
    let expected = "\
● devbox-agent is not running; last known, from 5 min ago

  then       on the tailnet as web-api
  now        tailscaled says Running, online
  do         start it again; why it stopped is in its log

  name       web-api.tail1234.ts.net
";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn what_tailscaled_cannot_say_is_said_as_well() {
    let fault =
        Fault { code: Code::TailscaledHung, detail: "no answer in 3 s".into(), retry_after: None, unsent: false };
    let text = down(Down::Silent, None, Some(&Err(fault)), now().real, false);
    let expected = "\
● devbox-agent does not answer; nothing is known from before

  now        tailscaled does not answer (no answer in 3 s)
  do         restart it; what it did last is in its log
";
    assert_eq!(text, expected);
}

#[test]
fn colour_only_paints() {
    let document = sample(Phase::Blocked);
    let painted = status(&document, now(), true);
    assert!(painted.starts_with("\x1b[31m●\x1b[0m \x1b[1mnot on the tailnet"));
    let mut plain = painted;
    for code in ["\x1b[31m", "\x1b[1m", "\x1b[2m", "\x1b[0m"] {
        plain = plain.replace(code, "");
    }
    assert_eq!(plain, drawn(&document));
}

#[test]
fn text_from_elsewhere_cannot_drive_the_terminal() {
    let hostile = "\x1b]0;owned\x07\r\n● on the tailnet";
    let mut document = sample(Phase::Joining);
    document.reason = Some(reason(Code::KeyRefused, hostile, Some(hostile)));
    document.since = hostile.into();
    document.boot.stages[0].name = hostile.into();
    document.daemon.health = vec![hostile.into()];
    document.metadata.provider = hostile.into();
    let Some(node) = document.node.as_mut() else { panic!("the sample has a node") };
    (node.name, node.dns_name, node.key_expiry) = (hostile.into(), hostile.into(), Some(hostile.into()));
    let text = drawn(&document);
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    assert_eq!(text.lines().filter(|line| line.starts_with('●')).count(), 1);
}
