//! A tailscaled that cannot be used, and an API whose name does not resolve.

use anyhow::ensure;
use devbox_lab::machine::{Lab, story};
use serde_json::json;
use tokio::net::UnixListener;

use crate::local_api::Temper;
use crate::stage::{Shows, Stage};

const LOGIN: [&str; 2] = ["start with a key", "login-interactive"];
const ONLINE: Shows = Shows::of("online", "");

#[test]
fn a_tailscaled_that_is_too_old_is_not_written_to() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.local.set_status(|status| status["Version"] = json!("1.60.1-t0123")).await;
        stage.start()?;
        stage.shows_after(&[], Shows { words: "1.60.1", ..Shows::of("blocked", "tailscaled_too_old") }).await?;
        stage.local.set_status(|status| status["Version"] = json!("1.80.0")).await;
        stage.shows_after(&LOGIN, ONLINE).await?;
        stage.stop().await
    });
}

#[test]
fn a_tailscaled_that_denies_is_named() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.local.set_temper(Temper::Denies);
        stage.start()?;
        stage.shows_after(&[], Shows { words: "access denied", ..Shows::of("blocked", "localapi_denied") }).await?;
        stage.local.set_temper(Temper::Well);
        stage.shows_after(&LOGIN, ONLINE).await?;
        stage.stop().await
    });
}

#[test]
fn a_tailscaled_that_answers_nonsense_is_named() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.local.set_temper(Temper::Garbles);
        stage.start()?;
        stage.shows_after(&[], Shows::of("starting_daemon", "localapi_error")).await?;
        stage.local.set_temper(Temper::Well);
        stage.shows_after(&LOGIN, ONLINE).await?;
        stage.stop().await
    });
}

#[test]
fn a_socket_of_somebody_else_is_left_alone() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        let other = UnixListener::bind(stage.path("tailscaled.sock"))?;
        stage.start()?;
        stage.shows_after(&[], Shows { words: "already listens", ..Shows::of("blocked", "localapi_denied") }).await?;
        ensure!(stage.path("tailscaled.sock").exists() && stage.started().is_empty(), "the socket was taken over");
        drop(other);
        std::fs::remove_file(stage.path("tailscaled.sock"))?;
        stage.shows_after(&LOGIN, ONLINE).await?;
        stage.stop().await
    });
}

#[test]
fn a_state_that_tailscaled_cannot_use_waits_for_a_person() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.store("bad json")?;
        stage.start()?;
        stage.shows_after(&[], Shows { words: "line 1", ..Shows::of("blocked", "ts_state_corrupt") }).await?;
        let kept = std::fs::read_to_string(stage.path("tailscale/tailscaled.state"))?;
        ensure!(kept == "bad json" && stage.started().is_empty(), "the file was touched");
        std::fs::remove_file(stage.path("tailscale/tailscaled.state"))?;
        stage.shows_after(&LOGIN, ONLINE).await?;
        stage.stop().await
    });
}

#[test]
fn a_state_store_that_fails_at_the_login_waits_for_a_person() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.local.set_temper(Temper::Sick);
        stage.start()?;
        stage
            .shows_after(&["refused"], Shows { words: "unhealthy", ..Shows::of("blocked", "ts_state_corrupt") })
            .await?;
        stage.stop().await
    });
}

#[test]
fn an_api_whose_name_does_not_resolve_is_named() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.configure("[tailnet]\napi_url = \"https://api.invalid\"\n")?;
        stage.start()?;
        stage.shows_after(&[], Shows::of("authenticating", "dns")).await?;
        std::fs::remove_file(stage.path("config/20-story.toml"))?;
        stage.tell("refresh").await?;
        stage.shows_after(&LOGIN, ONLINE).await?;
        stage.stop().await
    });
}
