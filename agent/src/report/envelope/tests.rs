use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::core::reason::Code;
use crate::report::testing::{document, reason};

fn stamp() -> Stamp<'static> {
    let sent_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
    Stamp { boot_id: "b0", boottime: BootTime(4_250), sent_at }
}

fn json_of(document: &Document) -> Value {
    serde_json::from_slice(&report(document, stamp()).unwrap().expect("it has an instance")).unwrap()
}

#[test]
fn a_report_says_whose_it_is_and_when() {
    let document = document();
    assert_eq!(
        json_of(&document),
        json!({
            "version": 1, "instance_id": "i-4f2c", "boot_id": "b0", "boottime_ms": 4250, "generation": "7",
            "sent_at": "2023-11-14T22:13:20.250Z", "status": document,
        })
    );
}

#[test]
fn before_the_first_spec_there_is_nothing_to_report() {
    assert_eq!(report(&Document { instance: None, ..document() }, stamp()).unwrap(), None);
}

#[test]
fn a_report_that_is_too_large_loses_health_and_details_first() {
    let mut large = document();
    large.daemon.health = vec!["h".repeat(900); 40];
    large.reason = Some(reason(Code::MetadataDenied, &"d".repeat(5000)));
    let bytes = report(&large, stamp()).unwrap().unwrap();
    assert!(bytes.len() <= REPORT_MAX, "{}", bytes.len());
    let json: Value = serde_json::from_slice(&bytes).unwrap();
    let status: Document = serde_json::from_value(json["status"].clone()).expect("it is a status document still");
    assert!(status.daemon.health.len() >= 8 && status.reason.unwrap().detail.ends_with('…'));
    assert_eq!((status.instance, status.node, status.boot), (large.instance, large.node, large.boot));
}

#[test]
fn what_changes_by_itself_is_no_news() {
    let mut later = document();
    later.notices = vec![reason(Code::HostnameConflict, "")];
    let before = later.clone();
    later.metadata.fetched_at = Some("2023-11-14T23:00:00Z".into());
    later.notices[0].next_try = Some("2023-11-14T23:00:00Z".into());
    assert_eq!(essence(&later), essence(&before));
    later.notices[0].code = Code::TagsDiffer;
    assert_ne!(essence(&later), essence(&before));
}

proptest! {
    // Each case is up to a megabyte of JSON.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_tailscaled_says_a_report_stays_within_its_size(
        text in "(\\PC|[\"\\\\\u{0}-\u{1f}\u{10ffff}]){0,80}", repeat in 1usize..30, count in 0usize..50,
    ) {
        let text = text.repeat(repeat);
        let mut large = document();
        large.daemon.health = vec![text.clone(); count];
        large.identity.evidence = vec![text.clone(); count];
        large.notices = vec![reason(Code::TagsDiffer, &text); count.min(20)];
        large.reason = Some(reason(Code::KeyRefused, &text));
        let node = large.node.as_mut().unwrap();
        (node.addresses, node.tags) = (vec![text.clone(); count], vec![text.clone(); count]);
        (node.name, node.dns_name, node.relay) = (text.clone(), text.clone(), text.clone());
        let bytes = report(&large, stamp()).unwrap().unwrap();
        prop_assert!(bytes.len() <= REPORT_MAX, "{}", bytes.len());
        let json: Value = serde_json::from_slice(&bytes).unwrap();
        prop_assert!(serde_json::from_value::<Document>(json["status"].clone()).is_ok());
    }
}
