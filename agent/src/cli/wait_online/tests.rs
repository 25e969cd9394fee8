use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::*;
use crate::core::reason::Code;
use crate::http::testing::{Server, reply};
use crate::socket::access::Access;
use crate::socket::listen::bind;
use crate::socket::samples::{reason, sample};
use crate::socket::server::serve;

struct Agent {
    status: watch::Sender<Arc<Document>>,
    server: JoinHandle<Infallible>,
}

fn agent(runtime: &Path, document: Document) -> Agent {
    let listener = bind(&socket_path(runtime)).expect("bind");
    let (status, documents) = watch::channel(Arc::new(document));
    let server =
        tokio::spawn(serve(listener, documents, mpsc::channel(1).0, Access::default(), watch::channel(None).1));
    Agent { status, server }
}

impl Agent {
    async fn watched(&self) {
        // The server itself holds one; a connection and its watch hold the others.
        while self.status.receiver_count() < 3 {
            tokio::task::yield_now().await;
        }
    }

    async fn die(self) {
        self.server.abort();
        drop(self.server.await);
    }
}

async fn wait(runtime: &Path, level: Level, timeout: Option<Duration>) -> (ExitCode, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut output = Output { out: &mut out, err: &mut err, terminal: false, colour: false };
    let code = run(&Args { level, timeout }, runtime, &mut output).await;
    assert!(out.is_empty(), "stdout is for answers, and the exit code is the answer");
    (code, String::from_utf8(err).expect("text"))
}

#[tokio::test]
async fn it_returns_when_the_node_gets_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let agent = agent(dir.path(), sample(Phase::Joining));
    let join = async {
        agent.watched().await;
        agent.status.send_replace(Arc::new(sample(Phase::Online)));
    };
    let (waited, ()) = tokio::join!(wait(dir.path(), Level::Online, None), join);
    assert_eq!(waited, (ExitCode::Fine, String::new()));
}

#[tokio::test]
async fn a_node_that_will_not_come_is_given_up_at_once() {
    for phase in [Phase::Stopped, Phase::Left, Phase::Unassigned] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut document = sample(phase);
        document.reason = Some(reason(Code::AdminDown, "", None));
        document.daemon.backend_state = "Stopped".into();
        let _agent = agent(dir.path(), document);
        for level in [Level::Online, Level::Running] {
            let (code, err) = wait(dir.path(), level, None).await;
            assert_eq!(code.number(), 1);
            assert!(err.contains("somebody took the node down (admin_down); run tailscale up"), "{err}");
        }
    }
}

#[tokio::test]
async fn a_blocked_node_is_waited_for_until_time_is_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut document = sample(Phase::Blocked);
    document.reason = Some(reason(Code::TagsForbidden, "tag:prod", None));
    let _agent = agent(dir.path(), document);
    let (code, err) = wait(dir.path(), Level::Online, Some(Duration::from_millis(300))).await;
    assert_eq!(code.number(), 75);
    let expected = "devbox-agent: timed out: not on the tailnet: blocked, a person must act: the credential may not give this node its \
                    tags (tags_forbidden); tag:prod; let the credential own the tags named in the detail, or change the spec\n";
    assert_eq!(err, expected);
}

#[tokio::test]
async fn an_agent_that_comes_up_later_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let waiting = wait(dir.path(), Level::Online, None);
    let arriving = async {
        tokio::task::yield_now().await;
        agent(dir.path(), sample(Phase::Online))
    };
    let (waited, _agent) = tokio::join!(waiting, arriving);
    assert_eq!(waited, (ExitCode::Fine, String::new()));
}

#[tokio::test]
async fn the_runtime_directory_may_come_up_later_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = dir.path().join("api");
    let arriving = async {
        tokio::task::yield_now().await;
        std::fs::create_dir(&runtime).expect("the runtime directory");
        agent(&runtime, sample(Phase::Online))
    };
    let (waited, _agent) = tokio::join!(wait(&runtime, Level::Online, None), arriving);
    assert_eq!(waited, (ExitCode::Fine, String::new()));
}

#[tokio::test]
async fn a_restart_of_the_agent_is_waited_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = agent(dir.path(), sample(Phase::Joining));
    let restart = async {
        first.watched().await;
        first.die().await;
        agent(dir.path(), sample(Phase::Online))
    };
    let (waited, _second) = tokio::join!(wait(dir.path(), Level::Online, None), restart);
    assert_eq!(waited, (ExitCode::Fine, String::new()));
}

#[tokio::test]
async fn the_last_word_of_an_agent_that_restarts_is_not_the_answer() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut last = sample(Phase::Stopped);
    last.reason = Some(reason(Code::AgentStopping, "", None));
    let said = [last, sample(Phase::Online)].map(|document| serde_json::to_string(&document).expect("JSON") + "\n");
    let agents = Server::unix(&socket_path(dir.path()), move |nth, _| reply(200, &[], &said[nth]));
    let waited = wait(dir.path(), Level::Online, None).await;
    assert_eq!((waited, agents.connections()), ((ExitCode::Fine, String::new()), 2));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_never_comes_is_named_when_time_is_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let (code, err) = wait(dir.path(), Level::Online, Some(Duration::from_secs(60))).await;
    assert_eq!(code, ExitCode::TimedOut);
    assert!(err.contains("timed out: failed to reach devbox-agent: there is no socket at "), "{err}");
}

#[test]
fn a_bare_number_means_seconds() {
    assert_eq!(duration("30").expect("seconds"), Duration::from_secs(30));
    assert_eq!(duration("2min").expect("minutes"), Duration::from_secs(120));
    assert!(duration("soon").is_err());
}
