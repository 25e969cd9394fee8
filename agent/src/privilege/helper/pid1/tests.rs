//! What is asked of PID 1, of one that a test plays: it speaks D-Bus on a private socket, and calls itself what PID 1 does.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use zbus::connection::Builder;
use zbus::{Guid, Message, MessageStream, ObjectPath, Variant};

use super::*;

const UNIT: &str = "tailscaled.service";
const JOB: &str = "/org/freedesktop/systemd1/job/7";

/// The unit, and what was asked.
#[derive(Clone)]
struct Played {
    load_state: &'static str,
    active_state: &'static str,
    unit_file_state: &'static str,
    /// How it is after a job of its own.
    after: &'static str,
    asked: Vec<String>,
}

fn unit(load_state: &'static str, active_state: &'static str) -> Played {
    Played { load_state, active_state, unit_file_state: "disabled", after: "active", asked: Vec::new() }
}

impl Played {
    fn property(&self, name: &str) -> Variant<'static> {
        match name {
            "LoadState" => Variant::from(self.load_state),
            "ActiveState" => Variant::from(self.active_state),
            "UnitFileState" => Variant::from(self.unit_file_state),
            "SubState" => Variant::from("running"),
            "Result" => Variant::from("success"),
            "ExecMainStatus" => Variant::from(0_i32),
            "ConditionResult" => Variant::from(true),
            "InvocationID" => Variant::from(vec![0x0a_u8, 0xf1]),
            "ExecMainPID" => Variant::from(7_u32),
            other => panic!("asked for {other}"),
        }
    }
}

struct Stage {
    pid1: Pid1,
    played: Arc<Mutex<Played>>,
    directory: tempfile::TempDir,
}

impl Stage {
    fn new(played: Played) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("private");
        let listener = UnixListener::bind(&socket).expect("bound");
        let played = Arc::new(Mutex::new(played));
        let shared = played.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(play(renamed(stream), shared.clone()));
            }
        });
        std::fs::write(directory.path().join(UNIT), "").expect("written");
        let edges = Pid1Edges {
            socket,
            packaged: vec![directory.path().into()],
            // What it is asked, it answers.
            journal: Journal::new("echo"),
        };
        Self { pid1: Pid1::new(edges, UNIT), played, directory }
    }

    fn asked(&self) -> Vec<String> {
        self.played.lock().expect("not poisoned").asked.clone()
    }
}

/// zbus cannot call itself what PID 1 does, so it is renamed on the way out; a message is in one piece.
fn renamed(stream: UnixStream) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let ((mut from_pid1, mut to_pid1), (mut from_helper, mut to_helper)) = (ours.into_split(), stream.into_split());
    tokio::spawn(async move { tokio::io::copy(&mut from_helper, &mut to_pid1).await });
    tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from_pid1.read(&mut buffer).await {
            let mut bytes = buffer[..length].to_vec();
            while let Some(at) = bytes.windows(PID1.len()).position(|window| window == PID1.as_bytes()) {
                bytes[at] = b'o';
            }
            to_helper.write_all(&bytes).await.expect("sent");
        }
    });
    theirs
}

async fn play(stream: UnixStream, played: Arc<Mutex<Played>>) {
    let stream = stream.into_std().expect("a socket");
    let connection = Builder::unix_stream(stream).server(Guid::generate()).p2p().build().await.expect("greeted");
    let mut calls = MessageStream::from(&connection);
    while let Some(Ok(call)) = calls.next().await {
        for message in answers(&call, &played) {
            connection.send(&message).await.expect("sent");
        }
    }
}

