//! The platform in a box: everything that an agent talks to, made of real parts, each scriptable with faults.
//!
//! ```text
//! relay ── metadata endpoint ── issuer, report sink      (HTTP, identity by source address)
//! relay ── Tailscale-API facade ── minter ── Headscale   (TLS with the lab's CA)
//! relay ── Headscale                                     (control and DERP)
//! ```

pub mod azure;
pub mod exchange;
pub mod facade;
pub mod fault;
pub mod gce;
pub mod github;
pub mod headscale;
pub mod instance;
pub mod issuer;
pub mod keys;
pub mod ledger;
pub mod metadata;
pub mod minter;
pub mod namespace;
pub mod naming;
mod random;
pub mod relay;
pub mod report;
mod report_schema;
pub mod requests;
pub mod routes;
pub mod server;
pub mod session;
pub mod tamper;
pub mod tls;
pub mod wire;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};

use self::azure::Azure;
use self::exchange::Credential;
use self::facade::Facade;
use self::gce::Gce;
use self::github::TokenService;
use self::headscale::api::{NewKey, Node};
use self::headscale::{Headscale, HeadscaleConfig};
use self::instance::{InstanceSpec, Instances};
use self::issuer::Issuer;
use self::keys::KeyRequest;
use self::ledger::{Ledger, SecretKind};
use self::metadata::Metadata;
use self::minter::HeadscaleMinter;
use self::namespace::Namespace;
use self::relay::Relay;
use self::report::ReportSink;

/// Where servers listen that only relays talk to.
const INSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// How long keys for peers live that are minted past the API: as long as any test takes.
const PEER_KEY_LIFETIME: Duration = Duration::from_secs(3600);

/// What a platform is started with.
#[derive(Clone, Debug)]
pub struct PlatformConfig {
    /// The headscale program.
    pub headscale: PathBuf,
    /// An empty directory for files, which outlive the platform for whoever looks for leaks.
    pub dir: PathBuf,
    /// Where the metadata endpoint is found.
    pub metadata: SocketAddr,
    /// The platform's address as machines see it; it must be IPv4 and belong to this machine.
    pub address: IpAddr,
    /// The port of the API; 0 takes a free one.
    pub api_port: u16,
    /// The port of control and DERP; 0 takes a free one.
    pub control_port: u16,
    /// The UDP port of STUN; 0 takes a free one.
    pub stun_port: u16,
    /// The domain of MagicDNS names.
    pub base_domain: String,
    /// The tags that exist in the tailnet.
    pub tags: Vec<String>,
}

impl PlatformConfig {
    /// Returns the configuration of a platform in a namespace of its own: well-known ports, metadata at 169.254.169.254.
    pub fn new(headscale: &Path, dir: &Path, address: IpAddr) -> Self {
        let tags = ["tag:devbox", "tag:ci", "tag:web", "tag:db"];
        Self {
            headscale: headscale.to_owned(),
            dir: dir.to_owned(),
            metadata: SocketAddr::from(([169, 254, 169, 254], 80)),
            address,
            api_port: 443,
            control_port: 8080,
            stun_port: 3478,
            base_domain: "lab.ts.test".to_owned(),
            tags: tags.map(str::to_owned).to_vec(),
        }
    }

    /// Returns the configuration of a platform on loopback with free ports; several can run side by side.
    pub fn on_loopback(headscale: &Path, dir: &Path) -> Self {
        Self {
            metadata: INSIDE,
            api_port: 0,
            control_port: 0,
            stun_port: 0,
            ..Self::new(headscale, dir, IpAddr::V4(Ipv4Addr::LOCALHOST))
        }
    }
}

/// A running platform; dropping it ends all of it.
pub struct Platform {
    /// Issues the tokens of instances.
    pub issuer: Arc<Issuer>,
    /// The instances and their specs.
    pub instances: Instances,
    /// The metadata endpoint.
    pub metadata: Metadata,
    /// What instances reported.
    pub reports: ReportSink,
    /// The Tailscale API.
    pub api: Facade,
    /// Makes the API's keys.
    pub minter: Arc<HeadscaleMinter>,
    /// The control server.
    pub headscale: Headscale,
    /// The network in front of the metadata endpoint.
    pub metadata_relay: Relay,
    /// The network in front of the API.
    pub api_relay: Relay,
    /// The network in front of control and DERP.
    pub control_relay: Relay,
    /// What must stay secret.
    pub ledger: Ledger,
    dir: PathBuf,
}

