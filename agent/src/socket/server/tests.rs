//! The real server on a real socket, and the real client where it says enough; raw bytes where a client would be too polite.

use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::core::phase::Phase;
use crate::core::reason::Code;
use crate::socket::client::{Client, Error};
use crate::socket::listen::bind;
use crate::socket::samples::{reason, sample};
use crate::socket::{Verb, socket_path};

/// An agent that serves its local API, with the test in place of its core.
struct Agent {
    status: watch::Sender<Arc<Document>>,
    commands: mpsc::Receiver<Command>,
    socket: PathBuf,
    server: tokio::task::JoinHandle<Infallible>,
    _dir: tempfile::TempDir,
}

fn me() -> Access {
    Access { uids: [nix::unistd::geteuid().as_raw()].into(), gids: [].into() }
}

/// Serves a node in `phase` to callers of which `access` may write.
fn agent(phase: Phase, access: Access) -> Agent {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = socket_path(dir.path());
    let listener = bind(&socket).expect("bind");
    let (status, documents) = watch::channel(Arc::new(sample(phase)));
    let (sender, commands) = mpsc::channel(1);
    let server = tokio::spawn(serve(listener, documents, sender, access, watch::channel(None).1));
    Agent { status, commands, socket, server, _dir: dir }
}

impl Agent {
    fn client(&self) -> Client {
        Client::new(&self.socket).expect("a client")
    }

    fn turn(&self, phase: Phase) {
        self.status.send_replace(Arc::new(sample(phase)));
    }

    /// Sends raw bytes and returns all that comes back.
    async fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.expect("connect");
        stream.write_all(request.as_bytes()).await.expect("send");
        let mut answer = Vec::new();
        // A connection that is reset after its answer has still answered.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).expect("text")
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.expect("connect")
    }
}

/// Opens a watch by hand, so that the test decides when to read.
async fn open_watch(agent: &Agent) -> UnixStream {
    let mut stream = agent.connect().await;
    stream.write_all(b"GET /v1/status?watch=true HTTP/1.1\r\nHost: agent\r\n\r\n").await.expect("send");
    stream
}

#[tokio::test]
async fn anyone_may_read_the_status() {
    let agent = agent(Phase::Online, Access::default());
    assert_eq!(agent.client().status().await.expect("status"), sample(Phase::Online));
}

#[tokio::test]
async fn a_watch_begins_with_now_and_delivers_each_change() {
    let agent = agent(Phase::Joining, Access::default());
    let client = agent.client();
    let mut watch = client.watch().await.expect("a watch");
    assert_eq!(watch.next().await.expect("a document"), Some(sample(Phase::Joining)));
    for phase in [Phase::Online, Phase::Degraded, Phase::Online] {
        agent.turn(phase);
        assert_eq!(watch.next().await.expect("a document").map(|document| document.phase), Some(phase));
    }
    drop(agent.status);
    assert_eq!(watch.next().await.expect("an end"), None);
}

