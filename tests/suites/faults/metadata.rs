//! Rows F1 and F3 to F10, F12 and F13: the metadata endpoint.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devbox_lab::machine::{PLATFORM, story};
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::instance::TailnetWish;
use devbox_lab::platform::relay::Scope;
use devbox_lab::platform::routes::KEYS;
use devbox_lab::platform::wire::Wire;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::patient::{ID, LIMIT, Patient, SPEC, TOKEN, pause};

/// Far below what an answer without end would come to; what the kernel's buffers hold is above what the agent reads.
const CUT: u64 = 8 << 20;

/// An answer, and what the agent makes of it.
struct Row {
    fault: Fault,
    code: &'static str,
    words: &'static str,
}

fn row(fault: Fault, code: &'static str, words: &'static str) -> Row {
    Row { fault, code, words }
}

/// Shows each of the rows in turn to an agent that has no spec yet.
async fn walk(patient: &Patient, rows: Vec<Row>) -> Result<()> {
    let faults = &patient.scene.platform.metadata.server.faults;
    for Row { fault, code, words } in rows {
        faults.always(SPEC, fault);
        patient.refresh().await?;
        patient.gives(code, words).await?;
    }
    ensure!(patient.api_asked(KEYS) + patient.asked(TOKEN) == 0, "nothing can be fetched without a spec");
    faults.clear(SPEC);
    patient.heals().await.map(drop)
}

#[test]
fn answers_that_are_no_metadata_are_refused_and_named() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        let faults = &patient.scene.platform.metadata.server.faults;
        let portal = || Fault::status(200).body("<html><body>Please log in</body></html>");
        faults.always(SPEC, portal());
        patient.start()?;
        patient.gives("metadata_invalid", "line 1").await?;
        let bomb = Fault::status(200).header("content-encoding", "gzip").body(vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
        let deep = "[".repeat(10_000);
        walk(
            &patient,
            vec![
                row(portal(), "metadata_invalid", "line 1"),
                row(Fault::status(200).body(""), "metadata_invalid", "column 0"),
                row(Fault::status(200).body(*b"{\"version\":1,\0}"), "metadata_invalid", "column 14"),
                row(Fault::status(200).body(*b"{\"version\":\"\xff\"}"), "metadata_invalid", ""),
                row(Fault::status(200).body(deep), "metadata_invalid", ""),
                row(bomb, "metadata_invalid", ""),
                row(Fault::none().without_header("metadata-flavor"), "metadata_untrusted", "none"),
                row(Fault::none().header("metadata-flavor", "Google"), "metadata_untrusted", "Google"),
                row(Fault::status(404), "not_provisioned", "404"),
                row(Fault::status(503), "metadata_unavailable", "503"),
                row(Fault::drop_connection(), "metadata_unreachable", "connection"),
                row(Fault::wire(Wire::EndlessChunks), "metadata_invalid", "larger than"),
                row(Fault::wire(Wire::Announce(1 << 40)), "metadata_invalid", "larger than"),
            ],
        )
        .await?;
        let sent = patient.scene.platform.metadata.server.log.of(SPEC);
        let most = sent.iter().map(|seen| seen.bytes_sent()).max().unwrap_or_default();
        ensure!(most < CUT, "the agent let {most} bytes be sent");
        Ok(())
    });
}

#[test]
fn an_endpoint_that_is_slow_or_silent_is_given_up_in_time() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        patient.scene.platform.metadata.server.faults.always(SPEC, Fault::wire(Wire::Drip(1)));
        patient.start()?;
        patient.gives("metadata_timeout", "headers").await?;
        patient.scene.platform.metadata.server.faults.always(SPEC, Fault::wire(Wire::DripBody(1)));
        patient.refresh().await?;
        patient.gives("metadata_timeout", "body").await?;
        let log = &patient.scene.platform.metadata.server.log;
        let given_up = |seen: &devbox_lab::platform::requests::Seen| seen.connection_closed();
        ensure!(log.of(SPEC).iter().any(given_up), "the sockets of what was given up are closed");
        patient.scene.platform.metadata.server.faults.clear(SPEC);
        patient.heals().await.map(drop)
    });
}

