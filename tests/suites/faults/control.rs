//! Rows F24 and F25: the control server, between a login and its success.

use anyhow::{Context, Result, ensure};
use devbox_lab::machine::story;
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::ledger::SecretKind;
use devbox_lab::platform::relay::Scope;
use devbox_lab::platform::routes::KEYS;
use nix::unistd::Pid;

use crate::patient::{LIMIT, Patient};

/// The machine's tailscaled.
fn tailscaled(patient: &Patient) -> Result<Pid> {
    let is =
        |pid: &Pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "tailscaled");
    patient.machine.processes()?.into_iter().find(is).context("tailscaled does not run")
}

#[test]
fn control_that_falls_silent_after_the_login_is_waited_for() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        patient.scene.platform.control_relay.freeze(Scope::All);
        patient.start()?;
        patient.gives_and_reports("join_pending", "").await?;
        let daemon = tailscaled(&patient)?;
        patient.scene.platform.control_relay.restore(Scope::All);
        patient.heals().await?;
        ensure!(tailscaled(&patient)? == daemon, "tailscaled was restarted");
        ensure!(patient.api_asked(KEYS) == 1, "{} keys", patient.api_asked(KEYS));
        Ok(())
    });
}

#[test]
fn control_that_breaks_every_connection_is_waited_for() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        patient.scene.platform.control_relay.drop_connections(Scope::All);
        patient.start()?;
        patient.gives_and_reports("join_pending", "").await?;
        let daemon = tailscaled(&patient)?;
        patient.scene.platform.control_relay.restore(Scope::All);
        patient.heals().await?;
        ensure!(tailscaled(&patient)? == daemon, "tailscaled was restarted");
        Ok(())
    });
}

#[test]
fn a_key_that_expires_before_its_use_is_replaced() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        patient.scene.platform.control_relay.freeze(patient.its());
        patient.start()?;
        patient.gives_and_reports("join_pending", "").await?;
        let keys = patient.scene.platform.minter.minted();
        let (id, _) = keys.iter().next().context("a key")?;
        patient.scene.platform.headscale.api.expire_key(id).await?;
        patient.scene.platform.control_relay.restore(patient.its());
        patient.heals().await?;
        ensure!(patient.api_asked(KEYS) == 2, "{} keys", patient.api_asked(KEYS));
        Ok(())
    });
}

#[test]
fn a_key_that_somebody_else_has_used_is_replaced() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        patient.scene.platform.control_relay.freeze(patient.its());
        patient.start()?;
        patient.gives_and_reports("join_pending", "").await?;
        let secrets = patient.scene.platform.ledger.secrets();
        let key = secrets.into_iter().find(|(kind, _)| *kind == SecretKind::AuthKey).context("a key")?;
        let thief = patient.scene.machine("thief")?;
        patient.scene.join_by_hand(&thief, &key.1).await?;
        patient.scene.platform.control_relay.restore(patient.its());
        patient.heals().await?;
        ensure!(patient.api_asked(KEYS) == 2, "{} keys", patient.api_asked(KEYS));
        Ok(())
    });
}

#[test]
fn three_keys_that_control_refuses_are_enough() {
    story(|lab| async move {
        let mut patient = Patient::admit(lab).await?;
        let unknown = r#"{"id":"1","key":"hskey-auth-000000000000-0000000000000000000000000000000000000000000000000000000000000000"}"#;
        patient.scene.platform.api.server.faults.always(KEYS, Fault::status(200).body(unknown));
        patient.start()?;
        let reason = patient.gives_and_reports("keys_exhausted", "").await?;
        ensure!(reason["class"] == "blocked" && crate::patient::pause(&reason)? > 600.0, "{reason}");
        ensure!(patient.api_asked(KEYS) == 3, "{} keys", patient.api_asked(KEYS));
        let log = patient.scene.platform.api.server.log.wait_for(KEYS, 3, LIMIT).await?;
        ensure!(log.len() == 3, "another key was asked for");
        ensure!(patient.scene.platform.nodes().await?.is_empty(), "a node without a key");
        patient.scene.platform.api.server.faults.clear(KEYS);
        patient.refresh().await?;
        patient.heals().await.map(drop)
    });
}
