//! tailscaled, the process: missing, failing, silent, gone.

use anyhow::ensure;
use devbox_lab::machine::{Lab, eventually, story};

use crate::local_api::Temper;
use crate::stage::{LIMIT, Shows, Stage, Start};

const LOGIN: [&str; 2] = ["start with a key", "login-interactive"];
const ONLINE: Shows = Shows::of("online", "");

#[test]
fn a_tailscaled_that_exits_at_every_start_is_a_crash_loop_with_its_last_words() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.starts(&vec![Start::Fails("flag provided but not defined: -tun".into()); 4]);
        stage.start()?;
        let shows =
            Shows { words: "flag provided but not defined", ..Shows::of("starting_daemon", "tailscaled_crashloop") };
        stage.shows_after(&[], shows).await?;
        stage.shows_after(&LOGIN, ONLINE).await?;
        ensure!(stage.started().len() == 5, "{} starts", stage.started().len());
        stage.stop().await
    });
}

#[test]
fn a_tailscaled_that_is_missing_is_used_as_soon_as_it_is_there() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        std::fs::remove_file(stage.path("tailscaled"))?;
        stage.start()?;
        stage.shows_after(&[], Shows { words: "No such file", ..Shows::of("blocked", "tailscaled_missing") }).await?;
        stage.install()?;
        stage.shows_after(&LOGIN, ONLINE).await?;
        stage.stop().await
    });
}

#[test]
fn a_machine_without_a_tun_device_is_told_apart() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        let words = "tstun.New(\"tailscale0\"): CreateTUN(\"tailscale0\") failed; /dev/net/tun does not exist";
        stage.starts(&[Start::Fails(words.into()), Start::Fails(words.into()), Start::Fails(words.into())]);
        stage.start()?;
        stage.shows_after(&[], Shows { words: "/dev/net/tun", ..Shows::of("starting_daemon", "no_tun") }).await?;
        stage.shows_after(&LOGIN, ONLINE).await?;
        stage.stop().await
    });
}

#[test]
fn a_tailscaled_that_ends_is_started_again_without_another_login() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.online().await?;
        stage.starts(&[Start::Fails("first".into()), Start::Fails("second".into())]);
        stage.end_daemon("panic: boom").await?;
        stage.shows_after(&[], Shows { words: "second", ..Shows::of("degraded", "tailscaled_crashloop") }).await?;
        stage.shows_after(&[], ONLINE).await?;
        ensure!(stage.log().contains("panic: boom"), "its last words are in the log");
        stage.stop().await
    });
}

#[test]
fn a_tailscaled_that_hangs_is_restarted() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.online().await?;
        stage.local.set_temper(Temper::Hangs);
        let again = || async { Ok((stage.started().len() == 2).then_some(())) };
        eventually("another tailscaled", LIMIT, again).await?;
        stage.shows_after(&[], ONLINE).await?;
        ensure!(stage.log().contains("tailscaled_hung"), "{}", stage.log());
        stage.stop().await
    });
}

#[test]
fn a_tailscaled_that_is_never_ready_counts_as_hung() {
    story(|lab: Lab| async move {
        let mut stage = Stage::set(lab).await?;
        stage.starts(&[Start::Lingers]);
        stage.start()?;
        stage.shows_after(&[], Shows::of("starting_daemon", "tailscaled_starting")).await?;
        stage.shows_after(&[], Shows { words: "ready", ..Shows::of("starting_daemon", "tailscaled_hung") }).await?;
        stage.shows_after(&LOGIN, ONLINE).await?;
        stage.stop().await
    });
}
