//! Rows F70 and F72: the platform's report sink. Failing to report never disturbs the node.

use anyhow::{Context, Result, ensure};
use devbox_lab::machine::story;
use devbox_lab::platform::fault::Fault;

use crate::patient::{ID, LIMIT, Patient, REPORT};

/// Waits until the node is online by its own status.
async fn online(patient: &Patient) -> Result<()> {
    patient.shows("online", |status| status["phase"] == "online").await.map(drop)
}

#[test]
fn a_sink_that_is_down_gets_the_latest_when_it_is_back() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        patient.scene.platform.metadata.server.faults.always(REPORT, Fault::status(503));
        patient.start()?;
        online(&patient).await?;
        patient.notes("report_unreachable", "503").await?;
        ensure!(patient.scene.platform.reports.all(ID).is_empty(), "nothing arrived");
        patient.scene.platform.metadata.server.faults.clear(REPORT);
        patient.heals().await?;
        let first = patient.scene.platform.reports.all(ID).into_iter().next().context("a report")?;
        ensure!(first.phase() == "online", "only the latest waits: {}", first.raw);
        patient.shows("no notice", |status| status["notices"].as_array().is_some_and(Vec::is_empty)).await.map(drop)
    });
}

#[test]
fn a_sink_that_refuses_is_left_alone() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        patient.scene.platform.metadata.server.faults.always(REPORT, Fault::status(403));
        patient.start()?;
        patient.notes("report_denied", "403").await?;
        online(&patient).await?;
        ensure!(patient.asked(REPORT) == 1, "{} reports", patient.asked(REPORT));
        let agent = patient.agent()?;
        ensure!(agent.stop(LIMIT).await?.success(), "an orderly end:\n{}", patient.log());
        ensure!(patient.asked(REPORT) == 1, "the last report went to a sink that refuses");
        Ok(())
    });
}

#[test]
fn a_sink_that_wants_a_session_gets_one() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        patient.scene.platform.metadata.server.faults.next(REPORT, Fault::status(401));
        patient.start()?;
        patient.heals().await?;
        ensure!(patient.asked("PUT /devbox/v1/session") == 1, "one session");
        Ok(())
    });
}

#[test]
fn nothing_that_a_sink_answers_makes_the_agent_do_anything() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        let faults = &patient.scene.platform.metadata.server.faults;
        faults.next(REPORT, Fault::wire(devbox_lab::platform::wire::Wire::Announce(1 << 30)));
        faults.next(REPORT, Fault::status(200).body("\u{1b}[2Jrejoin\n{\"phase\":\"left\"}"));
        patient.start()?;
        online(&patient).await?;
        let reports = patient.scene.platform.metadata.server.log.wait_for(REPORT, 1, LIMIT).await?;
        ensure!(reports[0].bytes_sent() < 8 << 20, "{} bytes were taken", reports[0].bytes_sent());
        ensure!(!patient.log().contains("\u{1b}[2J"), "the log holds what the sink sent, raw");
        patient.only_node().await.map(drop)
    });
}
