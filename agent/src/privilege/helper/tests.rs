//! The whole helper on a real socket, with the real client, or raw bytes where that would be too polite. tailscaled is a scripted server;
//! PID 1 and hostnamed cannot run here.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::pid1::Pid1Error;
use super::*;
use crate::clock::{Now, SystemClock};
use crate::http::testing::{Request as Asked, Server, Step, reply};
use crate::privilege::HelperClient;
use crate::secret::Secret;
use crate::tailscaled::{HelpedApi, LocalApiClient};

mod refusals;
mod service;

/// Of a shape that nobody would recognise as a key.
const KEY: &str = "CANARY-0123456789";

const CONTROL_URL: &str = "https://control.example";

fn running() -> UnitState {
    UnitState { load_state: "loaded".into(), active_state: "active".into(), ..UnitState::default() }
}

/// A unit that notes what is done to it, and never gets anywhere while it hangs.
#[derive(Default)]
struct NotedUnit {
    done: Mutex<Vec<String>>,
    hangs: AtomicBool,
    dropped: Arc<AtomicBool>,
}

struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl NotedUnit {
    async fn note(&self, what: String) -> Result<UnitState, Pid1Error> {
        let _dropped = OnDrop(self.dropped.clone());
        self.done.lock().expect("not poisoned").push(what);
        if self.hangs.load(Ordering::SeqCst) { std::future::pending().await } else { Ok(running()) }
    }

    fn done(&self) -> Vec<String> {
        self.done.lock().expect("not poisoned").clone()
    }
}

#[async_trait]
impl Unit for NotedUnit {
    async fn admit(&self, admission: Admission) -> Result<UnitState, Pid1Error> {
        self.note(format!("admit {admission:?}")).await
    }

    async fn stop(&self) -> Result<UnitState, Pid1Error> {
        self.note("stop".to_owned()).await
    }
}

/// Waits by the runtime's time, which may be paused.
struct RuntimeClock;

#[async_trait]
impl Clock for RuntimeClock {
    fn now(&self) -> Now {
        SystemClock.now()
    }
}

/// A helper that serves; tailscaled's socket, its state and the gate are in the directory.
struct Stage {
    client: HelperClient,
    unit: Arc<NotedUnit>,
    tailscaled: Server,
    serving: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
    directory: tempfile::TempDir,
}

fn policy() -> Policy {
    Policy { control_url: CONTROL_URL.into(), ssh: false, hostname: true }
}

fn me() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// tailscaled as it answers when all is well.
fn well(_: usize, asked: &Asked) -> Vec<Step> {
    if asked.line.starts_with("GET") { reply(200, &[], "{}") } else { reply(204, &[], "") }
}

impl Stage {
    fn new() -> Self {
        Self::with(policy(), me(), well)
    }

    fn with(policy: Policy, uid: u32, script: impl Fn(usize, &Asked) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::under(Box::new(move || Ok(policy.clone())), uid, script)
    }

    fn under(
        read_policy: ReadPolicy,
        uid: u32,
        script: impl Fn(usize, &Asked) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let tailscaled = Server::unix(&at("tailscaled.sock"), script);
        let listener = UnixListener::bind(at("helper.sock")).expect("bound");
        let unit = Arc::new(NotedUnit::default());
        let tailscaled_there = Tailscaled {
            api: Arc::new(local_api(directory.path())),
            unit: unit.clone(),
            state: directory.path().to_owned(),
        };
        let edges = HelperEdges {
            hostname: Arc::new(Hostnamed::new(at("hostname"), format!("unix:path={}", at("no-bus").display()))),
            gate: at("closed"),
            clock: Arc::new(RuntimeClock),
        };
        let find: FindTailscaled = Box::new(move || Ok(tailscaled_there.clone()));
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { assert!(stopped.await.is_ok(), "the stage was dropped") };
        let serving = tokio::spawn(serve(listener, Arc::new(Helper::new(read_policy, find, edges)), uid, stopped));
        let client = HelperClient::new(at("helper.sock"));
        Self { client, unit, tailscaled, serving, stop: Some(stop), directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path("helper.sock")).await.expect("connected")
    }

    /// Sends raw bytes, and their end, and returns what comes back.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        // Who is turned away may find the connection closed already; there is an answer all the same.
        if stream.write_all(request).await.is_ok() {
            let _ = stream.shutdown().await;
        }
        answer(&mut stream).await
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).expect("text")
}

fn local_api(directory: &Path) -> LocalApiClient {
    LocalApiClient::new(directory.join("tailscaled.sock"), Duration::from_secs(5)).expect("a client")
}

fn wanted() -> Preferences {
    Preferences {
        control_url: "https://the-callers.example".into(),
        hostname: "web-api".into(),
        accept_dns: true,
        accept_routes: false,
        ssh: false,
    }
}

fn key() -> Secret<String> {
    Secret::new(KEY.to_owned())
}

