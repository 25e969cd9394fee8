//! The real Headscale as a child process: the control server of the lab.

pub mod api;
mod config;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use self::api::HeadscaleApi;

/// How long Headscale may take to answer its health check; it takes about 0.2 s, and a machine under load far longer.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Pause between health checks while it starts.
const START_PAUSE: Duration = Duration::from_millis(10);

/// What Headscale is started with.
#[derive(Clone, Debug)]
pub struct HeadscaleConfig {
    /// The program.
    pub binary: PathBuf,
    /// A directory of its own for database, keys and log.
    pub dir: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The address that nodes use for control and DERP; a relay may stand there.
    pub public: SocketAddr,
    /// The UDP port of its STUN server.
    pub stun_port: u16,
    /// The domain of MagicDNS names.
    pub base_domain: String,
    /// The tags that keys and nodes may have.
    pub tags: Vec<String>,
}

/// The user who owns every tag.
pub const TAG_OWNER: &str = "lab";

/// A running Headscale; dropping it kills it.
pub struct Headscale {
    config: HeadscaleConfig,
    child: Mutex<Option<Child>>,
    /// Its REST API.
    pub api: HeadscaleApi,
}

impl Headscale {
    /// Starts Headscale in an empty directory, waits until it is well, and makes an API key and the owner of all tags.
    ///
    /// # Errors
    /// When it cannot be started or does not become well; says what its log ends with.
    pub async fn start(config: HeadscaleConfig) -> Result<Self> {
        std::fs::create_dir_all(&config.dir).with_context(|| format!("failed to create {}", config.dir.display()))?;
        config::write(&config)?;
        let mut child = spawn(&config)?;
        wait_healthy(&config, &mut child).await?;
        let key = create_api_key(&config).await?;
        let api = HeadscaleApi::new(config.listen, key)?;
        api.ensure_user(TAG_OWNER).await?;
        Ok(Self { config, child: Mutex::new(Some(child)), api })
    }

    /// Returns the URL that nodes use.
    pub fn url(&self) -> String {
        server_url(&self.config)
    }

    /// Returns the domain of MagicDNS names.
    pub fn base_domain(&self) -> &str {
        &self.config.base_domain
    }

    /// Returns its database, to notice changes.
    pub fn database(&self) -> Database {
        Database { path: self.config.dir.join("db.sqlite-wal") }
    }

    /// Returns the path of its log.
    pub fn log_path(&self) -> PathBuf {
        log_path(&self.config.dir)
    }

    /// Stops it where it stands (SIGSTOP): connections stay open and nothing is answered.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP).await
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When it is not running.
    pub async fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT).await
    }

    /// Kills it (SIGKILL); the database stays.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn kill(&self) -> Result<()> {
        let mut child = self.child.lock().await.take().context("failed to kill headscale: it is not running")?;
        child.kill().await.context("failed to kill headscale")
    }

    /// Starts it again on the database it had; kills it first when it still runs.
    ///
    /// # Errors
    /// When it cannot be started or does not become well.
    pub async fn restart(&self) -> Result<()> {
        let mut slot = self.child.lock().await;
        if let Some(mut running) = slot.take() {
            running.kill().await.context("failed to kill headscale")?;
        }
        let mut child = spawn(&self.config)?;
        wait_healthy(&self.config, &mut child).await?;
        *slot = Some(child);
        Ok(())
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.lock().await;
        let pid =
            child.as_ref().and_then(Child::id).with_context(|| format!("failed to send {signal}: not running"))?;
        let pid = Pid::from_raw(i32::try_from(pid).context("failed to read a process id")?);
        kill(pid, signal).with_context(|| format!("failed to send {signal} to headscale"))
    }
}

/// Headscale's database as a file that changes whenever something registers.
#[derive(Clone, Debug)]
pub struct Database {
    path: PathBuf,
}

impl Database {
    /// Returns a mark that differs after the database was written to.
    ///
    /// # Errors
    /// When the file is not there, as before Headscale has started.
    pub fn stamp(&self) -> std::io::Result<(u64, SystemTime)> {
        let file = std::fs::metadata(&self.path)?;
        Ok((file.len(), file.modified()?))
    }
}

fn server_url(config: &HeadscaleConfig) -> String {
    format!("http://{}", config.public)
}

fn log_path(dir: &Path) -> PathBuf {
    dir.join("headscale.log")
}

fn config_path(dir: &Path) -> PathBuf {
    dir.join("config.yaml")
}

fn spawn(config: &HeadscaleConfig) -> Result<Child> {
    let path = log_path(&config.dir);
    let log = File::options().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("failed to open {}", path.display()))?;
    let errors = log.try_clone().context("failed to share headscale's log")?;
    Command::new(&config.binary)
        .arg("serve")
        .arg("-c")
        .arg(config_path(&config.dir))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("failed to start {}", config.binary.display()))
}

async fn wait_healthy(config: &HeadscaleConfig, child: &mut Child) -> Result<()> {
    let client = api::plain_client()?;
    let well = async {
        loop {
            if let Some(status) = child.try_wait().context("failed to wait for headscale")? {
                bail!("failed to start headscale: it ended with {status}");
            }
            if api::healthy(&client, config.listen).await {
                return Ok(());
            }
            tokio::time::sleep(START_PAUSE).await;
        }
    };
    let waited = tokio::time::timeout(START_LIMIT, well).await;
    let result = waited.unwrap_or_else(|_| bail!("failed to start headscale: not well after {START_LIMIT:?}"));
    result.with_context(|| format!("headscale's log ends with: {}", log_end(&config.dir)))
}

fn log_end(dir: &Path) -> String {
    let path = log_path(dir);
    match std::fs::read_to_string(&path) {
        Ok(log) => log.lines().rev().take(5).collect::<Vec<_>>().join(" / "),
        Err(error) => format!("(failed to read {}: {error})", path.display()),
    }
}

async fn create_api_key(config: &HeadscaleConfig) -> Result<String> {
    let output = Command::new(&config.binary)
        .arg("-c")
        .arg(config_path(&config.dir))
        .args(["apikeys", "create"])
        .stdin(Stdio::null())
        .output()
        .await
        .context("failed to run headscale apikeys create")?;
    let key = String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().trim().to_owned();
    if !output.status.success() || key.is_empty() {
        bail!("failed to create an API key: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(key)
}
