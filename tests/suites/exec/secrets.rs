//! Where the credential of a run is: in the session's memory, and nowhere that its command could look.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use devbox_lab::canary::Search;
use devbox_lab::devbox::{CLIENT, give_token};
use devbox_lab::machine::story;
use devbox_lab::platform::ledger::SecretKind;
use devbox_lab::scene::Scene;
use nix::sys::signal::Signal;

use crate::job::{Job, program, says};
use crate::tree::{Tree, sees_closed_processes};

/// Prints everything that a process can read of itself and of others; this text, which is part of that, does not say when it is done.
const LOOKS: &str = "env; cat /proc/[0-9]*/{cmdline,environ,maps} 2>/dev/null | tr '\\0' '\\n'; \
    for fd in /proc/self/fd/*; do [ -f \"$fd\" ] && cat \"$fd\"; done; \
    grep -rs . /run /etc /proc/self/mountinfo; echo; echo rea''dy; exec sleep 1000";

/// What the ledger knows to be secret by now.
fn search(scene: &Scene) -> Search {
    Search::new(scene.platform.ledger.secrets())
}

/// Looks through the command lines of a run, which every user of the machine can see.
fn search_command_lines(tree: &Tree, search: &mut Search) -> Result<()> {
    for pid in tree.all() {
        let line = fs::read(format!("/proc/{pid}/cmdline"))?;
        search.text(Path::new("a command line"), &String::from_utf8_lossy(&line));
    }
    Ok(())
}

/// Another process of the same user cannot read the memory of those that have a credential, or the environment that the caller gave them.
async fn unreadable(job: &Job<'_>, tree: &Tree) -> Result<()> {
    for part in ["session", "sandbox", "broker", "init"] {
        for file in ["environ", "maps", "mem"] {
            let mut reads = job.command("cat");
            reads.arg(format!("/proc/{}/{file}", tree.part(part)?));
            let said = job.say(reads).await?;
            ensure!(said.code != 0 && said.talk.contains("Permission denied"), "{file} of the {part}: {}", said.talk);
        }
    }
    Ok(())
}

#[test]
fn a_command_sees_no_credential_anywhere() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let (run, sees_closed) = (job.start(&[], LOOKS).await?, sees_closed_processes()?);
        let tree = Tree::of(run.pid()).await?;
        let mut search = search(&scene);
        for kind in [SecretKind::Jwt, SecretKind::AccessToken, SecretKind::AuthKey] {
            ensure!(search.has(kind), "nobody was given a {kind:?}");
        }
        search.text(Path::new("what the command printed"), &run.log()?);
        search_command_lines(&tree, &mut search)?;
        // The environment of the session is what its caller gave it, and can be read by nobody.
        let closed = ["sandbox", "broker", "init"].into_iter().filter(|_| sees_closed);
        for part in ["pasta", "tailscaled", "command"].into_iter().chain(closed) {
            search.processes_of(&[tree.part(part)?])?;
        }
        let root = format!("/proc/{}/root", tree.part("command")?);
        for folder in ["run", "etc", "var/lib"] {
            search.folder(&Path::new(&root).join(folder))?;
        }
        ensure!(search.leaks().is_empty(), "{:?}", search.leaks());
        ensure!(run.log()?.contains("/etc/resolv.conf"), "the command did not look");

        unreadable(&job, &tree).await?;
        run.signal(Signal::SIGTERM)?;
        run.wait().await?;
        job.close().await
    });
}

#[test]
fn a_token_that_was_given_is_kept_from_the_command() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let token = scene.platform.issuer.issue(&job.subject(), &format!("api.tailscale.com/{CLIENT}"))?;
        give_token(&job, "jwt", &token.jwt)?;
        let script = job.write("looks", LOOKS)?;
        let agent = program(&job.machine, "devbox-agent");
        let options = format!("--client-id {CLIENT} --tag tag:ci --token env:CI_TOKEN");
        let mut shell = job.command("bash");
        // No command line holds it, and what the shell has in its own memory goes with its exec.
        let line = format!(
            "CI_TOKEN=$(cat /run/workload/jwt); rm -r /run/workload; export CI_TOKEN; exec {agent} exec {options} -- bash {script}"
        );
        shell.args(["-c", &line]);
        let run = job.machine.spawn(shell)?;
        says(&run, "ready").await?;
        let tree = Tree::of(run.pid()).await?;
        let mut search = search(&scene);
        ensure!(search.has(SecretKind::Jwt), "there was no token");
        search.text(Path::new("what the command printed"), &run.log()?);
        for part in ["pasta", "tailscaled", "command"] {
            search.processes_of(&[tree.part(part)?])?;
        }
        search_command_lines(&tree, &mut search)?;
        ensure!(search.leaks().is_empty(), "{:?}", search.leaks());
        unreadable(&job, &tree).await?;
        run.signal(Signal::SIGTERM)?;
        run.wait().await?;
        job.close().await
    });
}

#[test]
fn a_credential_in_an_open_file_is_kept_from_the_command() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        give_token(&job, "key", &scene.platform.tagged_key(&["tag:ci"], true).await?)?;
        let token = scene.platform.issuer.issue(&job.subject(), &format!("api.tailscale.com/{CLIENT}"))?;
        give_token(&job, "jwt", &token.jwt)?;
        let token = format!("--client-id {CLIENT} --tag tag:ci --token fd:7");
        for (options, file) in [("--auth-key 7", "key"), (&token, "jwt")] {
            let command = "bash -c '[ -e /proc/self/fd/7 ] && cat /proc/self/fd/7; echo over'";
            let said = job.shell(&format!("exec \"$0\" exec {options} -- {command} 7</run/workload/{file}")).await?;
            // Its answer may be the credential.
            ensure!(said.code == 0 && said.talk.is_empty(), "{options}: {} {}", said.code, said.talk);
            ensure!(said.answer == "over\n", "{options}: the command has it");
        }
        job.close().await
    });
}

#[test]
fn a_credential_that_is_not_there_or_not_taken_is_named() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        job.fails(&["--token", "fd:9", "--client-id", CLIENT, "--tag", "tag:ci"], &["descriptor 9 is not open"])
            .await?;
        job.fails(&["--auth-key", "/run/workload/none"], &["--auth-key", "/run/workload/none", "admin console"])
            .await?;
        give_token(&job, "key", &scene.platform.tagged_key(&["tag:ci"], true).await?)?;
        let key = ["--auth-key", "/run/workload/key"];
        assert_eq!(job.script(&key, "echo over", 0).await?, "over\n");
        job.fails(&key, &["already used", "make a new one"]).await?;
        job.close().await
    });
}