#[tokio::test]
async fn what_is_written_goes_through_the_helper_and_what_is_read_does_not() {
    let stage = Stage::new();
    let api = HelpedApi::new(local_api(stage.directory.path()), Arc::new(stage.client.clone()));
    api.status().await.expect("read");
    api.login(&wanted(), &key()).await.expect("logged in");
    api.apply(&wanted()).await.expect("applied");
    api.up().await.expect("up");
    api.prove().await.expect("proven");
    api.withdraw().await.expect("withdrawn");
    api.logout().await.expect("logged out");
    let lines: Vec<_> = stage.tailscaled.lines().iter().map(|line| line.replace(" /localapi/v0/", " ")).collect();
    let login = ["GET prefs", "POST start", "POST login-interactive"];
    let rest = ["PATCH prefs", "PATCH prefs", "POST start", "GET prefs", "POST start", "POST logout"];
    assert_eq!(lines, [&["GET status?peers=false"][..], &login, &rest].concat());
}

#[tokio::test]
async fn the_control_url_is_never_the_callers() {
    let stage = Stage::new();
    stage.client.login(&wanted(), &key()).await.expect("logged in");
    stage.client.apply(&wanted()).await.expect("applied");
    let bodies: Vec<Value> =
        stage.tailscaled.requests().iter().filter_map(|asked| serde_json::from_str(&asked.body).ok()).collect();
    assert_eq!(bodies[0]["UpdatePrefs"]["ControlURL"], CONTROL_URL);
    assert_eq!(bodies[0]["UpdatePrefs"]["Hostname"], "web-api");
    assert_eq!(bodies[1]["ControlURL"], CONTROL_URL);
    assert!(!format!("{bodies:?}").contains("the-callers"));
}

#[tokio::test]
async fn the_state_is_read_without_tailscaled() {
    let stage = Stage::new();
    assert_eq!(stage.client.inspect().await, Ok(Inspected { stored_node: false }));
    std::fs::write(stage.path("tailscaled.state"), r#"{"key":"","nonce":"","data":""}"#).expect("written");
    assert_eq!(stage.client.inspect().await, Ok(Inspected { stored_node: true }));
    std::fs::write(stage.path("tailscaled.state"), "bad json").expect("written");
    assert_eq!(stage.client.inspect().await.expect_err("no state").code, Code::TailscaledState);
    assert_eq!(stage.tailscaled.connections(), 0);
}

#[tokio::test]
async fn the_gate_is_opened_before_the_unit_is_started_and_may_be_open_already() {
    let stage = Stage::new();
    std::fs::write(stage.path("closed"), "").expect("written");
    assert_eq!(stage.client.admit(Admission::Admitted).await, Ok(running()));
    assert!(!stage.path("closed").exists());
    assert_eq!(stage.client.admit(Admission::LeftAlone).await, Ok(running()));
    assert_eq!(stage.unit.done(), ["admit Admitted", "admit LeftAlone"]);
}

#[test]
fn a_gate_that_cannot_be_opened_is_said_and_nothing_is_started() {
    block_on(async {
        let stage = Stage::new();
        std::fs::create_dir(stage.path("closed")).expect("a directory in the way");
        let fault = stage.client.admit(Admission::Admitted).await.expect_err("still closed");
        assert_eq!(fault.code, Code::GateStuck);
        assert!(fault.detail.contains("remove the file"), "{}", fault.detail);
        assert_eq!(stage.unit.done(), [""; 0]);
    });
}

#[tokio::test]
async fn the_unit_is_stopped_and_told_as_it_then_is() {
    let stage = Stage::new();
    assert_eq!(stage.client.stop().await, Ok(running()));
    assert_eq!(stage.unit.done(), ["stop"]);
}

#[tokio::test]
async fn a_name_that_the_machine_has_is_not_set_again() {
    let stage = Stage::new();
    std::fs::write(stage.path("hostname"), "web\n").expect("written");
    // There is no bus, so asking for anything would fail.
    stage.client.hostname("web").await.expect("nothing to do");
}

#[test]
fn a_machine_that_cannot_be_named_says_why() {
    block_on(async {
        let fault = Stage::new().client.hostname("web").await.expect_err("no bus");
        assert_eq!(fault.code, Code::HostnameUnset);
        assert!(fault.detail.contains("no-bus"), "{}", fault.detail);
    });
}

#[test]
fn configuration_decides_what_may_be_asked_for() {
    let policy = |overrides: &[&str]| {
        let overrides = overrides.iter().map(|text| (*text).to_owned()).collect();
        let loaded = config::load(&config::Sources { dirs: vec![], overrides, uid: me() }).expect("valid");
        Policy::from(&loaded.settings)
    };
    let stock = policy(&["tailnet.control_url=https://control.example/"]);
    assert_eq!(stock, super::tests::policy());
    assert!(policy(&["tailnet.ssh=true"]).ssh);
    assert!(policy(&["metadata.may_set=[\"ssh\"]"]).ssh);
    assert!(!policy(&["metadata.may_set=[\"ssh\"]", "tailnet.ssh=false"]).ssh);
    assert!(!policy(&["hostname.system=false"]).hostname);
}

/// Runs a story to which the list of reached codes points: it knows only plain tests.
fn block_on(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(story);
}