#[test]
fn a_redirect_leads_nowhere_and_a_refusal_waits_for_a_person() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        let elsewhere = TcpListener::bind((PLATFORM, 81)).await?;
        let target = format!("http://{}/devbox/v1/instance", elsewhere.local_addr()?);
        let faults = &patient.scene.platform.metadata.server.faults;
        faults.always(SPEC, Fault::redirect(301, &target));
        patient.start()?;
        patient.gives("metadata_redirect", "301").await?;
        let faults = &patient.scene.platform.metadata.server.faults;
        faults.always(SPEC, Fault::redirect(307, &target));
        patient.refresh().await?;
        patient.gives("metadata_redirect", "307").await?;
        let followed = tokio::time::timeout(Duration::ZERO, elsewhere.accept()).await;
        ensure!(followed.is_err(), "a redirect was followed");

        for code in [400, 403] {
            faults.always(SPEC, Fault::status(code));
            patient.refresh().await?;
            let reason = patient.gives("metadata_denied", &code.to_string()).await?;
            ensure!(reason["class"] == "blocked", "{reason}");
            ensure!(pause(&reason)? > 600.0, "a refusal is asked about four times an hour: {reason}");
        }
        faults.clear(SPEC);
        patient.refresh().await?;
        patient.heals().await.map(drop)
    });
}

#[test]
fn sessions_are_fetched_when_asked_for_and_fetched_anew_once() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        let metadata = &patient.scene.platform.metadata;
        metadata.sessions.require(true);
        metadata.server.faults.always(SPEC, Fault::status(401));
        patient.start()?;
        patient.gives("metadata_denied", "401").await?;
        let (specs, sessions) = (patient.asked(SPEC), patient.asked("PUT /devbox/v1/session"));
        ensure!(sessions == 2 && specs == 3, "{specs} requests with {sessions} sessions");
        patient.scene.platform.metadata.server.faults.clear(SPEC);
        patient.refresh().await?;
        patient.heals().await?;
        patient.scene.platform.metadata.sessions.revoke_all();
        patient.scene.platform.set_spec(ID, |spec| "renamed".clone_into(&mut spec.name))?;
        patient.shows("the new name", |status| status["node"]["name"] == "renamed").await.map(drop)
    });
}

#[test]
fn a_platform_that_recovers_is_asked_no_more_than_needed() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        let faults = &patient.scene.platform.metadata.server.faults;
        faults.next(SPEC, Fault::status(503));
        faults.next(SPEC, Fault::status(503).retry_after("-1"));
        faults.next(SPEC, Fault::status(429).retry_after("4"));
        patient.start()?;
        patient.gives("metadata_unavailable", "429").await?;
        patient.refresh().await?;
        patient.heals().await?;
        let all = patient.scene.platform.metadata.server.log.of(SPEC);
        let plain: Vec<_> = all.iter().filter(|seen| !seen.query.contains("wait_s")).collect();
        ensure!(plain.len() == 4, "{} requests to get one answer", plain.len());
        let waited = plain[3].at - plain[2].at;
        ensure!(waited >= Duration::from_secs(4), "asked again {waited:?} after `Retry-After: 4`, though refreshed");
        Ok(())
    });
}

#[test]
fn an_absurd_retry_after_is_cut_to_an_hour() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        let faults = &patient.scene.platform.metadata.server.faults;
        faults.always(SPEC, Fault::status(429).retry_after("1000000000"));
        patient.start()?;
        let pause = pause(&patient.gives("metadata_unavailable", "429").await?)?;
        ensure!((3000.0..3700.0).contains(&pause), "{pause} s");
        Ok(())
    });
}

