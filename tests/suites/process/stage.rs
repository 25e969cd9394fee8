//! The stage: the agent program with everything it talks to, all of it in one folder and on loopback.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use devbox_lab::machine::{Lab, eventually};
use devbox_lab::platform::exchange::Credential;
use devbox_lab::platform::facade::Facade;
use devbox_lab::platform::instance::{InstanceSpec, Instances, Tailnet};
use devbox_lab::platform::issuer::Issuer;
use devbox_lab::platform::keys::{KeyRequest, Mint, MintedKey};
use devbox_lab::platform::ledger::Ledger;
use devbox_lab::platform::metadata::{Metadata, Sources};
use devbox_lab::platform::report::ReportSink;
use devbox_lab::stand_in::{FAIL, ORDERS, READY, STAND_IN};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixDatagram, UnixListener, UnixStream};
use tokio::process::Child;

use crate::local_api::LocalApi;

/// The machine as the platform knows it.
pub const ID: &str = "i-process";
/// Longer than anything here takes on a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(40);
/// What a stop may take (faults F58).
const STOP: Duration = Duration::from_secs(5);

const HERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What the next starts of tailscaled come to.
#[derive(Clone, Debug)]
pub enum Start {
    /// It listens.
    Ready,
    /// It writes this and ends.
    Fails(String),
    /// It neither listens nor ends.
    Lingers,
}

/// Makes keys that only the stand-in takes.
#[derive(Default)]
struct Keys(AtomicUsize);

impl Mint for Keys {
    fn mint(&self, _: KeyRequest) -> Pin<Box<dyn Future<Output = Result<MintedKey>> + Send + '_>> {
        let number = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        Box::pin(async move { Ok(MintedKey { id: format!("k{number}"), key: format!("tskey-auth-k{number}-canary") }) })
    }
}

/// What the agent must say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shows {
    /// The phase.
    pub phase: &'static str,
    /// The reason's code; empty for none.
    pub code: &'static str,
    /// What stands in the reason's detail.
    pub words: &'static str,
    /// The notices' codes.
    pub notices: &'static [&'static str],
}

impl Shows {
    /// A phase and a reason, without notices.
    pub const fn of(phase: &'static str, code: &'static str) -> Self {
        Self { phase, code, words: "", notices: &[] }
    }

    fn fits(&self, status: &Value) -> bool {
        let reason = &status["reason"];
        let notices: Vec<_> = status["notices"].as_array().into_iter().flatten().map(|n| &n["code"]).collect();
        let detail = reason["detail"].as_str().unwrap_or_default();
        status["phase"] == self.phase
            && reason["code"].as_str().unwrap_or_default() == self.code
            && detail.contains(self.words)
            && notices == self.notices
    }
}

/// Everything around one agent.
pub struct Stage {
    folder: TempDir,
    lab: Arc<Lab>,
    /// The instances and their specs.
    pub instances: Instances,
    /// The metadata endpoint.
    pub metadata: Metadata,
    /// What was reported.
    pub reports: ReportSink,
    /// The API.
    pub api: Facade,
    /// LocalAPI.
    pub local: LocalApi,
    /// What service managers are told.
    pub manager: UnixDatagram,
    plays: Plays,
    agent: Option<Child>,
}

#[derive(Clone, Default)]
struct Plays {
    starts: Arc<Mutex<Vec<Start>>>,
    arguments: Arc<Mutex<Vec<String>>>,
    /// One tailscaled at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Where the one that runs takes its orders.
    running: Arc<tokio::sync::Mutex<Option<OwnedWriteHalf>>>,
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    /// Sets everything up; the agent is not started.
    pub async fn set(lab: impl Into<Arc<Lab>>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("stage").tempdir_in("/run").context("failed to make a folder")?;
        let (instances, reports, ledger) = (Instances::default(), ReportSink::default(), Ledger::default());
        let issuer = Arc::new(Issuer::start(HERE, ledger.clone())?);
        let at = free_port().await?;
        let sources = Sources {
            instances: instances.clone(),
            issuer: issuer.clone(),
            reports: reports.clone(),
            ledger: ledger.clone(),
        };
        let metadata = Metadata::start(at, at, sources)?;
        let api = Facade::start(HERE, HERE.ip(), Arc::new(Keys::default()), ledger).await?;
        api.add_credential(Credential {
            client_id: "lab-client".into(),
            issuer: issuer.url(),
            subject: "acme/*".into(),
            tags: vec!["tag:devbox".into(), "tag:web".into()],
        });
        let spec = InstanceSpec::new(ID, "devbox", "acme", HERE.ip()).named("box");
        instances.add(spec.joining(Tailnet::new("lab-client", &["tag:devbox"])));
        let manager = UnixDatagram::bind(folder.path().join("manager")).context("failed to bind a notify socket")?;
        let stage = Self {
            folder,
            lab: lab.into(),
            instances,
            metadata,
            reports,
            api,
            local: LocalApi::fresh(),
            manager,
            plays: Plays::default(),
            agent: None,
        };
        stage.furnish(at, issuer)?;
        Ok(stage)
    }

