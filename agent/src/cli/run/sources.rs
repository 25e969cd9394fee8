//! What reaches the core besides its own effects: signals, callers of the socket, steps of the clock.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use super::SetLogLevel;
use super::edges::{lent, reconfigured};
use crate::config::{self, Settings, Sources};
use crate::core::drive::Input;
use crate::core::edges::Edges;
use crate::core::fold::Event;
use crate::core::reason::chain;
use crate::metadata::Metadata;
use crate::socket::{Command, Verb};
use crate::sys::clock_step::ClockSteps;
use crate::sys::reaper;

/// The signals, watched before anything else is done.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
        })
    }
}

/// What is configured, and what it takes to configure it again.
pub(super) struct Configured {
    pub settings: Settings,
    pub sources: Sources,
    pub edges: Edges,
    /// Follows what the two come to.
    pub lent: watch::Sender<Option<Arc<dyn Metadata>>>,
    pub set_log_level: SetLogLevel,
}

/// Starts everything that waits for something outside; `reread` asks for configuration to be read again, as SIGHUP does.
pub(super) fn spawn(
    tasks: &mut JoinSet<()>,
    (signals, reread): (Signals, Arc<Notify>),
    to_core: &mpsc::Sender<Input>,
    configured: Configured,
) {
    tasks.spawn(obey(signals, reread, to_core.clone(), configured));
    tasks.spawn(watch_clock(to_core.clone()));
    tasks.spawn(async {
        if let Err(error) = reaper::reap_as_init().await {
            tracing::warn!("zombies are not reaped: {}", chain(&error));
        }
    });
}

async fn obey(mut signals: Signals, reread: Arc<Notify>, to_core: mpsc::Sender<Input>, mut configured: Configured) {
    loop {
        let input = tokio::select! {
            _ = signals.terminate.recv() => Some(end(&configured.edges).await),
            _ = signals.interrupt.recv() => Some(end(&configured.edges).await),
            _ = signals.reload.recv() => configured.again(),
            // `refresh` itself is on its way to the core already: done twice, it would send every request twice.
            () = reread.notified() => configured.again().filter(|input| matches!(input, Input::Reconfigured(_))),
        };
        if let Some(input) = input
            && to_core.send(input).await.is_err()
        {
            return;
        }
    }
}

async fn end(edges: &Edges) -> Input {
    Input::Event(Event::Stop(edges.host.ending().await))
}

impl Configured {
    /// Reads configuration again; what is wrong leaves what was right in force. What tailscaled was started with takes a restart.
    fn again(&mut self) -> Option<Input> {
        let read = config::load_for_agent(&self.sources).map(|loaded| loaded.settings).map_err(anyhow::Error::from);
        let made = read.and_then(|new| reconfigured(&new, &self.settings, &self.edges).map(|edges| (new, edges)));
        let (new, edges) = match made {
            Ok(made) => made,
            Err(error) => {
                tracing::error!("the new configuration is not used: {error:#}");
                return None;
            }
        };
        let old = &self.settings;
        if (&new.daemon, &new.paths, &new.report) != (&old.daemon, &old.paths, &old.report) {
            tracing::warn!("[daemon], [paths] or [report] changed: restart devbox-agent to use them");
        }
        if new.log_level != self.settings.log_level {
            (self.set_log_level)(&new.log_level);
        }
        if std::mem::replace(&mut self.settings, new.clone()) == new {
            return Some(Input::Event(Event::Asked(Verb::Refresh)));
        }
        self.lent.send_replace(lent(&new, &edges));
        Some(Input::Reconfigured(Box::new((new, edges))))
    }
}

/// Hands callers' verbs to the core; `refresh` also has configuration read again, as SIGHUP does.
pub(super) async fn pass_on(mut taken: mpsc::Receiver<Command>, to_core: mpsc::Sender<Input>, reread: Arc<Notify>) {
    while let Some(command) = taken.recv().await {
        if command.verb == Verb::Refresh {
            reread.notify_one();
        }
        if to_core.send(Input::Asked(command)).await.is_err() {
            return;
        }
    }
}

async fn watch_clock(to_core: mpsc::Sender<Input>) {
    let steps = match ClockSteps::watch() {
        Ok(steps) => steps,
        Err(error) => return tracing::warn!("steps of the clock are noticed late: {}", chain(&error)),
    };
    while let Ok(()) = steps.next().await {
        if to_core.send(Input::Event(Event::Resumed("the clock was set"))).await.is_err() {
            return;
        }
    }
}