/// A document with one member changed, by its JSON pointer.
fn spoiled(patient: &Patient, at: &str, value: Value) -> Result<Value> {
    let document = patient.scene.platform.instances.get(ID).context("the instance")?;
    let mut body = (*document.body).clone();
    let (parent, member) = at.rsplit_once('/').context("a pointer")?;
    body.pointer_mut(parent).context("a parent")?[member] = value;
    Ok(body)
}

#[test]
fn a_hostile_value_is_named_and_what_was_valid_stays_in_force() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        patient.start()?;
        let node = patient.heals().await?;
        let rows = [
            ("/tailnet/hostname", json!("..."), "metadata_value", "hostname"),
            ("/tailnet/hostname", json!(7), "metadata_value", "hostname"),
            ("/tailnet/tags", json!(["tag:a;rm -rf /"]), "metadata_value", "tags"),
            ("/tailnet/tags", json!([]), "metadata_value", "tags"),
            ("/tailnet/client_id", json!("a\nb"), "metadata_value", "client_id"),
            ("/tailnet/lifecycle", json!("eternal"), "metadata_value", "lifecycle"),
            ("/report/interval_s", json!(0), "metadata_value", "interval_s"),
            ("/instance/id", json!("i-other"), "metadata_untrusted", "i-other"),
            ("/version", json!(2), "metadata_version", "2"),
        ];
        for (at, value, code, words) in rows {
            let document = match at {
                "/report/interval_s" => spoiled(&patient, "/report", json!({ "interval_s": value }))?,
                "/version" => json!({ "version": value }),
                at => spoiled(&patient, at, value)?,
            };
            patient.scene.platform.instances.override_document(ID, Some(document))?;
            patient.notes(code, words).await.with_context(|| at.to_owned())?;
            patient.scene.platform.instances.override_document(ID, None)?;
            patient.shows("no notice", |status| status["notices"] == json!([])).await?;
        }
        let after = patient.heals().await?;
        ensure!(after.node_key == node.node_key && after.given_name == node.given_name, "the node was touched");
        ensure!(patient.api_asked(KEYS) == 1, "another key was made");
        Ok(())
    });
}

#[test]
fn a_name_that_changes_every_second_ends_as_the_last_one_without_a_new_login() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        patient.start()?;
        let node = patient.heals().await?;
        for round in 0..6 {
            let name = if round % 2 == 0 { "even" } else { "odd" };
            patient.scene.platform.set_spec(ID, |spec| {
                if let TailnetWish::Join(tailnet) = &mut spec.tailnet {
                    tailnet.hostname = Some(name.to_owned());
                }
            })?;
            let etag = patient.scene.platform.instances.get(ID).context("the instance")?.etag;
            patient.shows("the new document", |status| status["metadata"]["etag"] == etag.as_str()).await?;
        }
        patient.shows("the last name", |status| status["node"]["name"] == "odd").await?;
        let nodes = patient.scene.platform.nodes().await?;
        ensure!(nodes.len() == 1 && nodes[0].node_key == node.node_key, "the node was made anew");
        ensure!(patient.api_asked(KEYS) == 1, "another key was made");
        Ok(())
    });
}

#[test]
fn an_endpoint_that_comes_late_is_found() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        let relay = &patient.scene.platform.metadata_relay;
        relay.drop_connections(Scope::All);
        patient.start()?;
        let reason = patient.gives("metadata_unreachable", "").await?;
        ensure!(reason["class"] == "waiting", "{reason}");
        let mut status = patient.machine.command("devbox-agent");
        status.args(["status", "--json"]);
        let output = tokio::time::timeout(LIMIT, patient.machine.exec(status)).await.context("status hangs")??;
        let shown: Value = serde_json::from_slice(&output.stdout).context("the status as JSON")?;
        ensure!(shown["reason"]["code"] == "metadata_unreachable", "{shown}");
        patient.scene.platform.metadata_relay.restore(Scope::All);
        patient.heals().await.map(drop)
    });
}
