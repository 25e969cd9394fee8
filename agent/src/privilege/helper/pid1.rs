//! tailscaled's unit, by PID 1.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use zbus::fdo::PropertiesProxy;
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath};

use super::journal::{Journal, Run};
use super::private_bus::{self, PID1};
use crate::core::reason::{Code, Reasoned};
use crate::privilege::request::{Admission, UnitState};
use crate::systemd::proxies::{JobRemovedStream, ManagerProxy, ServiceProxy, UnitProxy};

/// How long a unit is waited for before it is told as it is: tailscaled is there within 0.1 s, but opening its state may have to wait
/// for a disk or a TPM.
const PATIENCE: Duration = Duration::from_secs(20);

/// The job replaces one that conflicts with it, as `systemctl start` has it (systemctl(1), `--job-mode=`).
const MODE: &str = "replace";

/// tailscaled's unit.
#[async_trait]
pub trait Unit: Send + Sync {
    /// Has the unit as the verdict says, and returns how it then is.
    async fn admit(&self, admission: Admission) -> Result<UnitState, Pid1Error>;

    /// Stops the unit, and returns how it then is: one that takes its time may still be `deactivating`.
    async fn stop(&self) -> Result<UnitState, Pid1Error>;
}

/// Why the unit is not as it was asked to be.
#[derive(Debug, thiserror::Error)]
pub enum Pid1Error {
    /// An administrator masked it.
    #[error("failed to start {unit}: it is masked; run systemctl unmask {unit}")]
    Masked {
        /// The unit.
        unit: String,
    },
    /// There is no such unit file.
    #[error("failed to start {unit}: there is no such unit; install tailscale, or correct [daemon] unit")]
    Missing {
        /// The unit.
        unit: String,
    },
    /// PID 1 cannot be asked, or refuses.
    #[error("failed to {verb} {unit}")]
    Pid1 {
        /// What was asked.
        verb: &'static str,
        /// The unit.
        unit: String,
        /// What PID 1 or the kernel says.
        source: zbus::Error,
    },
}

impl Reasoned for Pid1Error {
    fn code(&self) -> Code {
        match self {
            Self::Masked { .. } => Code::TailscaledMasked,
            Self::Missing { .. } => Code::TailscaledMissing,
            Self::Pid1 { .. } => Code::TailscaledStarting,
        }
    }
}

/// A unit of the PID 1 that listens at a private socket; connects anew for each request, so that a PID 1 that was executed anew is no
/// matter.
#[derive(Clone, Debug)]
pub struct Pid1 {
    edges: Pid1Edges,
    unit: String,
}

/// Where PID 1 and what belongs to it are.
#[derive(Clone, Debug)]
pub struct Pid1Edges {
    /// Its private socket.
    pub socket: PathBuf,
    /// Where packages put units.
    pub packaged: Vec<PathBuf>,
    /// The journal.
    pub journal: Journal,
}

impl Pid1 {
    /// `unit` of a PID 1; nothing is sent yet.
    pub fn new(edges: Pid1Edges, unit: impl Into<String>) -> Self {
        Self { edges, unit: unit.into() }
    }

    async fn load(&self) -> zbus::Result<Loaded> {
        Loaded::new(private_bus::connect(&self.edges.socket).await?, &self.unit).await
    }

    /// Why a masked unit cannot be started. Debian masks a package's units when it is removed: such a mask means that tailscaled is missing, and
    /// one beside a unit file that is there was set by a person.
    fn masked(&self) -> Pid1Error {
        let unit = self.unit.clone();
        let packaged = self.edges.packaged.iter().any(|folder| folder.join(&unit).exists());
        if packaged { Pid1Error::Masked { unit } } else { Pid1Error::Missing { unit } }
    }

    /// The state with the last words of a unit whose main process ended.
    async fn told(&self, unit: &Loaded, state: UnitState) -> UnitState {
        if state.active_state != "failed" && state.sub_state != "auto-restart" {
            return state;
        }
        match unit.last_run().await {
            Ok(Some(run)) => UnitState { last_words: self.edges.journal.last_words(&run).await, ..state },
            Ok(None) => state,
            Err(error) => {
                tracing::warn!(%error, "failed to find out which run of the unit was the last");
                state
            }
        }
    }

    /// What PID 1 says, with the two answers that have a remedy of their own told apart.
    fn failed(&self, verb: &'static str) -> impl Fn(zbus::Error) -> Pid1Error {
        let this = self.clone();
        move |source| {
            let unit = this.unit.clone();
            match error_name(&source) {
                Some("org.freedesktop.systemd1.UnitMasked") => this.masked(),
                Some(NO_SUCH_UNIT) => Pid1Error::Missing { unit },
                _ => Pid1Error::Pid1 { verb, unit, source },
            }
        }
    }
}

const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

fn error_name(error: &zbus::Error) -> Option<&str> {
    match error {
        zbus::Error::MethodError(name, ..) => Some(name.as_str()),
        _ => None,
    }
}

#[async_trait]
impl Unit for Pid1 {
    async fn admit(&self, admission: Admission) -> Result<UnitState, Pid1Error> {
        let unit = self.load().await.map_err(self.failed("load"))?;
        let state = unit.state().await.map_err(self.failed("look at"))?;
        match (admission, state.load_state.as_str()) {
            (Admission::Admitted, "masked") => return Err(self.masked()),
            (Admission::Admitted, "not-found") => return Err(Pid1Error::Missing { unit: self.unit.clone() }),
            _ => {}
        }
        let wanted = match admission {
            Admission::Admitted => true,
            Admission::LeftAlone => {
                state.active_state == "inactive" && unit.is_enabled().await.map_err(self.failed("look at"))?
            }
        };
        if !wanted {
            return Ok(state);
        }
        let state = unit.bring_up(state).await.map_err(self.failed("start"))?;
        Ok(self.told(&unit, state).await)
    }

