//! A person at a terminal: interactive programs, job control and Ctrl-C.

use std::time::Duration;

use anyhow::ensure;
use devbox_lab::machine::story;
use devbox_lab::scene::Scene;

use crate::job::{Job, program};
use crate::terminal::{END, INTERRUPT, SUSPEND, Terminal};
use crate::tree::Tree;

/// A command line that gives a shell's words to exec.
fn exec(job: &Job<'_>, words: &str) -> String {
    format!("{} exec -- {words}", program(&job.machine, "devbox-agent"))
}

#[test]
fn an_interactive_shell_has_its_terminal_and_job_control() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let mut terminal = Terminal::open(&job, &exec(&job, "bash --norc -i"))?;
        terminal.types("echo mark-$((6 * 7)) $(tty)\n")?;
        terminal.shows("mark-42 /dev/pts/", 1).await?;
        // It says when it is in the foreground, at first and again.
        terminal.types(
            "bash -c 'trap \"echo again-\\$((6 * 7))\" CONT; echo in-$((6 * 7)); while :; do sleep 0.05; done'\n",
        )?;
        terminal.shows("in-42", 1).await?;
        terminal.types(SUSPEND)?;
        terminal.shows("Stopped", 1).await?;
        terminal.prompts().await?;
        terminal.types("jobs\n")?;
        terminal.shows("Stopped", 2).await?;
        terminal.prompts().await?;
        terminal.types("fg\n")?;
        terminal.shows("again-42", 1).await?;
        terminal.types(INTERRUPT)?;
        terminal.types("echo code-$?\n")?;
        terminal.shows("code-130", 1).await?;
        terminal.types("exit 3\n")?;
        assert_eq!(terminal.closes().await?, 3);
        let shown = terminal.shown()?;
        ensure!(!shown.contains("no job control") && !shown.contains("ioctl"), "{shown:?}");
        ensure!(shown.contains("exec: "), "no progress is shown to a person: {shown:?}");
        job.close().await
    });
}

#[test]
fn a_run_is_a_job_like_any_other_of_a_persons_shell() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let mut terminal = Terminal::open(&job, "bash --norc -i")?;
        terminal.types(&format!("{}\n", exec(&job, "sh -c 'echo begun-$((6 * 7)); exec sed -u s/^/heard-/'")))?;
        terminal.shows("begun-42", 1).await?;
        Tree::until("sed", 'S').await?;
        terminal.types(SUSPEND)?;
        terminal.shows("Stopped", 1).await?;
        terminal.prompts().await?;
        // Not stopped yet, it might take the first key.
        Tree::until("sed", 'T').await?;
        terminal.types("echo outside-$((6 * 7))\n")?;
        terminal.shows("outside-42", 1).await?;
        terminal.prompts().await?;
        terminal.types("fg\n")?;
        terminal.types("words\n")?;
        terminal.shows("heard-words", 1).await?;
        terminal.types(END)?;
        terminal.types("echo code-$?; exit\n")?;
        terminal.shows("code-0", 1).await?;
        terminal.closes().await?;
        job.close().await
    });
}

#[test]
fn a_command_may_take_one_ctrl_c_and_ends_at_two() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let script = "bash -c 'trap \"echo once-\\$((6 * 7))\" INT; echo begun; while :; do sleep 0.05; done'";
        let mut terminal = Terminal::open(&job, &exec(&job, script))?;
        terminal.shows("begun", 1).await?;
        terminal.types(INTERRUPT)?;
        terminal.shows("once-42", 1).await?;
        // Longer than two belong together.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        terminal.types(INTERRUPT)?;
        terminal.shows("once-42", 2).await?;
        ensure!(terminal.is_open(), "one is enough");
        // As a person does who wants it to end; two may be further apart on a busy machine than they were typed.
        while terminal.is_open() && terminal.types(INTERRUPT).is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(terminal.closes().await?, 130);
        job.close().await
    });
}

#[test]
fn a_terminal_that_goes_ends_the_command() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let terminal = Terminal::open(&job, &exec(&job, "sh -c 'echo begun; sleep 1000'"))?;
        terminal.shows("begun", 1).await?;
        terminal.hang_up().await?;
        job.until_nodes(0).await?;
        job.close().await
    });
}
