//! Runs that do not get onto the tailnet, or not to their peer.

use std::time::Duration;

use anyhow::ensure;
use devbox_lab::machine::story;
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::routes::{EXCHANGE, KEYS};
use devbox_lab::scene::Scene;
use devbox_lab::web::Site;

use crate::job::{Job, code_of, says};
use crate::peer::Peer;

#[test]
fn a_join_that_only_a_person_can_mend_fails_at_once_and_is_named() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let api = &scene.platform.api.server;
        let refusal = |words: &str| Fault::status(403).body(format!("{{\"message\": \"{words}\"}}"));
        api.faults.always(EXCHANGE, refusal("invalid_grant"));
        job.fails(&["--join-timeout", "10m"], &["exchange_denied", "invalid_grant"]).await?;
        assert_eq!((api.log.count(EXCHANGE), api.log.count(KEYS)), (1, 0));
        api.faults.clear_all();
        job.fails(&["--join-timeout", "10m", "--tag", "tag:unheard-of"], &["tag:unheard-of"]).await?;
        ensure!(api.log.count(KEYS) <= 1, "{} keys were asked for", api.log.count(KEYS));
        job.close().await
    });
}

#[test]
fn control_that_is_silent_is_given_up_in_time() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        scene.platform.control_relay.freeze(job.scope());
        let line = job.fails(&["--join-timeout", "4s"], &["not on the tailnet within 4s"]).await?;
        ensure!(line.contains('('), "no reason is given: {line}");
        scene.platform.control_relay.restore(job.scope());
        job.close().await
    });
}

#[test]
fn a_command_begins_when_its_peer_answers() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (job, peer) = (Job::new(&scene, "ci").await?, Peer::join(&scene).await?);
        let nobody = format!("nobody.{}:80", scene.platform.headscale.base_domain());
        for (target, why) in [
            ("peer:8001", "it refuses the connection"),
            (&nobody, "Name or service not known"),
            // The machine has no name server.
            ("nobody:80", "the resolver does not answer"),
        ] {
            let words = format!("{target} did not answer within 6s: ");
            job.fails(&["--join-timeout", "6s", "--wait-for", target], &[&words, why]).await?;
        }

        let opened = job.exec(&["--wait-for", "peer:8000"], &["curl", "-fsS", "http://peer:8000/"]);
        let run = job.machine.spawn(opened)?;
        job.until_nodes(1).await?;
        // Longer than an attempt takes.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        ensure!(run.exit_status().is_none() && run.log()?.is_empty(), "it began: {}", run.log()?);
        let _site = Site::open(&peer.machine, 8000, "late").await?;
        says(&run, "this is late").await?;
        assert_eq!(code_of(&run).await?, 0);
        job.close().await
    });
}
