use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::*;
use crate::core::phase::Phase;
use crate::socket::access::Access;
use crate::socket::listen::bind;
use crate::socket::samples::sample;
use crate::socket::server::serve;

async fn ask(verb: Verb, runtime: &Path) -> (ExitCode, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut output = Output { out: &mut out, err: &mut err, terminal: false, colour: false };
    let code = run(verb, runtime, &mut output).await;
    (code, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
}

/// Serves callers of which `access` may write, with a core that answers each command with `reply`.
fn agent(runtime: &Path, access: Access, reply: Result<(), String>) {
    let listener = bind(&socket_path(runtime)).expect("bind");
    let (_, documents) = watch::channel(Arc::new(sample(Phase::Online)));
    let (sender, mut commands) = mpsc::channel::<crate::socket::Command>(1);
    tokio::spawn(serve(listener, documents, sender, access, watch::channel(None).1));
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            command.reply.send(reply.clone()).expect("the caller waits");
        }
    });
}

fn me() -> Access {
    Access { uids: [nix::unistd::geteuid().as_raw()].into(), gids: [].into() }
}

#[tokio::test]
async fn each_verb_says_in_one_line_what_happens_now() {
    let dir = tempfile::tempdir().expect("a directory");
    agent(dir.path(), me(), Ok(()));
    for verb in Verb::ALL {
        let (code, out, err) = ask(verb, dir.path()).await;
        assert_eq!((code, out.lines().count(), err.as_str()), (ExitCode::Fine, 1, ""));
    }
}

#[tokio::test]
async fn who_may_not_gets_77_and_what_is_needed() {
    let dir = tempfile::tempdir().expect("a directory");
    agent(dir.path(), Access::default(), Ok(()));
    let (code, out, err) = ask(Verb::Leave, dir.path()).await;
    assert_eq!((code.number(), out.as_str()), (77, ""));
    assert_eq!(err, "devbox-agent: leave needs root, the agent's own user, or the group devbox-agent\n");
}

#[tokio::test]
async fn without_an_agent_it_is_69() {
    let dir = tempfile::tempdir().expect("a directory");
    let (code, out, err) = ask(Verb::Rejoin, dir.path()).await;
    assert_eq!((code.number(), out.as_str()), (69, ""));
    assert!(err.starts_with("devbox-agent: failed to reach devbox-agent: there is no socket at "), "{err}");
}

#[tokio::test]
async fn a_core_that_refuses_is_heard() {
    let dir = tempfile::tempdir().expect("a directory");
    agent(dir.path(), me(), Err("configuration has 2 problems".into()));
    let (code, _, err) = ask(Verb::Refresh, dir.path()).await;
    assert_eq!((code, err.as_str()), (ExitCode::No, "devbox-agent: configuration has 2 problems\n"));
}
