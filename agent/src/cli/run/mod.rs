//! `run`: the agent itself.

mod edges;
mod metadata;
mod service;
mod sources;

use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use tracing_subscriber::filter::Targets;

use self::edges::{Outside, outside};
pub(super) use self::edges::{federation, provider, token_variable};
use crate::clock::{Clock, SystemClock};
use crate::config::{Settings, Sources};
use crate::core::drive::{Drive, Input};
use crate::core::fold::Event;
use crate::core::scribe::{Outlets, newborn};
use crate::core::world::{Configured, World};
use crate::identity::boot_id::boot_id;
use crate::identity::lock::{LockError, StateLock};
use crate::report::{Publisher, PublisherSettings};
use crate::retry;
use crate::socket::document::Document;
use crate::socket::{Lent, access::Access, listen, publish, server, socket_path, status_path};

/// How often reports are due until the spec says (protocol, `report.interval_s`).
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// How long the last status may take to reach its file.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// Changes what is logged, to a level or levels by module.
pub type SetLogLevel = Box<dyn Fn(&Targets) + Send>;

/// Keeps this machine on its owner's tailnet, until it is told to stop.
pub async fn run(settings: Settings, sources: Sources, set_log_level: SetLogLevel) -> anyhow::Result<()> {
    let signals = sources::Signals::new().context("failed to watch for signals")?;
    let _lock = lock(&settings, sources.uid)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let outside = outside(&settings, &sources, &clock)?;
    let (to_core, mut inputs) = mpsc::channel(64);
    let (status, documents) = watch::channel(Arc::new(newborn(clock.now(), outside.edges.metadata.provider())));
    let (report_interval, interval) = watch::channel(REPORT_INTERVAL);

    let told = std::env::var("DEVBOX_BOOT_ID").ok();
    let boot_id = boot_id(told.as_deref(), "/".as_ref()).context("failed to read the kernel's boot id")?;
    let world = World::new(boot_id.clone(), Configured::of(&settings), outside.edges.store.load());
    let mut tasks = JoinSet::new();
    let reread = Arc::new(Notify::new());
    let (lent, borrowed) = watch::channel(edges::lent(&settings, &outside.edges));
    let configured =
        sources::Configured { settings: settings.clone(), sources, edges: outside.edges.clone(), lent, set_log_level };
    sources::spawn(&mut tasks, (signals, reread.clone()), &to_core, configured);
    serve(&mut tasks, &settings, (&to_core, reread), (documents.clone(), borrowed))?;
    let file = publish::Publisher::of_file(status_path(&settings.paths.runtime));
    let file = AbortOnDropHandle::new(tokio::spawn(file.run(documents.clone())));
    let reports = reports(&outside, &settings, boot_id, (documents, interval), &to_core);

    tracing::info!("devbox-agent {} starts", env!("CARGO_PKG_VERSION"));
    let drive = Drive::new(world, settings, outside.edges.clone(), Outlets { status, report_interval });
    let result = drive.run(&mut inputs).await;
    outside.edges.service.stopping();
    if let Some(reports) = reports {
        reports.finish().await;
    }
    if tokio::time::timeout(LAST_WRITE, file).await.is_err() {
        tracing::warn!("the last status did not reach its file in time");
    }
    tracing::info!("devbox-agent ends");
    Ok(result?)
}

/// Makes sure that this is the only agent on the state directory; on a disk that cannot be used it goes on from memory.
fn lock(settings: &Settings, uid: u32) -> anyhow::Result<Option<StateLock>> {
    match StateLock::acquire(&settings.paths.state, uid) {
        Ok(lock) => Ok(Some(lock)),
        Err(held @ LockError::Held { .. }) => Err(held.into()),
        Err(error) => {
            tracing::warn!("the state directory is not locked: {}", crate::core::reason::chain(&error));
            Ok(None)
        }
    }
}

fn serve(
    tasks: &mut JoinSet<()>,
    settings: &Settings,
    (to_core, reread): (&mpsc::Sender<Input>, Arc<Notify>),
    (documents, lent): (watch::Receiver<Arc<Document>>, Lent),
) -> anyhow::Result<()> {
    let runtime = &settings.paths.runtime;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(runtime);
    made.with_context(|| format!("failed to make the directory {}; see [paths] runtime", runtime.display()))?;
    let listener = listen::bind(&socket_path(runtime))?;
    let access = Access::of_this_agent().context("failed to look up the group devbox-agent")?;
    let (commands, taken) = mpsc::channel(8);
    tasks.spawn(async move { match server::serve(listener, documents, commands, access, lent).await {} });
    tasks.spawn(sources::pass_on(taken, to_core.clone(), reread));
    Ok(())
}

type Watched = (watch::Receiver<Arc<Document>>, watch::Receiver<Duration>);

fn reports(
    outside: &Outside,
    settings: &Settings,
    boot_id: String,
    (documents, interval): Watched,
    to_core: &mpsc::Sender<Input>,
) -> Option<Publisher> {
    let sink = outside.reports.clone().filter(|_| settings.report.enabled)?;
    let (faults, mut failing) = mpsc::channel(4);
    let to_core = to_core.clone();
    tokio::spawn(async move {
        while let Some(fault) = failing.recv().await {
            if to_core.send(Input::Event(Event::Report(fault))).await.is_err() {
                return;
            }
        }
    });
    let (clock, pace) = (outside.edges.clock.clone(), Arc::new(retry::Drawn));
    Some(Publisher::start(PublisherSettings { sink, clock, pace, boot_id, documents, interval, faults }))
}