fn answers(call: &Message, played: &Mutex<Played>) -> Vec<Message> {
    let mut played = played.lock().expect("not poisoned");
    let header = call.header();
    let reply = || Message::method_return(&header).sender(PID1);
    let path = |path| ObjectPath::try_from(path).expect("a path");
    let member = header.member().expect("a call has one").to_string();
    match member.as_str() {
        "Get" => {
            let (_, name): (String, String) = call.body().deserialize().expect("two texts");
            return vec![reply().build(&played.property(&name)).expect("a message")];
        }
        "LoadUnit" => return vec![reply().build(&path("/unit")).expect("a message")],
        _ => played.asked.push(member.clone()),
    }
    if member == "ResetFailedUnit" {
        return vec![reply().build(&()).expect("a message")];
    }
    played.active_state = played.after;
    let signal = |at, interface, member| Message::signal(at, interface, member).sender(PID1);
    let removed = signal("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "JobRemoved");
    vec![
        reply().build(&path(JOB)).expect("a message"),
        removed.build(&(7_u32, path(JOB), UNIT, "done")).expect("a message"),
    ]
}

async fn admitted(played: Played, admission: Admission) -> (Result<String, Code>, Vec<String>) {
    let stage = Stage::new(played);
    let admitted = stage.pid1.admit(admission).await;
    (admitted.map(|state| state.active_state).map_err(|error| error.code()), stage.asked())
}

#[tokio::test]
async fn an_admitted_unit_is_started_unless_it_runs() {
    for (state, asked) in [
        ("inactive", &["StartUnit"][..]),
        ("deactivating", &["StartUnit"]),
        ("failed", &["ResetFailedUnit", "StartUnit"]),
        ("active", &[]),
        ("reloading", &[]),
    ] {
        let (ended, done) = admitted(unit("loaded", state), Admission::Admitted).await;
        let expected = if state == "reloading" { "reloading" } else { "active" };
        assert_eq!(
            (ended.as_deref(), done.as_slice()),
            (Ok(expected), &asked.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
            "{state}"
        );
    }
}

#[tokio::test]
async fn a_unit_that_fails_at_its_start_is_told_as_it_is() {
    let stage = Stage::new(Played { after: "failed", ..unit("loaded", "inactive") });
    let state = stage.pid1.admit(Admission::Admitted).await.expect("told");
    assert_eq!(state.active_state, "failed");
    assert!(state.last_words.contains("_SYSTEMD_INVOCATION_ID=0af1 _PID=7"), "{}", state.last_words);
}

#[tokio::test]
async fn a_unit_left_alone_is_started_only_where_it_would_have_been() {
    let enabled = |state| Played { unit_file_state: "enabled", ..unit("loaded", state) };
    for (played, ended, asked) in [
        (enabled("inactive"), "active", vec!["StartUnit".to_owned()]),
        (enabled("failed"), "failed", vec![]),
        (unit("loaded", "inactive"), "inactive", vec![]),
        (unit("masked", "inactive"), "inactive", vec![]),
        (unit("not-found", "inactive"), "inactive", vec![]),
    ] {
        let found = admitted(played, Admission::LeftAlone).await;
        assert_eq!(found, (Ok(ended.to_owned()), asked));
    }
}

#[test]
fn a_unit_that_is_masked_or_missing_is_not_started_and_has_its_word() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for (state, code) in [("masked", Code::TailscaledMasked), ("not-found", Code::TailscaledMissing)] {
            assert_eq!(admitted(unit(state, "inactive"), Admission::Admitted).await, (Err(code), vec![]));
        }
    });
}

#[tokio::test]
async fn a_unit_that_is_masked_because_its_package_was_removed_is_missing() {
    let stage = Stage::new(unit("masked", "inactive"));
    std::fs::remove_file(stage.directory.path().join(UNIT)).expect("removed");
    let refused = stage.pid1.admit(Admission::Admitted).await;
    assert_eq!(refused.map_err(|error| error.code()), Err(Code::TailscaledMissing));
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_takes_its_time_is_told_as_it_then_is() {
    let begun = tokio::time::Instant::now();
    let (ended, asked) = admitted(unit("loaded", "activating"), Admission::Admitted).await;
    assert_eq!((ended.as_deref(), asked), (Ok("activating"), vec![]));
    assert_eq!(begun.elapsed().as_secs(), 20);
}

#[tokio::test]
async fn a_unit_is_stopped_and_waited_for() {
    let stage = Stage::new(Played { after: "inactive", ..unit("loaded", "active") });
    let state = stage.pid1.stop().await.expect("done");
    assert_eq!((state.active_state.as_str(), stage.asked()), ("inactive", vec!["StopUnit".to_owned()]));
}

#[tokio::test]
async fn a_pid_1_that_is_not_there_is_said() {
    let nowhere =
        Pid1Edges { socket: "/nonexistent/private".into(), packaged: Vec::new(), journal: Journal::new("echo") };
    let error = Pid1::new(nowhere, UNIT).admit(Admission::Admitted).await.expect_err("nobody");
    assert_eq!(error.code(), Code::TailscaledStarting);
    let told = crate::core::reason::chain(&error);
    assert!(told.starts_with("failed to load tailscaled.service: ") && told.contains("No such file"), "{told}");
}