impl Platform {
    /// Starts everything and waits until it answers.
    ///
    /// # Errors
    /// When an address cannot be bound or Headscale does not start.
    pub async fn start(config: PlatformConfig) -> Result<Self> {
        std::fs::create_dir_all(&config.dir).with_context(|| format!("failed to create {}", config.dir.display()))?;
        let (headscale, control_relay) = start_control(&config).await?;
        let ledger = Ledger::default();
        let minter = Arc::new(HeadscaleMinter::start(headscale.api.clone(), headscale.database()));
        let api = Facade::start(INSIDE, config.address, minter.clone(), ledger.clone()).await?;
        std::fs::write(ca_file(&config.dir), api.ca_pem()).context("failed to write the lab's CA")?;
        let api_at = SocketAddr::new(config.address, config.api_port);
        let api_relay = Relay::start(api_at, api.server.address(), Some(api.server.peers.clone()))?;

        let issuer = Arc::new(Issuer::start(INSIDE, ledger.clone())?);
        let instances = Instances::default();
        let reports = ReportSink::default();
        let (metadata, metadata_relay) = metadata::start_behind_relay(
            config.metadata,
            metadata::Sources {
                instances: instances.clone(),
                issuer: issuer.clone(),
                reports: reports.clone(),
                ledger: ledger.clone(),
            },
        )?;
        Ok(Self {
            issuer,
            instances,
            metadata,
            reports,
            api,
            minter,
            headscale,
            metadata_relay,
            api_relay,
            control_relay,
            ledger,
            dir: config.dir,
        })
    }

    /// Returns the URL of the metadata endpoint.
    pub fn metadata_url(&self) -> String {
        format!("http://{}", self.metadata_relay.address())
    }

    /// Serves the same metadata over TLS, at a port of the platform's own address; clients must trust [`Self::ca_file`].
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn serve_metadata_over_tls(&self, port: u16) -> Result<Metadata> {
        let sources = metadata::Sources {
            instances: self.instances.clone(),
            issuer: self.issuer.clone(),
            reports: self.reports.clone(),
            ledger: self.ledger.clone(),
        };
        let at = SocketAddr::new(self.api_relay.address().ip(), port);
        Metadata::start_tls(at, sources, self.api.certify().await?)
    }

    /// Starts GitHub's token service on the platform's own address; clients must trust [`Self::ca_file`].
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn github(&self) -> Result<TokenService> {
        TokenService::start(self.free_port(), self.issuer.clone(), self.api.certify().await?)
    }

    /// Starts Namespace's IAM, and the metadata service of one instance of a workspace, on the platform's own address.
    ///
    /// # Errors
    /// When there are no free ports.
    pub async fn namespace(&self, workspace: &str, id: &str) -> Result<Namespace> {
        let (issuer, ledger) = (self.issuer.clone(), self.ledger.clone());
        Namespace::start(self.free_port(), (workspace, id), issuer, ledger, self.api.certify().await?)
    }

