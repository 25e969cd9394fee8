//! The usual scene: a platform, and machines on which the agent is installed and told where that platform is.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::machine::{Booted, Lab, Link, Machine, PLATFORM, Process, eventually};
use crate::platform::{Platform, PlatformConfig};

/// The platform's files: on the sandbox's tmpfs, as Headscale waits for its database at every registration.
pub(crate) const FOLDER: &str = "/run/platform";
/// Where tailscaled is told to listen, by the agent and by a person alike.
pub const SOCKET: &str = "/run/tailscale/tailscaled.sock";
/// How long tailscaled may take to listen; it takes some 50 ms, and a loaded machine far longer.
const DAEMON_LIMIT: Duration = Duration::from_secs(30);

/// A platform and the lab it is in.
pub struct Scene {
    /// The machines' side.
    pub lab: Lab,
    /// Everything an agent talks to.
    pub platform: Platform,
}

impl Scene {
    /// Starts the platform.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(lab: Lab) -> Result<Self> {
        let headscale = lab.layout().find("headscale").context("failed to find headscale: run `cargo lab tools`")?;
        let config = PlatformConfig::new(&headscale, Path::new(FOLDER), IpAddr::V4(PLATFORM));
        let platform = Platform::start(config).await?;
        Ok(Self { lab, platform })
    }

    /// Makes a machine with the agent installed but not started.
    ///
    /// # Errors
    /// When the machine cannot be made.
    pub fn machine(&self, name: &str) -> Result<Machine> {
        self.machine_with(name, Link::Up)
    }

    /// The same, with the network up from the start or not.
    ///
    /// # Errors
    /// When the machine cannot be made.
    pub fn machine_with(&self, name: &str, link: Link) -> Result<Machine> {
        let machine = self.lab.machine_with(name, link)?;
        machine.root().trust(&self.ca()?).context("failed to install the lab's CA")?;
        self.configure(&machine, "10-platform.toml", &self.agent_configuration())?;
        Ok(machine)
    }

    /// Makes a machine that boots, switched off, and trusts the platform. Only in a story of a suite that needs root.
    ///
    /// # Errors
    /// When the machine cannot be made.
    pub fn booted(&self, name: &str) -> Result<Booted> {
        let machine = self.lab.booted(name)?;
        machine.trust(&self.ca()?)?;
        Ok(machine)
    }

    /// Makes a machine that boots with the agent installed from its package and told where the platform is; switched off. Only in a story of a
    /// suite that needs root.
    ///
    /// # Errors
    /// When the machine cannot be made.
    pub fn baked(&self, name: &str) -> Result<Booted> {
        self.configured(self.lab.baked(name)?)
    }

    /// The same without the agent, but with its configuration.
    ///
    /// # Errors
    /// When the machine cannot be made.
    pub fn bare(&self, name: &str) -> Result<Booted> {
        self.configured(self.lab.booted(name)?)
    }

    fn configured(&self, machine: Booted) -> Result<Booted> {
        machine.trust(&self.ca()?)?;
        machine.write("/etc/devbox-agent/config.d/10-platform.toml", self.platform_configuration())?;
        Ok(machine)
    }

    /// Makes a booted machine a node without the agent: `tailscale up` with a key, beside its own tailscaled.service.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub async fn up_by_hand(&self, machine: &Booted, key: &str) -> Result<()> {
        machine.write("/run/key", key)?;
        let server = format!("--login-server={}", self.platform.control_url());
        machine.run("tailscale", &["up", "--auth-key=file:/run/key", &server]).await.map(drop)
    }

    /// Writes a configuration file of the agent.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, machine: &Machine, file: &str, toml: &str) -> Result<()> {
        let path = Path::new("/etc/devbox-agent/config.d").join(file);
        machine.root().write(&path, toml).with_context(|| format!("failed to write {}", path.display()))
    }

    /// Starts `devbox-agent run`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent(&self, machine: &Machine) -> Result<Process> {
        self.start_agent_with(machine, &[])
    }

    /// The same with more in its environment.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent_with(&self, machine: &Machine, environment: &[(String, String)]) -> Result<Process> {
        let mut agent = machine.command("devbox-agent");
        agent.arg("run").envs(environment.iter().map(|(name, value)| (name, value)));
        Ok(machine.spawn(agent)?)
    }

    /// The same with tailscaled's own log in the agent's, for whoever reads why a story failed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_talkative_agent(&self, machine: &Machine, environment: &[(String, String)]) -> Result<Process> {
        self.configure(machine, "05-log.toml", "[log]\nlevel = \"info,tailscaled=debug\"\n")?;
        self.start_agent_with(machine, environment)
    }

    /// Makes a machine a node without the agent, as a person makes a laptop one: tailscaled, then `tailscale up` with a key.
    ///
    /// # Errors
    /// When either fails; with what it said.
    pub async fn join_by_hand(&self, machine: &Machine, key: &str) -> Result<Process> {
        self.join_by_hand_with(machine, key, &[]).await
    }

    /// The same with more options of tailscaled's.
    ///
    /// # Errors
    /// As above.
    pub async fn join_by_hand_with(&self, machine: &Machine, key: &str, options: &[&str]) -> Result<Process> {
        machine.root().write("/run/key", key).context("failed to write the key")?;
        let mut daemon = machine.command("tailscaled");
        daemon.arg("--statedir=/var/lib/tailscale").arg(format!("--socket={SOCKET}")).args(options);
        let daemon = machine.spawn(daemon)?;
        let socket = machine.root().path(SOCKET);
        eventually("tailscaled's socket", DAEMON_LIMIT, || async { Ok(socket.exists().then_some(())) }).await?;
        let mut up = machine.command("tailscale");
        up.args(["up", "--auth-key=file:/run/key", "--login-server", &self.platform.control_url()]);
        let output = machine.exec(up).await?;
        ensure!(output.status.success(), "failed to run tailscale up: {}", String::from_utf8_lossy(&output.stderr));
        Ok(daemon)
    }

    fn ca(&self) -> Result<String> {
        std::fs::read_to_string(self.platform.ca_file()).context("failed to read the lab's CA")
    }

    fn agent_configuration(&self) -> String {
        let platform = self.platform_configuration();
        format!("{platform}\n[daemon]\nsupervisor = \"child\"\nsocket = \"{SOCKET}\"\n")
    }

    /// What an image builder would write, whatever the machine is made of.
    fn platform_configuration(&self) -> String {
        let (endpoint, control, api) =
            (self.platform.metadata_url(), self.platform.control_url(), self.platform.api_url());
        format!(
            "[metadata]\nendpoint = \"{endpoint}\"\n\n\
             [tailnet]\ncontrol_url = \"{control}\"\napi_url = \"{api}\"\n"
        )
    }
}
