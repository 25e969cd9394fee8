//! Joining, and what changes afterwards.

use anyhow::{Context, Result, ensure};
use devbox_lab::machine::{Lab, story};
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::instance::{InstanceSpec, Tailnet, TailnetWish};
use devbox_lab::platform::routes::KEYS;
use serde_json::json;

use crate::local_api::{Login, Temper, node};
use crate::stage::{ID, LIMIT, Shows, Stage};

/// A login with a key, as it reaches tailscaled.
const LOGIN: [&str; 2] = ["start with a key", "login-interactive"];
const ONLINE: Shows = Shows::of("online", "");

/// Changes what the platform wants of the node.
fn want(stage: &Stage, change: impl FnOnce(&mut Tailnet)) -> Result<()> {
    stage.instances.change(ID, |spec| {
        if let TailnetWish::Join(tailnet) = &mut spec.tailnet {
            change(tailnet);
        }
    })
}

#[test]
fn a_fresh_node_takes_one_start_and_one_login() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.online().await?;
        let started = stage.started();
        let [line] = started.as_slice() else { anyhow::bail!("started {} times", started.len()) };
        for part in ["--statedir=", "--socket=", "--tun=", "--port="] {
            ensure!(line.contains(part), "{line}");
        }
        let told = stage.reports.wait_for(ID, LIMIT, |report| report.phase() == "online").await?;
        ensure!(told.status["node"]["dns_name"] == "box.tail.example", "{}", told.raw);
        ensure!(!stage.log().contains("canary") && !line.contains("canary"), "a key shows");
        stage.stop().await?;
        ensure!(stage.local.take_writes().is_empty(), "a stop leaves the node alone");
        Ok(())
    });
}

#[test]
fn a_node_that_runs_already_is_not_written_to() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.online().await?;
        stage.store_node()?;
        stage.stop().await?;
        let asked = stage.api_asked();
        stage.start()?;
        stage.shows_after(&[], ONLINE).await?;
        ensure!(stage.api_asked() == asked, "the API was asked for something");
        stage.stop().await
    });
}

#[test]
fn a_node_of_somebody_else_is_left_alone() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.store_node()?;
        stage.start()?;
        stage.shows_after(&[], Shows::of("blocked", "foreign_node")).await?;
        ensure!(stage.started().is_empty(), "tailscaled was started with somebody else's node");
        ensure!(stage.api_asked() == 0, "the API was asked for something");
        stage.stop().await
    });
}

#[test]
fn a_node_of_another_instance_is_not_used() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.online().await?;
        stage.store_node()?;
        stage.stop().await?;
        let here = stage.instances.get(ID).context("the instance")?.spec;
        stage.instances.remove(ID);
        stage.instances.add(InstanceSpec { id: "i-clone".into(), ..here });
        stage.start()?;
        let blocked = Shows { words: "i-clone", ..Shows::of("blocked", "instance_changed") };
        stage.shows_after(&[], blocked).await?;
        stage.stop().await
    });
}

#[test]
fn a_node_that_needs_approval_waits_without_another_key() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.local.logins(&[Login::NeedsApproval]);
        stage.start()?;
        stage.shows_after(&LOGIN, Shows::of("joining", "approval_pending")).await?;
        let asked = stage.api_asked();
        stage.local.set_status(|status| *status = node("Running", "box", 1)).await;
        stage.shows_after(&[], ONLINE).await?;
        ensure!(stage.api_asked() == asked, "another key was made");
        stage.stop().await
    });
}

#[test]
fn control_that_says_nothing_is_waited_for() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.local.logins(&[Login::Silent]);
        stage.start()?;
        stage.shows_after(&LOGIN, Shows::of("joining", "join_pending")).await?;
        let warning = json!({ "Health": { "Warnings": { "login-state": { "Text": "not ok", "Args": { "error": "no route" } } } } });
        stage.local.tell(warning).await;
        stage.shows_after(&[], Shows { words: "no route", ..Shows::of("joining", "join_pending") }).await?;
        stage.stop().await
    });
}

#[test]
fn a_standing_auth_url_is_withdrawn_before_the_login() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.local.set_status(|status| status["AuthURL"] = json!("https://login.example/a/1")).await;
        stage.start()?;
        stage.shows_after(&["start to withdraw", LOGIN[0], LOGIN[1]], ONLINE).await?;
        stage.stop().await
    });
}

#[test]
fn a_key_that_leads_to_an_auth_url_is_withdrawn_and_replaced() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.local.logins(&[Login::AsksForPerson]);
        stage.start()?;
        stage.shows_after(&[LOGIN[0], LOGIN[1], "start to withdraw", LOGIN[0], LOGIN[1]], ONLINE).await?;
        stage.stop().await
    });
}

