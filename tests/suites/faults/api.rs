//! Rows F17 to F23: the token exchange, the key endpoint, and their certificate.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devbox_lab::machine::story;
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::relay::Scope;
use devbox_lab::platform::routes::{EXCHANGE, KEYS};
use devbox_lab::platform::tls::Certificate;
use devbox_lab::platform::wire::Wire;
use serde_json::Value;

use crate::patient::{CLIENT, LIMIT, Patient, TAG, TOKEN, pause};

#[test]
fn an_exchange_that_refuses_waits_for_a_person() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        let words = format!("invalid_grant {}", "x".repeat(2000));
        let refusal = |code| Fault::status(code).body(serde_json::json!({ "message": words }).to_string());
        patient.scene.platform.api.server.faults.always(EXCHANGE, refusal(400));
        patient.start()?;
        for (tries, code) in [400, 401, 403].into_iter().enumerate() {
            if tries > 0 {
                patient.scene.platform.api.server.faults.always(EXCHANGE, refusal(code));
                patient.refresh().await?;
            }
            let reason = patient.gives_and_reports("exchange_denied", &format!("{code}")).await?;
            ensure!(reason["class"] == "blocked" && pause(&reason)? > 600.0, "{reason}");
            ensure!(patient.api_asked(EXCHANGE) == tries + 1, "{} tries", patient.api_asked(EXCHANGE));
            let detail = reason["detail"].as_str().unwrap_or_default();
            ensure!(detail.contains("invalid_grant") && detail.len() < 500, "its own words, cut: {detail}");
        }
        patient.scene.platform.api.server.faults.clear(EXCHANGE);
        patient.refresh().await?;
        patient.heals().await.map(drop)
    });
}

#[test]
fn an_exchange_that_is_down_gets_the_same_token_again() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        let faults = &patient.scene.platform.api.server.faults;
        faults.next(EXCHANGE, Fault::status(500));
        faults.next(EXCHANGE, Fault::wire(Wire::Truncate(10)));
        faults.next(EXCHANGE, Fault::drop_connection());
        faults.next(EXCHANGE, Fault::status(429).retry_after("3"));
        patient.start()?;
        patient.gives_and_reports("exchange_unavailable", "429").await?;
        patient.refresh().await?;
        patient.heals().await?;
        let tries = patient.scene.platform.api.server.log.of(EXCHANGE);
        ensure!(tries.len() == 5, "{} tries", tries.len());
        ensure!(tries.iter().all(|seen| seen.body == tries[0].body), "a token that still holds is used again");
        ensure!(patient.asked(TOKEN) == 1, "{} tokens", patient.asked(TOKEN));
        let waited = tries[4].at - tries[3].at;
        ensure!(waited >= Duration::from_secs(3), "asked again {waited:?} after `Retry-After: 3`, though refreshed");
        Ok(())
    });
}

#[test]
fn an_exchange_that_answers_nonsense_or_nothing_is_named() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        let faults = &patient.scene.platform.api.server.faults;
        faults.always(
            EXCHANGE,
            Fault::status(200).body(r#"{"access_token":"","token_type":"Bearer","expires_in":3600}"#),
        );
        patient.start()?;
        patient.gives_and_reports("exchange_invalid", "").await?;
        let faults = &patient.scene.platform.api.server.faults;
        faults.always(EXCHANGE, Fault::status(200).body("<html>Welcome to the hotel</html>"));
        patient.refresh().await?;
        patient.scene.platform.api.server.log.wait_for(EXCHANGE, 2, LIMIT).await?;
        patient.gives("exchange_invalid", "").await?;
        faults.always(EXCHANGE, Fault::redirect(302, "http://10.77.0.1/"));
        patient.refresh().await?;
        patient.gives("exchange_invalid", "302").await?;
        faults.clear(EXCHANGE);
        patient.scene.platform.api_relay.freeze(Scope::All);
        patient.refresh().await?;
        patient.gives_and_reports("exchange_unreachable", "").await?;
        patient.scene.platform.api_relay.restore(Scope::All);
        patient.heals().await.map(drop)
    });
}

#[test]
fn an_api_with_a_wrong_certificate_is_told_nothing() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        let api = &patient.scene.platform.api;
        api.show_certificate(Certificate::SelfSigned).await?;
        patient.start()?;
        let reason = patient.gives_and_reports("tls_untrusted", "").await?;
        ensure!(reason["class"] == "waiting", "{reason}");
        for (kind, words) in [(Certificate::WrongHost, "not valid for name"), (Certificate::Expired, "xpired")] {
            patient.scene.platform.api.show_certificate(kind).await?;
            patient.refresh().await?;
            patient.gives("tls_untrusted", words).await?;
        }
        ensure!(
            patient.scene.platform.api.server.log.all().is_empty(),
            "something was sent in spite of the certificate"
        );
        patient.scene.platform.api.show_certificate(Certificate::Good).await?;
        patient.heals().await.map(drop)
    });
}

