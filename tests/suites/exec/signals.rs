//! Signals that a command gets, and what it does with them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use devbox_lab::devbox::CLIENT;
use devbox_lab::machine::{Process, eventually, story};
use devbox_lab::scene::Scene;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::death::delete_nodes;
use crate::job::{Job, LIMIT, code_of, program, says, told};
use crate::tree::{Tree, state};

/// A command that does `on` at a signal, and nothing else.
fn waits(signal: &str, on: &str) -> String {
    format!("trap '{on}' {signal}; echo ready; while :; do sleep 0.05; done")
}

#[test]
fn a_signal_to_exec_is_the_commands() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1] {
            let name = signal.as_str().trim_start_matches("SIG");
            let run = job.start(&[], &waits(name, &format!("echo got {name}; exit 9"))).await?;
            run.signal(signal)?;
            ensure!(code_of(&run).await? == 9 && run.log()?.contains(&format!("got {name}")), "{}", run.log()?);
        }
        let run = job.start(&[], "echo ready; exec sleep 1000").await?;
        run.signal(Signal::SIGTERM)?;
        assert_eq!(code_of(&run).await?, 143, "death by the signal");
        job.close().await
    });
}

#[test]
fn a_command_that_ignores_its_end_is_killed_and_its_node_removed() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let run = job.start(&[], &waits("TERM", "")).await?;
        let asked = Instant::now();
        run.signal(Signal::SIGTERM)?;
        // Asked again, it has no more time.
        tokio::time::sleep(Duration::from_secs(5)).await;
        run.signal(Signal::SIGTERM)?;
        assert_eq!(code_of(&run).await?, 137);
        let took = asked.elapsed().as_secs();
        ensure!((10..15).contains(&took), "it had {took} s to end by itself");
        job.close().await
    });
}

#[test]
fn a_signal_that_the_caller_ignores_is_ignored() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let mut shell = job.command("bash");
        let line = "trap '' HUP; exec \"$@\" -- bash -c 'echo ready; read -t 1 <> <(:); echo over'";
        shell.args(["-c", line, "bash"]).args([&program(&job.machine, "devbox-agent"), "exec"]);
        let run = job.machine.spawn(shell)?;
        says(&run, "ready").await?;
        run.signal(Signal::SIGHUP)?;
        ensure!(code_of(&run).await? == 0 && run.log()?.contains("over"), "{}", run.log()?);
        job.close().await
    });
}

#[test]
fn a_caller_that_forgets_its_children_has_its_command_waited_for() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let mut caller = job.command("perl");
        caller.args(["-e", "$SIG{CHLD} = 'IGNORE'; exec @ARGV", &program(&job.machine, "devbox-agent"), "exec"]);
        caller.args(["--", "grep", "^SigIgn:", "/proc/self/status"]);
        let said = job.say(caller).await?;
        ensure!(said.code == 0 && said.talk.is_empty(), "{said:?}");
        let ignored = u64::from_str_radix(said.answer.trim_start_matches("SigIgn:").trim(), 16)?;
        ensure!(ignored >> (Signal::SIGCHLD as u32 - 1) & 1 == 1, "the command does not: {}", said.answer);
        job.close().await
    });
}

#[test]
fn a_signal_before_the_command_begins_ends_the_run() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        // Nobody has this name, so that the command never begins.
        let run = job.machine.spawn(job.exec(&["--wait-for", "nobody"], &["echo", "it runs"]))?;
        job.until_nodes(1).await?;
        run.signal(Signal::SIGTERM)?;
        assert_eq!(code_of(&run).await?, 143);
        let log = run.log()?;
        ensure!(log.lines().count() == 1 && log.contains("SIGTERM"), "it says {log:?}");
        job.close().await
    });
}

#[test]
fn what_nobody_writes_or_reads_keeps_no_run_from_its_end() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let fifo = job.write("fifo", "")?;
        std::fs::remove_file(job.machine.root().path(&fifo))?;
        ensure!(job.shell(&format!("mkfifo -m 666 {fifo}")).await?.code == 0, "there is no FIFO");
        let token = ["--client-id", CLIENT, "--tag", "tag:ci", "--token", &fifo];
        for options in [&token[..], &["--auth-key", &fifo]] {
            let late = job.run(&[options, &["--join-timeout", "2s"]].concat(), &["echo", "it runs"]).await?;
            told(&late, 125, &["within 2s"])?;
            let run = job.machine.spawn(job.exec(options, &["echo", "it runs"]))?;
            // Far more than it takes to ask for the credential.
            tokio::time::sleep(Duration::from_secs(1)).await;
            run.signal(Signal::SIGTERM)?;
            assert_eq!(code_of(&run).await?, 143);
        }
        job.fails(&["--json", &fifo], &["--json", "nobody reads it"]).await?;
        job.close().await
    });
}

/// Opens a port, some time after it has said that it is there; for longer than a logout takes.
const LATE: &str = r#"use IO::Socket::INET; $| = 1; print "there\n"; select undef, undef, undef, 0.2;
my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1:8000", Listen => 9) or die "$@\n"; print "open\n"; sleep 2"#;

#[test]
fn a_command_whose_peer_answers_after_the_run_was_ended_does_not_begin() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let run = job.machine.spawn(job.exec(&["--wait-for", "127.0.0.1:8000"], &["echo", "it runs"]))?;
        let init = Tree::init(run.pid()).await?;
        // The logout takes all of its second, in which what was waited for is there.
        scene.platform.control_relay.freeze(job.scope());
        let mut late = job.machine.command("nsenter");
        late.args(["--target", &init.to_string(), "--net", "--", "perl", "-e", LATE]);
        let late = job.machine.spawn(late)?;
        says(&late, "there").await?;
        run.signal(Signal::SIGTERM)?;
        assert_eq!(code_of(&run).await?, 143);
        let log = run.log()?;
        ensure!(log.lines().count() == 1 && log.contains("before the command began"), "it says {log:?}");
        ensure!(late.log()?.contains("open"), "it was not there in time");
        scene.platform.control_relay.restore(job.scope());
        delete_nodes(&job).await?;
        job.close().await
    });
}

async fn until_stopped(run: &Process, command: Pid, stopped: bool) -> Result<()> {
    let both = || [run.pid(), command].iter().all(|pid| (state(*pid) == Some('T')) == stopped);
    let what = if stopped { "exec and its command stop" } else { "exec and its command go on" };
    eventually(what, LIMIT, || async { Ok(both().then_some(())) }).await
}

#[test]
fn a_stop_stops_both_and_a_continuation_continues_both() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let run = job.start(&[], "echo ready; exec sleep 1000").await?;
        let command = Tree::of(run.pid()).await?.part("command")?;
        for _ in 0..2 {
            run.signal(Signal::SIGTSTP)?;
            until_stopped(&run, command, true).await?;
            run.signal(Signal::SIGCONT)?;
            until_stopped(&run, command, false).await?;
        }
        run.signal(Signal::SIGTERM)?;
        assert_eq!(code_of(&run).await?, 143);
        job.close().await
    });
}