#[test]
fn three_refused_keys_wait_for_a_person() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        let words = "invalid key: authkey already used";
        stage.local.logins(&[Login::Refused(words), Login::Refused(words), Login::Refused(words)]);
        stage.start()?;
        stage
            .shows_after(&[LOGIN, LOGIN, LOGIN].concat(), Shows { words, ..Shows::of("blocked", "keys_exhausted") })
            .await?;
        stage.tell("refresh").await?;
        stage.shows_after(&LOGIN, ONLINE).await?;
        stage.stop().await
    });
}

#[test]
fn a_token_that_takes_its_time_is_waited_for() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        let (fault, hold) = Fault::hold();
        stage.metadata.server.faults.next("GET /devbox/v1/token", fault);
        stage.start()?;
        stage.shows_after(&[], Shows::of("authenticating", "token_pending")).await?;
        hold.release();
        stage.shows_after(&LOGIN, ONLINE).await?;
        stage.stop().await
    });
}

#[test]
fn a_refused_key_shows_until_the_next_is_there() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        let words = "invalid key: it expired";
        stage.local.logins(&[Login::Refused(words)]);
        let (fault, hold) = Fault::hold();
        let keys = KEYS;
        stage.api.server.faults.next(keys, Fault::none());
        stage.api.server.faults.next(keys, fault);
        stage.start()?;
        stage.shows_after(&LOGIN, Shows { words, ..Shows::of("authenticating", "key_refused") }).await?;
        hold.release();
        stage.shows_after(&LOGIN, ONLINE).await?;
        stage.stop().await
    });
}

#[test]
fn what_the_platform_changes_is_followed_and_what_the_tailnet_grants_is_told() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.online().await?;
        want(&stage, |tailnet| tailnet.hostname = Some("renamed".into()))?;
        stage.shows_after(&["PATCH prefs"], ONLINE).await?;
        stage
            .local
            .set_status(|status| {
                status["Self"]["HostName"] = json!("renamed");
                status["Self"]["DNSName"] = json!("renamed-1.tail.example.");
                status["Self"]["Tags"] = json!(["tag:web"]);
            })
            .await;
        let notices = &["hostname_conflict", "tags_differ"];
        stage.shows_after(&[], Shows { notices, ..ONLINE }).await?;
        want(&stage, |tailnet| tailnet.tags = vec!["tag:devbox".into(), "tag:web".into()])?;
        stage.shows_after(&LOGIN, Shows { notices: &["tags_differ"], ..ONLINE }).await?;
        stage.stop().await
    });
}

#[test]
fn an_admins_down_is_respected_until_rejoin() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.online().await?;
        stage.local.set_status(|status| status["BackendState"] = json!("Stopped")).await;
        stage.local.set_prefs(|prefs| prefs["WantRunning"] = json!(false)).await;
        stage.shows_after(&[], Shows::of("stopped", "admin_down")).await?;
        stage.tell("rejoin").await?;
        stage.shows_after(&["PATCH prefs"], ONLINE).await?;
        stage.stop().await
    });
}

#[test]
fn an_admins_logout_is_respected_when_configured_so() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.configure("[tailnet]\nafter_logout = \"stay\"\n")?;
        stage.online().await?;
        stage.local.set_status(|status| *status = crate::local_api::fresh_status()).await;
        stage.shows_after(&[], Shows::of("blocked", "admin_logout")).await?;
        stage.tell("rejoin").await?;
        stage.shows_after(&LOGIN, ONLINE).await?;
        stage.stop().await
    });
}

#[test]
fn leave_logs_out_and_says_when_control_does_not_confirm() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.online().await?;
        stage.local.set_temper(Temper::Sick);
        stage.tell("leave").await?;
        stage.shows(Shows::of("leaving", "logout_failed")).await?;
        stage.local.take_writes();
        stage.local.set_temper(Temper::Well);
        stage.tell("refresh").await?;
        stage.shows_after(&["logout"], Shows::of("left", "")).await?;
        stage.tell("rejoin").await?;
        stage.shows_after(&LOGIN, ONLINE).await?;
        stage.stop().await
    });
}

#[test]
fn a_node_that_control_loses_is_degraded_until_it_is_back() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.online().await?;
        stage.local.set_status(|status| status["Self"]["Online"] = json!(false)).await;
        stage.shows_after(&[], Shows::of("degraded", "control_lost")).await?;
        stage.local.set_status(|status| status["Self"]["Online"] = json!(true)).await;
        stage.shows_after(&[], ONLINE).await?;
        stage.stop().await
    });
}

#[test]
fn after_a_resume_online_counts_once_control_has_answered_anew() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.online().await?;
        stage.instances.change(ID, |spec| spec.generation = Some(2))?;
        stage.shows_after(&["start to prove"], Shows::of("degraded", "unproven")).await?;
        stage.local.set_status(|status| status["Self"]["Online"] = json!(true)).await;
        stage.shows_after(&[], ONLINE).await?;
        stage.stop().await
    });
}