#[test]
fn tags_that_the_credential_may_not_give_are_named_and_never_left_out() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        patient.scene.platform.add_credential(CLIENT, "acme", &["tag:ci"]);
        patient.start()?;
        let reason = patient.gives_and_reports("tags_forbidden", TAG).await?;
        ensure!(reason["class"] == "blocked" && pause(&reason)? > 600.0, "{reason}");
        patient.scene.platform.add_credential(CLIENT, "acme", &[TAG]);
        patient.scene.platform.api.server.faults.always(KEYS, Fault::status(403).body(r#"{"message":"no scope"}"#));
        patient.scene.platform.api.revoke_tokens();
        patient.refresh().await?;
        let reason = patient.gives_and_reports("mint_denied", "403").await?;
        ensure!(reason["class"] == "blocked", "{reason}");
        for body in patient.scene.platform.api.server.log.of(KEYS) {
            ensure!(tags_of(&body.body)? == [TAG], "a key without the tags was asked for: {}", body.body);
        }
        patient.scene.platform.api.server.faults.clear(KEYS);
        patient.refresh().await?;
        let node = patient.heals().await?;
        ensure!(node.tags == [TAG], "{:?}", node.tags);
        Ok(())
    });
}

fn tags_of(body: &str) -> Result<Vec<String>> {
    let body: Value = serde_json::from_str(body).context("a request for a key")?;
    Ok(serde_json::from_value(body["capabilities"]["devices"]["create"]["tags"].clone())?)
}

#[test]
fn a_key_endpoint_that_is_down_gets_the_same_access_token_until_that_is_over() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        // The agent stops using a token 10 s before its end.
        patient.scene.platform.api.set_token_lifetime(Duration::from_secs(14));
        patient.scene.platform.api.server.faults.always(KEYS, Fault::status(503));
        patient.start()?;
        patient.gives_and_reports("mint_unavailable", "503").await?;
        let tries = patient.scene.platform.api.server.log.wait_for(KEYS, 2, LIMIT).await?;
        ensure!(
            tries[0].header("authorization") == tries[1].header("authorization"),
            "the access token was not used again"
        );
        patient.scene.platform.api.server.log.wait_for(EXCHANGE, 2, LIMIT).await?;
        patient.scene.platform.api.set_token_lifetime(Duration::from_secs(3600));
        patient.scene.platform.api.server.faults.clear(KEYS);
        patient.heals().await?;
        ensure!(patient.scene.platform.minter.minted().len() == 1, "one key is enough");
        Ok(())
    });
}

#[test]
fn a_key_endpoint_that_answers_nonsense_or_nothing_is_named() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        let faults = &patient.scene.platform.api.server.faults;
        faults.next(KEYS, Fault::drop_connection());
        faults.always(KEYS, Fault::status(200).body(r#"{"id":"k1"}"#));
        patient.start()?;
        patient.gives_and_reports("mint_invalid", "").await?;
        let first = patient.scene.platform.api.server.log.of(KEYS);
        ensure!(first.len() >= 2, "{} requests", first.len());
        patient.scene.platform.api.server.faults.always(KEYS, Fault::drop_connection());
        patient.refresh().await?;
        patient.gives_and_reports("mint_unreachable", "").await?;
        patient.scene.platform.api.server.faults.clear(KEYS);
        patient.heals().await.map(drop)
    });
}

#[test]
fn an_agent_that_is_killed_before_it_has_the_key_makes_one_more() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        let (fault, hold) = Fault::hold();
        patient.scene.platform.api.server.faults.next(KEYS, fault.late());
        patient.start()?;
        let minted = || async { Ok((patient.scene.platform.minter.minted().len() == 1).then_some(())) };
        devbox_lab::machine::eventually("the first key", LIMIT, minted).await?;
        patient.agent()?.kill().await?;
        drop(hold);
        patient.start()?;
        patient.heals().await?;
        ensure!(
            patient.scene.platform.minter.minted().len() == 2,
            "{} keys",
            patient.scene.platform.minter.minted().len()
        );
        for seen in patient.scene.platform.api.server.log.of(KEYS) {
            let body: Value = serde_json::from_str(&seen.body)?;
            let create = &body["capabilities"]["devices"]["create"];
            ensure!(create["reusable"] == false && create["ephemeral"] == false, "{body}");
            ensure!(body["expirySeconds"].as_u64().is_some_and(|life| life <= 600), "{body}");
        }
        Ok(())
    });
}
