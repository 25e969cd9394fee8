//! What a command notices of `exec`: nothing, but for the network.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devbox_lab::devbox::give_token;
use devbox_lab::machine::{eventually, story};
use devbox_lab::platform::routes::{EXCHANGE, KEYS, TOKEN};
use devbox_lab::scene::Scene;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::job::{Job, program, told};
use crate::peer::NUMBERED;
use crate::tree::{Tree, sees_closed_processes};

#[test]
fn a_run_takes_one_token_one_exchange_and_one_key_and_leaves_no_node() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let record = job.write("record", "")?;
        let said = job.run(&["--json", &record], &["echo", "hello"]).await?;
        ensure!(said.code == 0 && said.answer == "hello\n" && said.talk.is_empty(), "{said:?}");
        let (metadata, api) = (&scene.platform.metadata.server.log, &scene.platform.api.server.log);
        assert_eq!((metadata.count(TOKEN), api.count(EXCHANGE), api.count(KEYS)), (1, 1, 1));
        let asked: Value = serde_json::from_str(&api.of(KEYS)[0].body)?;
        let device = &asked["capabilities"]["devices"]["create"];
        ensure!(device["ephemeral"] == true && device["tags"][0] == "tag:ci", "the key is for {device}");
        ensure!(job.nodes().await?.is_empty(), "the node outlives the run");

        let lines = std::fs::read_to_string(job.machine.root().path(record))?;
        let events: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let [started, ended] = events.as_slice() else { anyhow::bail!("the record is {lines}") };
        let name = started["node"]["name"].as_str().context("the record names no node")?;
        ensure!(name.starts_with("exec-ci-") && started["node"]["tags"][0] == "tag:ci", "{started}");
        ensure!(ended["event"] == "ended" && ended["code"] == 0, "{ended}");
        job.close().await
    });
}

#[test]
fn a_record_that_nobody_reads_is_no_reason_to_fail() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        // The reader has gone before there is anything to read.
        let line = "exec 7> >(:); wait $!; exec \"$0\" exec --json 7 -- sh -c 'echo it runs; exit 3'";
        let said = job.shell(line).await?;
        ensure!(said.code == 3 && said.answer == "it runs\n" && said.talk.contains("what --json names"), "{said:?}");
        job.close().await
    });
}

#[test]
fn only_the_command_holds_its_standard_streams() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let run = job.start(&[], "echo ready; exec sleep 1000").await?;
        let (tree, sees_closed) = (Tree::of(run.pid()).await?, sees_closed_processes()?);
        let closed = ["session", "sandbox", "broker", "init"].into_iter().filter(|_| sees_closed);
        for (part, streams) in closed.map(|part| (part, 2)).chain([("pasta", 1), ("tailscaled", 1)]) {
            for number in 0..streams {
                let stream = std::fs::read_link(format!("/proc/{}/fd/{number}", tree.part(part)?))?;
                ensure!(stream.ends_with("null"), "the {part} has {} as {number}", stream.display());
            }
        }
        run.signal(Signal::SIGTERM)?;
        run.wait().await?;
        job.close().await
    });
}

#[test]
fn a_commands_code_is_execs_own() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        for code in [0, 1, 125, 255] {
            job.script(&[], &format!("exit {code}"), code).await?;
        }
        job.close().await
    });
}

#[test]
fn a_command_that_is_killed_or_cannot_be_run_ends_as_a_shell_says_it() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        for (signal, code) in [("TERM", 143), ("KILL", 137), ("SEGV", 139)] {
            job.script(&[], &format!("ulimit -c 0; kill -{signal} $$"), code).await?;
        }
        told(&job.run(&[], &["no-such-program"]).await?, 127, &["no-such-program"])?;
        told(&job.run(&[], &["/etc/passwd"]).await?, 126, &["/etc/passwd"])?;
        job.close().await
    });
}

#[test]
fn a_gibibyte_goes_through_unharmed() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let line = format!("numbers() {{ {NUMBERED}; }}; numbers | \"$0\" exec -- cat | cmp - <(numbers)");
        let said = job.shell(&line).await?;
        ensure!(said.code == 0 && said.answer.is_empty() && said.talk.is_empty(), "{said:?}");
        job.close().await
    });
}

#[test]
fn a_pipe_that_nobody_reads_ends_the_command() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let said = job.shell("\"$0\" exec -- yes | head -1; echo ${PIPESTATUS[*]}").await?;
        ensure!(said.answer == "y\n141 0\n" && said.talk.is_empty(), "{said:?}");
        assert_eq!(job.script(&[], "yes | head -1; echo ${PIPESTATUS[*]}", 0).await?, "y\n141 0\n");
        job.close().await
    });
}