    /// The agent's configuration, the stand-in, and what gives it its orders.
    fn furnish(&self, metadata: SocketAddr, issuer: Arc<Issuer>) -> Result<()> {
        let at = |name: &str| self.path(name).display().to_string();
        std::fs::create_dir(self.path("config"))?;
        std::fs::write(self.path("ca.pem"), self.api.ca_pem())?;
        let configuration = format!(
            "[metadata]\nendpoint = \"http://{metadata}\"\n\n[tailnet]\napi_url = \"https://{}\"\ncontrol_url = \"http://127.0.0.1:1\"\n\n\
             [daemon]\nsupervisor = \"child\"\nbinary = \"{}\"\nsocket = \"{}\"\nstate = \"{}\"\n\n[paths]\nstate = \"{}\"\nruntime = \"{}\"\n",
            self.api.server.address(),
            at("tailscaled"),
            at("tailscaled.sock"),
            at("tailscale"),
            at("state"),
            at("runtime"),
        );
        std::fs::write(self.path("config/10-stage.toml"), configuration)?;
        self.install()?;
        let listener = UnixListener::bind(self.path("orders"))?;
        tokio::spawn(direct(listener, self.plays.clone(), self.local.clone(), self.path("tailscaled.sock")));
        // The issuer's server ends with its last owner.
        tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(issuer);
        });
        Ok(())
    }

    /// A file of the stage.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts the stand-in where tailscaled should be.
    pub fn install(&self) -> Result<()> {
        let (script, new) = (self.path("tailscaled"), self.path("tailscaled.new"));
        std::fs::write(&new, format!("#!/bin/sh\nexec {} {STAND_IN} -- \"$@\"\n", self.lab.layout().lab.display()))?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))?;
        std::fs::rename(new, script).context("failed to install the stand-in")
    }

    /// What the next starts of tailscaled come to; after those, it listens.
    pub fn starts(&self, starts: &[Start]) {
        *held(&self.plays.starts) = starts.to_vec();
    }

    /// The command lines that tailscaled was started with.
    pub fn started(&self) -> Vec<String> {
        held(&self.plays.arguments).clone()
    }

    /// Has the tailscaled that runs write this and end.
    pub async fn end_daemon(&self, words: &str) -> Result<()> {
        let mut running = self.plays.running.lock().await;
        let running = running.as_mut().context("tailscaled does not run")?;
        running.write_all(format!("{FAIL}{words}\n").as_bytes()).await.context("failed to give an order")
    }

    /// Puts a node into tailscaled's state file, as its first login does.
    pub fn store_node(&self) -> Result<()> {
        let profile = json!({ "Config": { "PrivateNodeKey": "privkey:1" } }).to_string();
        let state = json!({ "profile-1a2b": base64::engine::general_purpose::STANDARD.encode(profile) });
        self.store(&state.to_string())
    }

    /// Writes tailscaled's state file.
    pub fn store(&self, content: &str) -> Result<()> {
        std::fs::create_dir_all(self.path("tailscale"))?;
        std::fs::write(self.path("tailscale/tailscaled.state"), content).context("failed to write tailscaled's state")
    }

    /// Adds to the agent's configuration, which it reads at its start and when refreshed.
    pub fn configure(&self, toml: &str) -> Result<()> {
        std::fs::write(self.path("config/20-story.toml"), toml).context("failed to write configuration")
    }

    /// How often the API was asked for anything that a key needs.
    pub fn api_asked(&self) -> usize {
        self.api.server.log.all().iter().filter(|seen| seen.route.starts_with("POST")).count()
    }

    /// Has the agent carry out a verb.
    pub async fn tell(&self, verb: &str) -> Result<()> {
        let output = self.ask(&[verb]).await?;
        ensure!(output.status.success(), "failed to {verb}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(self.lab.layout().find("devbox-agent").context("failed to find the agent")?);
        command
            .arg("--config-dir")
            .arg(self.path("config"))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LANG", "C.UTF-8");
        command.env(ORDERS, self.path("orders")).env("SSL_CERT_FILE", self.path("ca.pem")).stdin(Stdio::null());
        Ok(command)
    }

    /// Starts the agent.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// The same, with more in its environment.
    pub fn start_with(&mut self, environment: &[(&str, String)]) -> Result<()> {
        let mut command = self.command()?;
        let log = std::fs::File::options().create(true).append(true).open(self.path("log"))?;
        command.arg("run").envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdout(log.try_clone()?).stderr(log);
        let mut command = tokio::process::Command::from(command);
        self.agent = Some(command.kill_on_drop(true).spawn().context("failed to start the agent")?);
        Ok(())
    }

    /// What the agents wrote so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Runs another verb of the agent, and returns what it printed.
    pub async fn ask(&self, arguments: &[&str]) -> Result<std::process::Output> {
        let mut command = tokio::process::Command::from(self.command()?);
        command.args(arguments).output().await.context("failed to run devbox-agent")
    }

    fn status(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.path("runtime/status.json")).ok()?).ok()
    }

    /// Waits until `status.json` says so, and checks that the socket says the same; returns the document.
    pub async fn shows(&self, shows: Shows) -> Result<Value> {
        let found = || async { Ok(self.status().filter(|status| shows.fits(status))) };
        let status = eventually(&format!("{shows:?}"), LIMIT, found).await;
        let status = status.with_context(|| format!("{:#}\n{}", self.status().unwrap_or_default(), self.log()))?;
        let output = self.ask(&["status", "--json"]).await?;
        let answer: Value = serde_json::from_slice(&output.stdout).context("the socket's answer")?;
        ensure!(shows.fits(&answer), "the socket says otherwise: {answer:#}");
        self.local.check()?;
        Ok(status)
    }

    /// The same, and that exactly these writes went to tailscaled meanwhile, in this order.
    pub async fn shows_after(&self, writes: &[&str], shows: Shows) -> Result<Value> {
        let enough = || async { Ok((self.local.writes() >= writes.len()).then_some(())) };
        eventually(&format!("{writes:?}"), LIMIT, enough).await.with_context(|| self.log())?;
        let status = self.shows(shows).await?;
        let found = self.local.take_writes();
        ensure!(found == writes, "writes: {found:?}, not {writes:?}\n{}", self.log());
        Ok(status)
    }

    /// Sends the agent a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.agent.as_ref().and_then(Child::id).context("the agent does not run")?;
        kill(Pid::from_raw(i32::try_from(pid)?), signal).context("failed to send a signal")
    }

    /// Has the agent end as a service manager does, within what it may take.
    pub async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status =
            tokio::time::timeout(STOP, self.ended()).await.with_context(|| self.log()).context("it goes on")??;
        ensure!(status.code() == Some(0), "it ended with {status}: {}", self.log());
        self.local.check()
    }

    /// Waits for the agent's end.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        self.agent.as_mut().context("the agent was not started")?.wait().await.context("failed to wait for the agent")
    }

    /// Starts the agent and waits until it is online with a node of its own.
    pub async fn online(&mut self) -> Result<()> {
        self.start()?;
        self.shows_after(&["start with a key", "login-interactive"], Shows::of("online", "")).await.map(drop)
    }
}

