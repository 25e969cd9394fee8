//! From an effect to the work that it stands for.

use std::time::SystemTime;

use tokio::sync::mpsc;

use super::edges::Edges;
use super::effect::{Effect, Outcome};
use super::reason::{Code, Fault};
use super::world::Credentials;
use crate::federation::audience;
use crate::secret::Secret;
use crate::systemd::HostEvent;
use crate::tailscaled::Notify;

/// Where effects that last send what they hear.
#[derive(Clone)]
pub(super) struct Sources {
    pub bus: mpsc::Sender<Notify>,
    pub host: mpsc::Sender<HostEvent>,
}

/// What an effect needs besides its inputs.
pub(super) struct Supplies {
    pub edges: Edges,
    pub jwt: Option<Secret<String>>,
    pub access: Option<Secret<String>>,
    pub key: Option<Secret<String>>,
    pub bus: mpsc::Sender<Notify>,
    pub host: mpsc::Sender<HostEvent>,
    pub now: SystemTime,
}

impl Supplies {
    /// Takes what is at hand; the credentials are shared, not copied.
    pub fn new(edges: &Edges, credentials: &Credentials, sources: &Sources) -> Self {
        Self {
            edges: edges.clone(),
            jwt: credentials.jwt.as_ref().map(|(jwt, _)| jwt.value.clone()),
            access: credentials.access.as_ref().map(|(access, _)| access.value.clone()),
            key: credentials.key.as_ref().map(|(key, _)| key.value.clone()),
            bus: sources.bus.clone(),
            host: sources.host.clone(),
            now: edges.clock.now().real,
        }
    }
}

/// Does the work of `effect`; every edge has its own deadlines.
pub(super) async fn launch(effect: Effect, supplies: Supplies) -> (Effect, Result<Outcome, Fault>) {
    let result = perform(&effect, supplies).await;
    (effect, result)
}

async fn perform(effect: &Effect, supplies: Supplies) -> Result<Outcome, Fault> {
    let Edges { metadata, federation, tailscaled, supervisor, store, host, .. } = &supplies.edges;
    match effect {
        Effect::Inspect => return supervisor.stored_node().await.map(Outcome::Stored),
        Effect::ReadSpec { etag, wait, .. } => return metadata.read(etag.as_deref(), *wait).await.map(Outcome::Read),
        Effect::Save(record) => store.save(record).await?,
        Effect::StartDaemon => supervisor.start().await?,
        Effect::MindDaemon => return Err(supervisor.exited().await),
        Effect::StopDaemon => supervisor.stop().await?,
        Effect::WatchBus { .. } => return Err(tailscaled.watch(supplies.bus).await),
        Effect::ReadStatus { .. } => return tailscaled.status().await.map(|status| Outcome::Status(Box::new(status))),
        Effect::Connect => federation.connect().await?,
        Effect::Token { client_id } => return fetch_token(client_id, &supplies).await,
        Effect::Exchange { client_id } => {
            return federation.exchange(client_id, held(supplies.jwt.as_ref())?).await.map(Outcome::Access);
        }
        Effect::Mint(request) => {
            return federation.mint(held(supplies.access.as_ref())?, request).await.map(Outcome::Key);
        }
        Effect::Login(login) => tailscaled.login(&login.preferences, held(supplies.key.as_ref())?).await?,
        Effect::Apply(preferences) => tailscaled.apply(preferences).await?,
        Effect::Up => tailscaled.up().await?,
        Effect::Prove { .. } => tailscaled.prove().await?,
        Effect::Withdraw => tailscaled.withdraw().await?,
        Effect::Logout => tailscaled.logout().await?,
        Effect::LeaveAlone => supervisor.leave_alone().await?,
        Effect::WatchHost => return Err(host.watch(supplies.host).await),
        Effect::SetHostname { name } => host.set_hostname(name).await?,
    }
    Ok(Outcome::Done)
}

async fn fetch_token(client_id: &str, supplies: &Supplies) -> Result<Outcome, Fault> {
    let jwt = supplies.edges.metadata.token(&audience(client_id)).await?;
    let claims = supplies.edges.federation.judge(&jwt, client_id, supplies.now)?;
    Ok(Outcome::Token(jwt, claims))
}

/// A credential that the rules saw was dropped by an event in between: the next decision fetches another.
fn held(credential: Option<&Secret<String>>) -> Result<&Secret<String>, Fault> {
    credential.ok_or_else(|| Fault {
        code: Code::TokenPending,
        detail: "the credential was dropped before it could be used".to_owned(),
        retry_after: None,
        unsent: false,
    })
}
