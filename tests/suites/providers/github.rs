//! Jobs of GitHub Actions.

use std::fs;

use anyhow::{Result, ensure};
use devbox_agent::clock::{BootTime, Clock, SystemClock};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_agent::identity::record::Record;
use devbox_agent::retry;
use devbox_lab::devbox::{CLIENT, Devbox, LIMIT};
use devbox_lab::machine::{eventually, story};
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::github::{Job, TokenService};
use devbox_lab::platform::ledger::SecretKind;
use devbox_lab::platform::routes::EXCHANGE;
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;

/// What a workflow gives the agent beside the job's own environment.
fn configuration() -> String {
    format!("[metadata]\nprovider = \"github-actions\"\n[tailnet]\nclient_id = \"{CLIENT}\"\ntags = [\"tag:ci\"]\n")
}

fn job() -> Job {
    Job::new("acme/app", "GitHub Actions 12")
}

/// A runner with the agent on it, and what GitHub puts into its jobs' environment.
async fn runner<'a>(
    scene: &'a Scene,
    service: &TokenService,
    job: &Job,
) -> Result<(Devbox<'a>, Vec<(String, String)>)> {
    let runner = Devbox::elsewhere(scene, "runner", &job.subject(), &configuration())?;
    Ok((runner, service.begin(job)?))
}

fn request_token(environment: &[(String, String)]) -> String {
    let token = environment.iter().find(|(name, _)| name == "ACTIONS_ID_TOKEN_REQUEST_TOKEN");
    token.map(|(_, value)| value.clone()).unwrap_or_default()
}

/// When the agent asks for a token again after a failure with this code, as it has written down.
async fn next_token(runner: &Devbox<'_>, code: Code) -> Result<BootTime> {
    let state = runner.machine.root().path("/var/lib/devbox-agent/state.json");
    let look = || async {
        let record: Record = serde_json::from_slice(&fs::read(&state)?)?;
        let pace = record.not_before.get("token");
        Ok(pace.filter(|pace| pace.fault.as_ref().is_some_and(|(why, _)| *why == code)).map(|pace| pace.at))
    };
    eventually("the time of the next token to be written down", LIMIT, look).await
}

#[test]
fn a_job_joins_with_one_token_and_is_gone_when_it_ends() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (service, job) = (scene.platform.github().await?, job());
        let (mut runner, environment) = runner(&scene, &service, &job).await?;
        runner.start_with(&environment)?;
        let document = runner.online().await?;
        assert_eq!(document.metadata.provider, "github-actions");
        let node = runner.node().await?;
        assert_eq!((node.given_name.as_str(), node.tags.as_slice()), ("github-actions-12", &["tag:ci".to_owned()][..]));
        ensure!(node.pre_auth_key.as_ref().is_some_and(|key| key.ephemeral), "the key is not ephemeral");

        let asked = service.server.log.of(&TokenService::route(&job));
        assert_eq!((asked.len(), service.server.log.all().len()), (1, 1), "one request, to nowhere else");
        ensure!(asked[0].query.ends_with(&format!("&audience=api.tailscale.com%2F{CLIENT}")), "{}", asked[0].query);
        assert_eq!(scene.platform.metadata.server.log.all().len(), 0, "nobody asks the metadata endpoint");

        let token = request_token(&environment);
        let daemon = fs::read(format!("/proc/{}/environ", runner.tailscaled().await?))?;
        ensure!(!String::from_utf8_lossy(&daemon).contains(&token), "tailscaled was given the request token");
        runner.stop_agent().await?;
        ensure!(runner.nodes().await?.is_empty(), "the job's node outlives it");
        // From here on only what was written is searched, not the environment that GitHub itself gave the job.
        scene.platform.ledger.note(SecretKind::Bearer, &token);
        runner.close(Left::Nothing).await
    });
}

#[test]
fn a_job_without_the_permission_is_told_exactly_that() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (service, job) = (scene.platform.github().await?, Job { permitted: false, ..job() });
        let (mut runner, environment) = runner(&scene, &service, &job).await?;
        runner.start_with(&environment)?;
        let words = "the job lacks `permissions: id-token: write`";
        let document = runner.gives(Code::TokenPermission, words).await?;
        assert_eq!(document.phase, Phase::Blocked);
        let said = runner.expect(&["wait-online", "--timeout", "1s"], 75).await?.talk;
        ensure!(said.contains(words), "wait-online does not say why: {said}");
        assert_eq!((service.server.log.all().len(), scene.platform.api.server.log.count(EXCHANGE)), (0, 0));
        runner.close(Left::Nothing).await
    });
}

#[test]
fn a_job_whose_environment_was_cut_is_told_at_once_what_is_missing() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (service, job) = (scene.platform.github().await?, job());
        let (mut runner, environment) = runner(&scene, &service, &job).await?;
        for missing in ["ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "GITHUB_RUN_ID"] {
            let rest: Vec<_> = environment.iter().filter(|(name, _)| name != missing).cloned().collect();
            ensure!(rest.len() == environment.len() - 1, "GitHub gives no {missing}");
            runner.start_with(&rest)?;
            let document = runner.gives(Code::EnvironmentInvalid, missing).await?;
            assert_eq!(document.phase, Phase::Blocked, "{missing}");
            runner.stop_agent().await?;
            // What is refused is remembered, and here each start is another job.
            fs::remove_dir_all(runner.machine.root().path("/var/lib/devbox-agent"))?;
        }
        assert_eq!((service.server.log.all().len(), scene.platform.api.server.log.count(EXCHANGE)), (0, 0));
        runner.close(Left::Nothing).await
    });
}

#[test]
fn a_job_that_github_refuses_waits_for_a_person_and_one_that_it_does_not_answer_for_itself() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (service, job) = (scene.platform.github().await?, job());
        let route = TokenService::route(&job);
        let (mut runner, environment) = runner(&scene, &service, &job).await?;
        service.server.faults.always(&route, Fault::drop_connection());
        runner.start_with(&environment)?;
        let broken = runner.gives(Code::TokenUnavailable, "the connection broke").await?;
        assert_eq!(broken.phase, Phase::Authenticating);
        for (fault, words) in [
            (Fault::status(503).retry_after("1"), "503"),
            (Fault::redirect(302, "https://elsewhere.example/"), "refusing the redirect 302"),
            (Fault::status(200).body("{\"value\":\"\"}"), "empty"),
            (Fault::status(200).body("<html>"), "line 1"),
            (Fault::status(200).body(vec![b' '; 1 << 20]), "larger than"),
        ] {
            service.server.faults.always(&route, fault);
            runner.expect(&["refresh"], 0).await?;
            runner.gives(Code::TokenUnavailable, words).await?;
        }
        service.server.faults.clear(&route);
        service.end();
        let before = SystemClock.now().boot;
        runner.expect(&["refresh"], 0).await?;
        let denied = runner.gives(Code::TokenDenied, "401").await?;
        assert_eq!(denied.phase, Phase::Blocked);
        let wait = next_token(&runner, Code::TokenDenied).await?.since(before);
        ensure!(wait >= retry::REFUSED, "a refusal is asked about again after {wait:?}");
        assert_eq!(scene.platform.api.server.log.count(EXCHANGE), 0);

        // The next job of this runner; a refusal is remembered until somebody says that things have changed.
        runner.stop_agent().await?;
        runner.start_with(&service.begin(&job)?)?;
        runner.gives(Code::TokenDenied, "401").await?;
        runner.expect(&["refresh"], 0).await?;
        runner.online().await?;
        runner.stop_agent().await?;
        runner.close(Left::Nothing).await
    });
}
