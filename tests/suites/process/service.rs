//! The agent as a service: what its manager hears, how it stops, what it keeps.

use anyhow::{Context, Result, ensure};
use devbox_lab::machine::{Lab, story};
use devbox_lab::platform::fault::{Fault, Faults, Hold};
use devbox_lab::platform::instance::TailnetWish;
use devbox_lab::platform::routes::{EXCHANGE, KEYS};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::local_api::{Login, Temper};
use crate::stage::{ID, LIMIT, Shows, Stage, Start};

const LOGIN: [&str; 2] = ["start with a key", "login-interactive"];
const ONLINE: Shows = Shows::of("online", "");

/// What the manager hears, until a datagram that begins so.
async fn hears(stage: &Stage, until: &str) -> Result<Vec<String>> {
    let mut heard: Vec<String> = Vec::new();
    let mut datagram = [0; 4096];
    while !heard.last().is_some_and(|last| last.starts_with(until)) {
        let next = tokio::time::timeout(LIMIT, stage.manager.recv(&mut datagram)).await;
        let length = next.with_context(|| format!("the manager did not hear {until}; it heard {heard:?}"))??;
        heard.push(String::from_utf8_lossy(&datagram[..length]).trim_end().to_owned());
    }
    Ok(heard)
}

#[test]
fn the_manager_hears_of_every_step() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        let manager = stage.path("manager").display().to_string();
        stage.start_with(&[("NOTIFY_SOCKET", manager), ("WATCHDOG_USEC", "30000000".into())])?;
        let heard = hears(&stage, "STATUS=online as box.tail.example").await?;
        ensure!(heard[0] == "READY=1", "{heard:?}");
        ensure!(heard.iter().filter(|line| *line == "READY=1").count() == 1, "ready once: {heard:?}");
        ensure!(heard.iter().any(|line| line == "WATCHDOG=1"), "no sign of life: {heard:?}");
        ensure!(heard.iter().any(|line| line.starts_with("STATUS=waiting_for_metadata")), "{heard:?}");
        hears(&stage, "WATCHDOG=1").await?;
        stage.signal(Signal::SIGTERM)?;
        hears(&stage, "STOPPING=1").await?;
        ensure!(stage.ended().await?.code() == Some(0), "{}", stage.log());
        Ok(())
    });
}

/// Where a stop finds the agent.
struct Step {
    name: &'static str,
    hold: fn(&Stage) -> Vec<Hold>,
    shows: Shows,
}

fn held(faults: &Faults, route: &str) -> Vec<Hold> {
    let (fault, hold) = Fault::hold();
    faults.always(route, fault);
    vec![hold]
}

const STEPS: [Step; 7] = [
    Step {
        name: "metadata",
        hold: |stage| held(&stage.metadata.server.faults, "GET /devbox/v1/instance"),
        shows: Shows::of("waiting_for_metadata", ""),
    },
    Step {
        name: "token",
        hold: |stage| held(&stage.metadata.server.faults, "GET /devbox/v1/token"),
        shows: Shows::of("authenticating", "token_pending"),
    },
    Step {
        name: "exchange",
        hold: |stage| held(&stage.api.server.faults, EXCHANGE),
        shows: Shows::of("authenticating", "token_pending"),
    },
    Step {
        name: "mint",
        hold: |stage| held(&stage.api.server.faults, KEYS),
        shows: Shows::of("authenticating", "token_pending"),
    },
    Step {
        name: "daemon",
        hold: |stage| {
            stage.starts(&[Start::Lingers]);
            Vec::new()
        },
        shows: Shows::of("starting_daemon", "tailscaled_starting"),
    },
    Step {
        name: "status",
        hold: |stage| {
            stage.local.set_temper(Temper::Hangs);
            Vec::new()
        },
        shows: Shows::of("starting_daemon", "tailscaled_starting"),
    },
    Step {
        name: "login",
        hold: |stage| {
            stage.local.logins(&[Login::Silent]);
            Vec::new()
        },
        shows: Shows::of("joining", "join_pending"),
    },
];

#[test]
fn a_stop_is_orderly_at_every_step() {
    story(|lab: Lab| async move {
        let lab = std::sync::Arc::new(lab);
        for step in STEPS {
            let mut stage = Stage::set(lab.clone()).await?;
            let _holds = (step.hold)(&stage);
            stage.start()?;
            stage.shows(step.shows).await.context(step.name)?;
            stage.stop().await.context(step.name)?;
        }
        Ok(())
    });
}

#[test]
fn the_last_word_is_that_the_agent_stops() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.online().await?;
        stage.stop().await?;
        let last: Value = serde_json::from_slice(&std::fs::read(stage.path("runtime/status.json"))?)?;
        ensure!(last["phase"] == "stopped" && last["reason"]["code"] == "agent_stopping", "{last:#}");
        let told = stage.reports.latest(ID).context("a report")?;
        ensure!(told.reason() == Some("agent_stopping"), "{}", told.raw);
        Ok(())
    });
}

#[test]
fn a_record_that_is_no_record_is_set_aside() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.online().await?;
        stage.store_node()?;
        stage.stop().await?;
        std::fs::write(stage.path("state/state.json"), "{\"version\":")?;
        stage.start()?;
        stage.shows_after(&[], Shows { notices: &["state_set_aside"], ..ONLINE }).await?;
        let aside = std::fs::read_dir(stage.path("state"))?.filter_map(Result::ok);
        ensure!(aside.filter(|file| file.file_name() != "state.json").count() >= 1, "the old record is kept");
        stage.stop().await
    });
}

#[test]
fn a_record_that_cannot_be_read_makes_nobody_s_node_ours() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.online().await?;
        stage.store_node()?;
        stage.stop().await?;
        let record = stage.path("state/state.json");
        std::fs::remove_file(&record)?;
        // Opening a socket fails, also for root: as on a disk that does not let itself be read.
        let in_the_way = std::os::unix::net::UnixListener::bind(&record)?;
        stage.start()?;
        let blocked = Shows::of("blocked", "foreign_node");
        stage.shows_after(&[], Shows { notices: &["state_unreadable"], ..blocked }).await?;
        drop(in_the_way);
        stage.stop().await
    });
}

#[test]
fn a_disk_that_cannot_be_written_does_not_keep_the_node_away() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        let state = stage.path("state");
        std::fs::create_dir(&state)?;
        mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::MS_RDONLY, Some("mode=0700"))?;
        stage.start()?;
        stage.shows_after(&LOGIN, Shows { notices: &["state_unwritable"], ..ONLINE }).await?;
        mount(None::<&str>, &state, None::<&str>, MsFlags::MS_REMOUNT, Some("mode=0700"))?;
        stage.tell("refresh").await?;
        stage.shows_after(&[], ONLINE).await?;
        ensure!(state.join("state.json").exists(), "the record is written once it can be");
        stage.stop().await
    });
}

#[test]
fn a_second_agent_on_the_same_state_is_turned_away() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.online().await?;
        let second = tokio::time::timeout(LIMIT, stage.ask(&["run"])).await.context("it runs")??;
        ensure!(!second.status.success(), "it ended well");
        stage.shows_after(&[], ONLINE).await?;
        stage.stop().await
    });
}

#[test]
fn a_machine_that_should_have_no_tailnet_is_unassigned() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.instances.change(ID, |spec| spec.tailnet = TailnetWish::Unsaid)?;
        stage.start()?;
        stage.shows_after(&[], Shows::of("unassigned", "")).await?;
        ensure!(stage.api_asked() == 0, "the API was asked for something");
        stage.stop().await
    });
}