/// Soon after the end of a run: long before control itself takes an ephemeral node that has gone for lost, after 70 s.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_pipe_that_ends_early_on_either_side_leaves_no_node() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        for (line, answer) in [
            // The producer ends, the command has read enough.
            ("yes | \"$0\" exec -- head -1; echo ${PIPESTATUS[*]}", "y\n141 0\n"),
            // The reader has gone before anything is written.
            ("\"$0\" exec -- yes | true; echo ${PIPESTATUS[*]}", "141 0\n"),
        ] {
            let said = job.shell(line).await?;
            ensure!(said.answer == answer && said.talk.is_empty(), "{line}: {said:?}");
            let gone = || async { Ok(job.nodes().await?.is_empty().then_some(())) };
            eventually("the end of the node", SOON, gone).await.context(line)?;
        }
        job.close().await
    });
}

/// What a process can tell of itself.
const SELF: &str = "id -u; id -g; pwd; umask; ulimit -a; nice; hostname; cat /proc/self/oom_score_adj; trap; cat <&7; ls /proc/self/fd";

#[test]
fn a_command_is_the_callers_own() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        job.write("seven", "the seventh descriptor\n")?;
        let asked = |words: &[&str]| {
            let before = "cd /var/lib/story; umask 027; ulimit -Sn 200; renice -n 5 $$ >&2; exec 7<seven; exec \"$@\"";
            let mut shell = job.command("bash");
            shell.args(["-c", before, "bash"]).args(words).args(["bash", "-c", SELF]);
            job.say(shell)
        };
        let outside = asked(&[]).await?;
        let agent = program(&job.machine, "devbox-agent");
        let inside = asked(&[&agent, "exec", "--"]).await?;
        ensure!(outside.code == 0 && outside.answer.contains("the seventh descriptor"), "{outside:?}");
        assert_eq!(inside.answer, outside.answer);
        job.close().await
    });
}

/// The environment of `env -0`, in the order of names.
fn variables(text: &str) -> BTreeSet<&str> {
    text.split_terminator('\0').collect()
}

#[test]
fn the_environment_is_the_callers_but_for_the_token() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let audience = format!("api.tailscale.com/{}", devbox_lab::devbox::CLIENT);
        let token = scene.platform.issuer.issue(&job.subject(), &audience)?;
        give_token(&job, "jwt", &token.jwt)?;
        let given = [
            ("ODD", "two\nlines and = and '"),
            ("EMPTY", ""),
            ("TS_AUTHKEY", "not-for-this-node"),
            ("NOTIFY_SOCKET", "/run/not-for-exec"),
            ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "not-for-the-command"),
        ];
        let client = ["--client-id", devbox_lab::devbox::CLIENT, "--tag", "tag:ci", "--token", "env:CI_TOKEN"];
        // The token is put into the environment by a shell: no command line holds it.
        let asked = |options: Vec<&str>| {
            let agent = program(&job.machine, "devbox-agent");
            let mut shell = job.command("bash");
            shell.args(["-c", "CI_TOKEN=$(cat /run/workload/jwt) exec \"$@\"", "bash"]).arg(agent).arg("exec");
            shell.args(options).args(["--", "env", "-0"]).envs(given);
            job.say(shell)
        };
        let mut plain = job.command("bash");
        plain.args(["-c", "exec env -0"]).envs(given);
        let outside = job.say(plain).await?;
        let inside = asked(client.to_vec()).await?;
        ensure!(inside.code == 0, "{inside:?}");
        assert_eq!(variables(&inside.answer), variables(&outside.answer));
        let dropped = asked([&client[..], &["--drop-oidc"]].concat()).await?;
        ensure!(dropped.code == 0, "{dropped:?}");
        let gone: Vec<_> = variables(&outside.answer).difference(&variables(&dropped.answer)).copied().collect();
        assert_eq!(gone, ["ACTIONS_ID_TOKEN_REQUEST_TOKEN=not-for-the-command"]);
        job.close().await
    });
}

#[test]
fn what_a_command_leaves_behind_ends_with_it() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let stragglers = "(trap '' TERM HUP; setsid sleep 1000 & exec sleep 1001) & sleep 1002 & echo done";
        assert_eq!(job.script(&[], stragglers, 0).await?, "done\n");
        job.close().await
    });
}

#[test]
fn check_says_that_commands_can_be_run_and_asks_nobody() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let mut check = job.command("devbox-agent");
        check.args(["exec", "--check"]);
        let said = job.say(check).await?;
        ensure!(
            said.code == 0 && said.answer.is_empty() && said.talk.ends_with("commands can be run on this machine\n"),
            "{said:?}"
        );
        assert_eq!(scene.platform.metadata.server.log.all().len() + scene.platform.api.server.log.all().len(), 0);
        job.close().await
    });
}
