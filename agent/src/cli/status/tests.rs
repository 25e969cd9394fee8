use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::*;
use crate::clock::{BootTime, Now};
use crate::core::phase::Phase;
use crate::core::reason::Code;
use crate::socket::access::Access;
use crate::socket::document;
use crate::socket::listen::bind;
use crate::socket::samples::sample;
use crate::socket::server::serve;

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Now {
        let real = humantime::parse_rfc3339("2026-01-02T14:05:11Z").expect("a time");
        Now { boot: BootTime(190_000), monotonic: Duration::ZERO, real }
    }
}

/// What a run of the command left.
struct Ran {
    code: ExitCode,
    out: String,
    err: String,
}

async fn run_with(args: Args, runtime: &Path, daemon: Option<Result<Status, Fault>>) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut output = Output { out: &mut out, err: &mut err, terminal: false, colour: false };
    let code = run(&args, runtime, &Fixed, async || daemon, &mut output).await;
    Ran { code, out: String::from_utf8(out).expect("text"), err: String::from_utf8(err).expect("text") }
}

fn agent(runtime: &Path, phase: Phase) -> (watch::Sender<Arc<Document>>, tokio::task::JoinHandle<Infallible>) {
    let listener = bind(&socket_path(runtime)).expect("bind");
    let (status, documents) = watch::channel(Arc::new(sample(phase)));
    let server =
        tokio::spawn(serve(listener, documents, mpsc::channel(1).0, Access::default(), watch::channel(None).1));
    (status, server)
}

#[tokio::test]
async fn a_person_reads_a_page_and_a_program_a_document() {
    let dir = tempfile::tempdir().expect("a directory");
    let _agent = agent(dir.path(), Phase::Online);
    let page = run_with(Args::default(), dir.path(), None).await;
    assert_eq!((page.code, page.err.as_str()), (ExitCode::Fine, ""));
    assert!(page.out.starts_with("● on the tailnet as web-api\n"), "{}", page.out);

    let json = run_with(Args { json: true, ..Args::default() }, dir.path(), None).await;
    assert_eq!(json.code, ExitCode::Fine);
    assert_eq!(serde_json::from_str::<Document>(&json.out).expect("a document"), sample(Phase::Online));
    assert!(json.out.lines().count() > 10, "it is pretty");
}

#[tokio::test]
async fn a_check_is_one_line_and_an_exit_code() {
    let dir = tempfile::tempdir().expect("a directory");
    let _agent = agent(dir.path(), Phase::Degraded);
    let check = |level| Args { check: Some(level), ..Args::default() };
    let running = run_with(check(Level::Running), dir.path(), None).await;
    let online = run_with(check(Level::Online), dir.path(), None).await;
    assert_eq!((running.code, online.code), (ExitCode::Fine, ExitCode::No));
    assert_eq!(online.out, "degraded: web-api was on the tailnet, and a fault is being healed\n");
}

#[tokio::test]
async fn a_watch_prints_each_document_on_a_line_until_the_agent_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let (status, _server) = agent(dir.path(), Phase::Online);
    drop(status);
    let json = run_with(Args { json: true, watch: true, ..Args::default() }, dir.path(), None).await;
    assert_eq!(json.code, ExitCode::Unavailable);
    assert_eq!(json.out.lines().count(), 1);
    assert_eq!(serde_json::from_str::<Document>(&json.out).expect("a document"), sample(Phase::Online));
    assert_eq!(json.err, "devbox-agent: the agent has ended the watch\n");
}

#[tokio::test]
async fn when_the_agent_is_down_the_last_known_is_shown_as_that() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(status_path(dir.path()), document::json(&sample(Phase::Online))).expect("a status file");
    let daemon = Some(Ok(Status { backend_state: "Stopped".into(), ..Status::default() }));
    let page = run_with(Args::default(), dir.path(), daemon.clone()).await;
    assert_eq!(page.code, ExitCode::Unavailable);
    assert!(page.out.starts_with("● devbox-agent is not running; last known, from "), "{}", page.out);
    assert!(page.out.contains("\n  now        tailscaled says Stopped, not online\n"), "{}", page.out);
    assert!(page.err.contains("failed to reach devbox-agent: there is no socket at "), "{}", page.err);

    let check = run_with(Args { check: Some(Level::Online), ..Args::default() }, dir.path(), None).await;
    assert_eq!(check.code, ExitCode::Unavailable, "what was online once does not pass a check");

    let json = run_with(Args { json: true, ..Args::default() }, dir.path(), daemon).await;
    assert_eq!(json.code, ExitCode::Unavailable);
    let value: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(value["last_known"]["tailscaled"]["backend_state"], "Stopped");
    assert_eq!(value["phase"], "online");
}

#[tokio::test]
async fn an_agent_that_never_ran_leaves_tailscaled_to_speak() {
    let dir = tempfile::tempdir().expect("a directory");
    let fault = Fault { code: Code::TailscaledMissing, detail: "no socket".into(), retry_after: None, unsent: true };
    let page = run_with(Args::default(), dir.path(), Some(Err(fault))).await;
    assert_eq!(page.code, ExitCode::Unavailable);
    assert!(page.out.contains("tailscaled is not installed (no socket)"), "{}", page.out);
    assert!(page.err.contains("failed to read the status file"), "{}", page.err);

    let json = run_with(Args { json: true, ..Args::default() }, dir.path(), None).await;
    assert_eq!((json.code, json.out.as_str()), (ExitCode::Unavailable, ""), "no document is made up");
}

#[tokio::test]
async fn a_watch_of_an_agent_that_was_killed_ends_with_a_line_that_says_last_known() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(status_path(dir.path()), document::json(&sample(Phase::Online))).expect("a status file");
    let (status, server) = agent(dir.path(), Phase::Online);
    let kill = async {
        while status.receiver_count() < 3 {
            tokio::task::yield_now().await;
        }
        server.abort();
    };
    let args = Args { json: true, watch: true, ..Args::default() };
    let (ran, ()) = tokio::join!(run_with(args, dir.path(), None), kill);
    assert_eq!(ran.code, ExitCode::Unavailable);
    let lines: Vec<serde_json::Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).expect("a document a line")).collect();
    assert!(lines.last().is_some_and(|last| last["last_known"].is_object()), "{}", ran.out);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_hangs_is_not_said_to_be_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let _hung = bind(&socket_path(dir.path())).expect("bind");
    let page = run_with(Args::default(), dir.path(), None).await;
    assert_eq!(page.code, ExitCode::Unavailable);
    assert!(page.out.starts_with("● devbox-agent does not answer; nothing is known from before\n"), "{}", page.out);
}

#[tokio::test]
async fn a_stale_socket_is_an_agent_that_is_down() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(bind(&socket_path(dir.path())).expect("bind"));
    let page = run_with(Args::default(), dir.path(), None).await;
    assert_eq!(page.code, ExitCode::Unavailable);
    assert!(page.err.contains("nobody listens on "), "{}", page.err);
}
