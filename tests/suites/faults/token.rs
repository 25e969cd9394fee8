//! Rows F14 to F16: tokens that the exchange would refuse are not sent to it.

use std::time::Duration;

use anyhow::{Result, ensure};
use devbox_lab::machine::story;
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::routes::{EXCHANGE, KEYS};
use devbox_lab::platform::tamper::Tamper;

use crate::patient::{Patient, TOKEN, pause};

/// Spoils the tokens from now on and has the agent fetch one.
async fn spoil(patient: &Patient, tamper: Tamper) -> Result<()> {
    patient.scene.platform.issuer.tamper(Some(tamper));
    patient.refresh().await
}

#[test]
fn a_token_that_cannot_do_is_named_and_never_sent() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        patient.scene.platform.metadata.server.faults.always(TOKEN, Fault::status(503));
        patient.start()?;
        patient.gives_and_reports("token_unavailable", "503").await?;
        for (fault, words) in [
            (Fault::status(404), "404"),
            (Fault::status(200).body("no token"), "line 1"),
            (Fault::status(200).body(r#"{"token":"","expires_at":"2030-01-01T00:00:00Z"}"#), "empty"),
        ] {
            patient.scene.platform.metadata.server.faults.always(TOKEN, fault);
            patient.refresh().await?;
            patient.gives("token_unavailable", words).await?;
        }
        patient.scene.platform.metadata.server.faults.clear(TOKEN);

        spoil(&patient, Tamper::Expired).await?;
        patient.gives_and_reports("token_expired", "exp").await?;
        spoil(&patient, Tamper::NotYetValid(Duration::from_secs(3600))).await?;
        let skew = patient.gives_and_reports("clock_skew", "the API's clock").await?;
        ensure!(skew["class"] == "waiting" && pause(&skew)? < 60.0, "a clock is set without anybody's help: {skew}");
        spoil(&patient, Tamper::Audience("somebody-else".into())).await?;
        let claims = patient.gives_and_reports("token_claims", "somebody-else").await?;
        ensure!(claims["class"] == "blocked" && pause(&claims)? > 600.0, "{claims}");
        for (tamper, words) in [
            (Tamper::AlgNone, "signature"),
            (Tamper::NotAJwt("this is no token".into()), "three parts"),
            (Tamper::NotAJwt("a.b.c".into()), "header"),
            (Tamper::Oversized(100 * 1024), "16 KiB"),
        ] {
            spoil(&patient, tamper).await?;
            patient.gives("token_claims", words).await?;
        }
        // Longer than any answer of the metadata endpoint may be.
        spoil(&patient, Tamper::Oversized(1 << 20)).await?;
        patient.gives("token_unavailable", "larger than").await?;
        ensure!(patient.api_asked(EXCHANGE) == 0, "a token that cannot do was sent");
        patient.scene.platform.issuer.tamper(None);
        patient.heals().await.map(drop)
    });
}

#[test]
fn what_only_the_exchange_can_tell_is_left_to_it() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        patient.scene.platform.issuer.tamper(Some(Tamper::Issuer("https://elsewhere.example".into())));
        patient.start()?;
        let reason = patient.gives_and_reports("exchange_denied", "401").await?;
        ensure!(reason["class"] == "blocked" && pause(&reason)? > 600.0, "{reason}");
        // A little ahead of this clock is what servers commonly grant; whether this one does is its own affair.
        let rows = [
            (Tamper::ForeignKey, "InvalidSignature"),
            (Tamper::Subject("stranger/x".into()), "403"),
            (Tamper::NotYetValid(Duration::from_secs(240)), "ImmatureSignature"),
        ];
        for (tamper, words) in rows {
            spoil(&patient, tamper).await?;
            patient.gives("exchange_denied", words).await?;
        }
        ensure!(patient.api_asked(EXCHANGE) == 4 && patient.api_asked(KEYS) == 0, "one try for each");
        patient.scene.platform.issuer.tamper(None);
        patient.refresh().await?;
        patient.heals().await.map(drop)
    });
}
