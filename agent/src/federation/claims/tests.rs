use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::core::reason::Fault;
use crate::federation::testing::{NOON, jwt, payload, signed};

fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + NOON
}

fn shape_fault(token: &str) -> Fault {
    Fault::from(&read(&Secret::new(token.to_owned())).expect_err("the token is wrong"))
}

fn judged(change: impl FnOnce(&mut Value), now: SystemTime, server: Option<SystemTime>) -> Option<Fault> {
    let claims = read(&jwt(change)).expect("the token has a JWT's shape");
    judge(&claims, "k1", now, server).err().map(|error| Fault::from(&error))
}

#[test]
fn the_claims_of_a_usual_token_are_read() {
    let claims = read(&jwt(|_| ())).unwrap();
    assert_eq!((claims.issuer.as_str(), claims.subject.as_str()), ("https://issuer.example", "box"));
    assert_eq!(claims.audience, ["api.tailscale.com/k1"]);
    assert_eq!(claims.expires, noon() + Duration::from_secs(600));
    assert_eq!(claims.not_before, Some(noon()));
}

#[test]
fn a_list_of_audiences_a_fraction_and_an_iat_are_usual_as_well() {
    let claims = read(&jwt(|payload| {
        payload["aud"] = json!(["other", "api.tailscale.com/k1"]);
        payload["exp"] = json!(1_700_000_600.5);
        payload["iat"] = json!(NOON.as_secs() - 5);
        payload.as_object_mut().unwrap().remove("nbf");
    }))
    .unwrap();
    assert_eq!(claims.audience.len(), 2);
    assert_eq!(claims.expires, noon() + Duration::from_millis(600_500));
    assert_eq!(claims.not_before, Some(noon() - Duration::from_secs(5)));
}

#[test]
fn what_is_no_signed_jwt_is_refused_without_quoting_it() {
    let usual = jwt(|_| ());
    let unsigned = usual.expose().rsplit_once('.').unwrap().0.to_owned() + ".";
    let huge = signed(&json!({"alg": "RS256"}), &json!({"canary": "x".repeat(1 << 20)}));
    for token in
        ["", "canary", "canary.canary", "canary.canary.canary", "a.b.c.d.e", &unsigned, huge.expose(), "\u{e9}.\0.x"]
    {
        let fault = shape_fault(token);
        assert_eq!(fault.code, Code::TokenClaims);
        assert!(!fault.detail.contains("canary"), "{}", fault.detail);
    }
}

#[test]
fn a_token_without_a_signature_algorithm_is_refused() {
    for header in [json!({"alg": "none"}), json!({"alg": "None"}), json!({}), json!({"alg": 1})] {
        let fault = shape_fault(signed(&header, &payload()).expose());
        assert_eq!((fault.code, fault.detail.starts_with("alg: ")), (Code::TokenClaims, true), "{header}");
    }
}

#[test]
fn a_claim_that_is_missing_or_wrong_is_named() {
    for (claim, value) in [
        ("iss", Value::Null),
        ("iss", json!("")),
        ("sub", json!(7)),
        ("aud", json!({})),
        ("aud", json!(["a", 1])),
        ("exp", Value::Null),
        ("exp", json!("tomorrow")),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("nbf", json!("now")),
    ] {
        let fault = shape_fault(jwt(|payload| payload[claim] = value.clone()).expose());
        assert_eq!(fault.code, Code::TokenClaims, "{claim} = {value}");
        assert!(fault.detail.starts_with(&format!("{claim}: expected ")), "{}", fault.detail);
    }
}

#[test]
fn a_token_for_somebody_else_is_named_by_its_audience() {
    let fault = judged(|payload| payload["aud"] = json!("api.tailscale.com/k2"), noon(), None).unwrap();
    assert_eq!(fault.code, Code::TokenClaims);
    assert_eq!(fault.detail, "aud: expected api.tailscale.com/k1, found api.tailscale.com/k2");
}

#[test]
fn a_good_token_passes_and_one_that_is_over_does_not() {
    assert_eq!(judged(|_| (), noon(), None), None);
    let fault = judged(|_| (), noon() + Duration::from_secs(600), Some(noon() + Duration::from_secs(601))).unwrap();
    assert_eq!(fault.code, Code::TokenExpired);
    assert!(fault.detail.contains("2023-11-14T22:23:20Z"), "{}", fault.detail);
}

#[test]
fn a_start_within_five_minutes_passes_and_a_later_one_is_skew() {
    let starting = |after: u64| move |payload: &mut Value| payload["nbf"] = json!(NOON.as_secs() + after);
    assert_eq!(judged(starting(300), noon(), None), None);
    let fault = judged(starting(301), noon(), Some(noon() + Duration::from_secs(310))).unwrap();
    assert_eq!(fault.code, Code::ClockSkew);
    for cited in ["2023-11-14T22:13:20Z", "2023-11-14T22:18:21Z", "the API's clock 2023-11-14T22:18:30Z"] {
        assert!(fault.detail.contains(cited), "{}", fault.detail);
    }
}

#[test]
fn a_token_that_is_over_only_by_a_clock_that_is_ahead_is_skew() {
    let ahead = noon() + Duration::from_secs(1200);
    let fault = judged(|_| (), ahead, Some(noon() + Duration::from_secs(10))).unwrap();
    assert_eq!((fault.code, fault.detail.starts_with("exp: ")), (Code::ClockSkew, true));
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(token in "\\PC*") {
        drop(read(&Secret::new(token)));
    }

    #[test]
    fn no_claims_make_it_panic(header in any::<Vec<u8>>(), payload in any::<Vec<u8>>(), signature in "[a-z]{0,4}") {
        let [header, payload] = [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part));
        drop(read(&Secret::new(format!("{header}.{payload}.{signature}"))));
    }

    #[test]
    fn no_dates_make_the_judge_panic(exp in any::<f64>(), nbf in any::<f64>(), now in 0u64..300_000_000_000) {
        let token = jwt(|payload| {
            payload["exp"] = json!(exp);
            payload["nbf"] = json!(nbf);
        });
        if let Ok(claims) = read(&token) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.min(253_402_300_000));
            let verdict = judge(&claims, "k1", now, Some(now));
            prop_assert_eq!(verdict.is_ok(), claims.expires > now && claims.not_before.is_none_or(|at| at <= now + SKEW_MAX));
        }
    }
}