/// A port for a server that must know its address first.
async fn free_port() -> Result<SocketAddr> {
    Ok(tokio::net::TcpListener::bind(HERE).await?.local_addr()?)
}

/// Gives each tailscaled its orders.
async fn direct(listener: UnixListener, plays: Plays, local: LocalApi, socket: PathBuf) -> Result<()> {
    loop {
        let (stand_in, _) = listener.accept().await?;
        let (plays, local, socket) = (plays.clone(), local.clone(), socket.clone());
        tokio::spawn(async move {
            if let Err(error) = play(stand_in, &plays, &local, &socket).await {
                tracing::warn!(error = format!("{error:#}"), "a stand-in was lost");
            }
        });
    }
}

async fn play(stand_in: UnixStream, plays: &Plays, local: &LocalApi, socket: &std::path::Path) -> Result<()> {
    let _turn = plays.turn.lock().await;
    let (read, mut write) = stand_in.into_split();
    let mut lines = BufReader::new(read).lines();
    let arguments = lines.next_line().await?.unwrap_or_default();
    held(&plays.arguments).push(arguments);
    let start = {
        let mut starts = held(&plays.starts);
        if starts.is_empty() { Start::Ready } else { starts.remove(0) }
    };
    match start {
        Start::Ready => {
            local.serve(socket)?;
            write.write_all(format!("{READY}\n").as_bytes()).await?;
        }
        Start::Fails(words) => write.write_all(format!("{FAIL}{words}\n").as_bytes()).await?,
        Start::Lingers => {}
    }
    // Its orders would be over if this were dropped.
    *plays.running.lock().await = Some(write);
    // However it ends, its end of the connection does too.
    while let Ok(Some(_)) = lines.next_line().await {}
    *plays.running.lock().await = None;
    local.unbind(socket)
}