#[tokio::test]
async fn a_slow_watcher_gets_the_latest_and_not_the_past() {
    let agent = agent(Phase::Joining, Access::default());
    let mut stream = open_watch(&agent).await;
    let long = "x".repeat(8_000);
    for n in 0..200 {
        let mut document = sample(Phase::Joining);
        document.reason = Some(reason(Code::JoinPending, &format!("{n} {long}"), None));
        agent.status.send_replace(Arc::new(document));
        // Lets the server write as much as it wants to, before the next change.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    agent.turn(Phase::Online);
    drop(agent.status);
    let mut all = String::new();
    stream.read_to_string(&mut all).await.expect("the rest of the watch");
    let phases: Vec<&str> = all.lines().filter(|line| line.starts_with("{\"version\"")).collect();
    assert!(phases.len() < 20, "{} documents from the past were sent", phases.len());
    assert!(phases.last().is_some_and(|line| line.contains("\"phase\":\"online\"")), "the last one is the latest");
}

#[tokio::test(start_paused = true)]
async fn a_watch_lasts_and_another_connection_does_not() {
    let agent = agent(Phase::Joining, Access::default());
    let client = agent.client();
    let mut watch = client.watch().await.expect("a watch");
    watch.next().await.expect("a document");
    tokio::time::sleep(LIFE * 2).await;
    agent.turn(Phase::Online);
    assert_eq!(watch.next().await.expect("a document"), Some(sample(Phase::Online)));

    let mut big = sample(Phase::Online);
    big.agent.version = "x".repeat(2_000_000);
    agent.status.send_replace(Arc::new(big));
    let mut unread = agent.connect().await;
    unread.write_all(b"GET /v1/status HTTP/1.1\r\nHost: agent\r\n\r\n").await.expect("send");
    tokio::time::sleep(LIFE * 2).await;
    let mut all = Vec::new();
    let _ = unread.read_to_end(&mut all).await;
    assert!(all.len() < 2_000_000, "an answer that nobody reads is not kept");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_does_not_read_is_dropped() {
    let agent = agent(Phase::Joining, Access::default());
    let mut stream = open_watch(&agent).await;
    let begun = tokio::time::Instant::now();
    let mut big = sample(Phase::Joining);
    big.agent.version = "x".repeat(200_000);
    while begun.elapsed() < watchers::PATIENCE * 3 {
        agent.status.send_replace(Arc::new(big.clone()));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    assert!(!all.ends_with(b"\r\n0\r\n\r\n"), "the watch did not end in order");
    assert!(all.len() < 400_000, "{} bytes were kept for a watcher that does not read", all.len());
    assert_eq!(agent.status.receiver_count(), 1, "nothing is left of the watch but the server's own receiver");
}

#[tokio::test]
async fn each_verb_reaches_the_core_and_waits_for_its_reply() {
    let mut agent = agent(Phase::Online, me());
    let client = agent.client();
    for (verb, code) in
        [(Verb::Refresh, "204 No Content"), (Verb::Rejoin, "202 Accepted"), (Verb::Leave, "202 Accepted")]
    {
        let request = format!("POST /v1/{} HTTP/1.1\r\nHost: agent\r\n\r\n", verb.as_str());
        let core = async {
            for _ in 0..2 {
                let command = agent.commands.recv().await.expect("a command");
                assert_eq!(command.verb, verb);
                command.reply.send(Ok(())).expect("the caller waits");
            }
        };
        let raw = async {
            let mut stream = UnixStream::connect(&agent.socket).await.expect("connect");
            stream.write_all(request.as_bytes()).await.expect("send");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an answer");
            answer
        };
        let ((), answer, asked) = tokio::join!(core, raw, client.ask(verb));
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}\r\n")), "{answer}");
        asked.expect("taken");
    }
}

#[tokio::test]
async fn who_may_not_write_is_told_what_is_needed_and_the_core_is_not_asked() {
    let mut agent = agent(Phase::Online, Access::default());
    for verb in Verb::ALL {
        let Err(Error::NotPermitted(sentence)) = agent.client().ask(verb).await else {
            panic!("{verb:?} was let through")
        };
        assert!(sentence.ends_with("needs root, the agent's own user, or the group devbox-agent"), "{sentence}");
    }
    assert!(agent.commands.try_recv().is_err(), "the core was asked");
}

#[tokio::test]
async fn a_member_of_the_group_may_write() {
    let own_group = Access { uids: [].into(), gids: [nix::unistd::getegid().as_raw()].into() };
    let mut agent = agent(Phase::Online, own_group);
    let client = agent.client();
    let core = async { agent.commands.recv().await.expect("a command").reply.send(Ok(())) };
    let (asked, replied) = tokio::join!(client.ask(Verb::Refresh), core);
    replied.expect("the caller waits");
    asked.expect("taken");
}

#[tokio::test]
async fn the_cores_own_sentence_reaches_the_caller() {
    let mut agent = agent(Phase::Online, me());
    let client = agent.client();
    let core =
        async { agent.commands.recv().await.expect("a command").reply.send(Err("the configuration is wrong".into())) };
    let (asked, _) = tokio::join!(client.ask(Verb::Refresh), core);
    assert!(matches!(asked, Err(Error::Rejected(sentence)) if sentence == "the configuration is wrong"));
}

#[tokio::test]
async fn an_agent_whose_core_is_gone_says_so() {
    let agent = agent(Phase::Online, me());
    let client = agent.client();
    drop(agent.commands);
    assert!(matches!(client.ask(Verb::Leave).await, Err(Error::Busy(sentence)) if sentence == "the agent is stopping"));
}

#[tokio::test(start_paused = true)]
async fn a_core_that_hangs_does_not_hold_the_caller_for_ever() {
    let agent = agent(Phase::Online, me());
    let asked = agent.raw("POST /v1/leave HTTP/1.1\r\nHost: agent\r\n\r\n").await;
    assert!(asked.starts_with("HTTP/1.1 503 "), "{asked}");
    assert!(asked.ends_with("{\"error\":\"the agent did not take the command in time; read its log\"}"), "{asked}");
}

#[tokio::test]
async fn wrong_requests_get_a_code_and_a_sentence() {
    let agent = agent(Phase::Online, me());
    let cases = [
        ("GET /v2/status HTTP/1.1\r\nHost: a\r\n\r\n", "404", "there is no such path"),
        ("GET /v1/refreshments HTTP/1.1\r\nHost: a\r\n\r\n", "404", "there is no such path"),
        ("POST /v1/status HTTP/1.1\r\nHost: a\r\n\r\n", "405", "this path takes only GET"),
        ("GET /v1/leave HTTP/1.1\r\nHost: a\r\n\r\n", "405", "this path takes only POST"),
        ("POST /v1/spec HTTP/1.1\r\nHost: a\r\n\r\n", "405", "this path takes only GET"),
        ("GET /v1/token?client_id=k HTTP/1.1\r\nHost: a\r\n\r\n", "405", "this path takes only POST"),
        ("POST /v1/leave HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", "413", "have no body"),
        ("POST /v1/leave HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", "413", "have no body"),
    ];
    for (request, code, sentence) in cases {
        let answer = agent.raw(request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{request:?}: {answer}");
        assert!(answer.contains("{\"error\":\"") && answer.contains(sentence), "{request:?}: {answer}");
    }
}

#[tokio::test]
async fn a_head_of_more_than_8_kib_is_refused() {
    let agent = agent(Phase::Online, Access::default());
    let answer = agent.raw(&format!("GET /v1/status HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(9_000))).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn the_ninth_connection_of_a_user_is_refused_and_the_others_are_served() {
    let agent = agent(Phase::Online, Access::default());
    let client = agent.client();
    let mut watches = Vec::new();
    for _ in 0..8 {
        let mut watch = client.watch().await.expect("a watch");
        watch.next().await.expect("a document");
        watches.push(watch);
    }
    let Err(Error::Busy(sentence)) = client.status().await else { panic!("a ninth connection was served") };
    assert_eq!(sentence, "this user has 8 connections already; close one");

    agent.turn(Phase::Degraded);
    for watch in &mut watches {
        let document = watch.next().await.expect("a document").expect("an open watch");
        assert_eq!(document.phase, Phase::Degraded);
    }
    watches.pop();
    while matches!(client.status().await, Err(Error::Busy(_))) {
        tokio::task::yield_now().await;
    }
    assert_eq!(client.status().await.expect("a free slot").phase, Phase::Degraded);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_hung_up_on() {
    let agent = agent(Phase::Online, Access::default());
    let begun = tokio::time::Instant::now();
    let mut silent = agent.connect().await;
    silent.write_all(b"GET /v1/sta").await.expect("half a head");
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).await.expect("the end of the connection");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408 "));
    assert_eq!(begun.elapsed().as_secs(), HEAD_TIMEOUT.as_secs());
}

#[tokio::test]
async fn connections_end_with_the_server() {
    let agent = agent(Phase::Online, Access::default());
    let client = agent.client();
    let mut watch = client.watch().await.expect("a watch");
    watch.next().await.expect("a document");
    agent.server.abort();
    assert!(watch.next().await.is_err(), "a watch that was cut is no orderly end");
    assert!(matches!(client.status().await, Err(Error::Refused { .. })));
}

#[tokio::test]
async fn a_client_tells_an_absent_agent_from_one_that_is_no_agent() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = socket_path(dir.path());
    let client = Client::new(&socket).expect("a client");
    assert!(matches!(client.status().await, Err(Error::Absent { .. })));

    let stranger = UnixListener::bind(&socket).expect("bind");
    let answer = async {
        let (mut stream, _) = stranger.accept().await.expect("accept");
        stream.read_exact(&mut [0; 16]).await.expect("a request");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await.expect("an answer");
    };
    let ((), status) = tokio::join!(answer, client.status());
    assert!(matches!(status, Err(Error::Protocol(_))));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_hangs_is_found_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = socket_path(dir.path());
    let _hung = UnixListener::bind(&socket).expect("bind");
    let client = Client::new(&socket).expect("a client");
    assert!(matches!(client.status().await, Err(Error::Silent)));
    assert!(matches!(client.watch().await, Err(Error::Silent)));
}