    /// Starts the metadata server of a VM of Google's on the platform's own address.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn gce(&self, name: &str) -> Result<Gce> {
        Gce::start(self.free_port(), name, self.issuer.clone())
    }

    /// Starts the instance metadata service of a VM of Azure's on the platform's own address.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn azure(&self, name: &str) -> Result<Azure> {
        Azure::start(self.free_port(), name, self.issuer.clone())
    }

    fn free_port(&self) -> SocketAddr {
        SocketAddr::new(self.api_relay.address().ip(), 0)
    }

    /// Returns the URL of the API; clients must trust [`Self::ca_file`].
    pub fn api_url(&self) -> String {
        format!("https://{}", self.api_relay.address())
    }

    /// Returns the URL of the control server.
    pub fn control_url(&self) -> String {
        self.headscale.url()
    }

    /// Returns the path of the certificate that clients of the API must trust, PEM.
    pub fn ca_file(&self) -> PathBuf {
        ca_file(&self.dir)
    }

    /// Adds a credential at the API that trusts this platform's issuer for the instances of a workspace.
    pub fn add_credential(&self, client_id: &str, workspace: &str, tags: &[&str]) {
        self.trust(client_id, &format!("{workspace}/*"), tags);
    }

    /// Adds a credential at the API that trusts this platform's issuer for subjects of a pattern, in which `*` stands for any text.
    pub fn trust(&self, client_id: &str, subjects: &str, tags: &[&str]) {
        self.api.add_credential(Credential {
            client_id: client_id.to_owned(),
            issuer: self.issuer.url(),
            subject: subjects.to_owned(),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        });
    }

    /// Adds an instance, or replaces the one with its id.
    pub fn add_instance(&self, spec: InstanceSpec) {
        self.instances.add(spec);
    }

    /// Changes an instance's spec; held metadata requests are answered at once.
    ///
    /// # Errors
    /// When there is no such instance.
    pub fn set_spec(&self, id: &str, change: impl FnOnce(&mut InstanceSpec)) -> Result<()> {
        self.instances.change(id, change)
    }

    /// Moves an instance's generation on, as at a resume or restore.
    ///
    /// # Errors
    /// When there is no such instance.
    pub fn bump_generation(&self, id: &str) -> Result<()> {
        self.instances.change(id, |spec| spec.generation = Some(spec.generation.unwrap_or(0) + 1))
    }

    /// Lists the nodes that control knows.
    ///
    /// # Errors
    /// When Headscale does not answer.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        self.headscale.api.nodes().await
    }

    /// Makes a key for a node of a person, such as a teammate's laptop, past the API.
    ///
    /// # Errors
    /// When Headscale does not make one.
    pub async fn user_key(&self, user: &str) -> Result<String> {
        let user = Some(self.headscale.api.ensure_user(user).await?);
        self.peer_key(NewKey { user, tags: Vec::new(), reusable: false, ephemeral: false, lifetime: PEER_KEY_LIFETIME })
            .await
    }

    /// Makes a key for a tagged node past the API, such as a private service or a peer of a measurement.
    ///
    /// # Errors
    /// When Headscale does not make one.
    pub async fn tagged_key(&self, tags: &[&str], ephemeral: bool) -> Result<String> {
        let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
        self.peer_key(NewKey { user: None, tags, reusable: false, ephemeral, lifetime: PEER_KEY_LIFETIME }).await
    }

    /// Makes the key ahead that the API hands to the next instance which asks for one with these tags, for a persistent or an ephemeral node: Headscale
    /// needs 75 to 150 ms of the machine that is measured for it, where the real API needs its own.
    ///
    /// # Errors
    /// When Headscale does not make one.
    pub async fn prepare_key(&self, tags: &[&str], ephemeral: bool) -> Result<()> {
        let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
        let (subject, lifetime) = (String::new(), PEER_KEY_LIFETIME);
        self.minter.prepare(&KeyRequest { subject, tags, ephemeral, reusable: false, lifetime }, 1).await
    }

    async fn peer_key(&self, new: NewKey) -> Result<String> {
        let key = self.headscale.api.create_key(&new).await?.key;
        self.ledger.note(SecretKind::AuthKey, &key);
        Ok(key)
    }
}

fn ca_file(dir: &Path) -> PathBuf {
    dir.join("ca.pem")
}

/// Starts Headscale behind a relay. The relay comes first: its address is part of Headscale's configuration.
async fn start_control(config: &PlatformConfig) -> Result<(Headscale, Relay)> {
    let inside = free_tcp(INSIDE)?;
    let relay = Relay::start(SocketAddr::new(config.address, config.control_port), inside, None)?;
    let stun_port = if config.stun_port == 0 { free_udp_port()? } else { config.stun_port };
    let headscale = Headscale::start(HeadscaleConfig {
        binary: config.headscale.clone(),
        dir: config.dir.join("headscale"),
        listen: inside,
        public: relay.address(),
        stun_port,
        base_domain: config.base_domain.clone(),
        tags: config.tags.clone(),
    });
    Ok((headscale.await?, relay))
}

fn free_tcp(at: SocketAddr) -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(at).context("failed to find a free TCP port")?;
    listener.local_addr().context("failed to find a free TCP port")
}

fn free_udp_port() -> Result<u16> {
    let socket = UdpSocket::bind(INSIDE).context("failed to find a free UDP port")?;
    Ok(socket.local_addr().context("failed to find a free UDP port")?.port())
}