    async fn stop(&self) -> Result<UnitState, Pid1Error> {
        let unit = self.load().await.map_err(self.failed("load"))?;
        unit.stop().await.map_err(self.failed("stop"))?;
        unit.state().await.map_err(self.failed("look at"))
    }
}

/// A unit in PID 1's memory.
struct Loaded {
    connection: Connection,
    name: String,
    path: OwnedObjectPath,
    manager: ManagerProxy<'static>,
}

impl Loaded {
    async fn new(connection: Connection, name: &str) -> zbus::Result<Self> {
        let manager = ManagerProxy::builder(&connection).destination(PID1).cache_properties(CacheProperties::No);
        let manager = manager.build().await?;
        let path = manager.load_unit(name).await?;
        Ok(Self { connection, name: name.to_owned(), path, manager })
    }

    async fn state(&self) -> zbus::Result<UnitState> {
        let (unit, service) = (self.unit().await?, self.service().await?);
        Ok(UnitState {
            load_state: unit.load_state().await?,
            active_state: unit.active_state().await?,
            sub_state: unit.sub_state().await?,
            result: service.result().await?,
            exit_status: service.exec_main_status().await?,
            condition_result: unit.condition_result().await?,
            last_words: String::new(),
        })
    }

    /// The last run of its main process, if there was one.
    async fn last_run(&self) -> zbus::Result<Option<Run>> {
        let (invocation, pid) =
            (self.unit().await?.invocation_id().await?, self.service().await?.exec_main_pid().await?);
        let invocation: String = invocation.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((pid != 0 && !invocation.is_empty()).then_some(Run { invocation, pid }))
    }

    async fn unit(&self) -> zbus::Result<UnitProxy<'_>> {
        let unit = UnitProxy::builder(&self.connection).destination(PID1).path(&self.path);
        unit.cache_properties(CacheProperties::No).build().await
    }

    async fn service(&self) -> zbus::Result<ServiceProxy<'_>> {
        let service = ServiceProxy::builder(&self.connection).destination(PID1).path(&self.path);
        service.cache_properties(CacheProperties::No).build().await
    }

    /// Whether it would be started at boot, without anybody's help.
    async fn is_enabled(&self) -> zbus::Result<bool> {
        Ok(matches!(self.unit().await?.unit_file_state().await?.as_str(), "enabled" | "enabled-runtime"))
    }

    /// Starts it unless it runs or is about to, and waits until that is decided.
    async fn bring_up(&self, state: UnitState) -> zbus::Result<UnitState> {
        if is_up(&state) {
            return Ok(state);
        }
        if state.active_state == "failed" {
            // Also when it was started too often: without, PID 1 would refuse.
            self.reset_failed().await?;
        }
        let properties = PropertiesProxy::builder(&self.connection).destination(PID1).path(&self.path);
        let properties = properties.cache_properties(CacheProperties::No).build().await?;
        let mut changes = properties.receive_properties_changed().await?;
        let settled = async {
            // What is on its way up already has its own job, or waits for its next try.
            if state.active_state != "activating" {
                self.start().await?;
            }
            loop {
                let state = self.state().await?;
                if is_up(&state) || matches!(state.active_state.as_str(), "inactive" | "failed") {
                    return Ok(state);
                }
                changes.next().await;
                // All that is queued is covered by one look.
                while changes.next().now_or_never().flatten().is_some() {}
            }
        };
        match tokio::time::timeout(PATIENCE, settled).await {
            Ok(settled) => settled,
            Err(_) => self.state().await,
        }
    }

    async fn start(&self) -> zbus::Result<()> {
        let removed = self.jobs_removed().await?;
        let job = self.manager.start_unit(&self.name, MODE).await?;
        until_over(&job, removed).await
    }

    async fn stop(&self) -> zbus::Result<()> {
        let removed = self.jobs_removed().await?;
        let job = self.manager.stop_unit(&self.name, MODE).await?;
        until_over(&job, removed).await
    }

    /// Listened to before a job exists, so that its end cannot be missed. PID 1 sends its signals on this socket unasked.
    async fn jobs_removed(&self) -> zbus::Result<JobRemovedStream> {
        self.manager.receive_job_removed().await
    }

    async fn reset_failed(&self) -> zbus::Result<()> {
        match self.manager.reset_failed_unit(&self.name).await {
            // It is no longer in memory: there is nothing left to forget.
            Err(error) if error_name(&error) == Some(NO_SUCH_UNIT) => Ok(()),
            reset => reset,
        }
    }
}

/// Waits until a job is over, 20 s at most; how it went, or that it goes on, is in the unit's state.
async fn until_over(job: &OwnedObjectPath, mut removed: JobRemovedStream) -> zbus::Result<()> {
    let over = async {
        while let Some(signal) = removed.next().await {
            if signal.args()?.job == **job {
                return Ok(());
            }
        }
        Err(zbus::Error::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)))
    };
    tokio::time::timeout(PATIENCE, over).await.unwrap_or(Ok(()))
}

fn is_up(state: &UnitState) -> bool {
    matches!(state.active_state.as_str(), "active" | "reloading" | "refreshing")
}

#[cfg(test)]
mod tests;
