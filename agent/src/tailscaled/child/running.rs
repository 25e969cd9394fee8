//! One tailscaled process, waited on from the moment it is spawned.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::error::{ChildError, Ended, in_words};
use super::tail::Tail;

/// How long output may still come after the end: what was in the pipe is there at once, and a process that keeps it open must not
/// hold up the news.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What the task that waits is asked to do; it alone knows whether the pid is still the child's.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// SIGTERM, and SIGCONT for one that was frozen.
    Terminate,
    /// SIGKILL to the whole group.
    Kill,
}

/// A tailscaled that was spawned. Dropping it ends it: its end of the pipe is closed, and the task that waits kills what is left.
#[derive(Debug)]
pub(super) struct Running {
    pid: u32,
    orders: mpsc::UnboundedSender<Order>,
    ended: watch::Receiver<Option<Arc<Ended>>>,
    _life: OwnedFd,
    _waiting: AbortOnDropHandle<()>,
}

impl Running {
    /// Takes over a child at the moment of its spawn. `output` is the read end of its output, `life` the end that keeps it alive.
    pub fn new(child: Child, output: pipe::Receiver, life: OwnedFd) -> Self {
        let (orders, taken) = mpsc::unbounded_channel();
        let (tell, ended) = watch::channel(None);
        // A child that was not waited on has its pid.
        let pid = child.id().unwrap_or_default();
        let waiting = tokio::spawn(wait(child, output, taken, tell));
        Self { pid, orders, ended, _life: life, _waiting: AbortOnDropHandle::new(waiting) }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for its end, for whatever reason.
    pub async fn ended(&self) -> Arc<Ended> {
        let mut ended = self.ended.clone();
        let told = ended.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
        // The waiting task tells before it ends, and is not ended before this is dropped.
        told.unwrap_or_else(|| {
            Arc::new(Ended { how: "an unknown status".into(), lived: Duration::ZERO, lines: Vec::new() })
        })
    }

    /// Asks it to end, insists after `grace`, and waits.
    pub async fn end(&self, grace: Duration, killed: Duration) -> Result<(), ChildError> {
        for (order, time) in [(Order::Terminate, grace), (Order::Kill, killed)] {
            // Nobody takes the order when it has ended already.
            let _taken = self.orders.send(order);
            if tokio::time::timeout(time, self.ended()).await.is_ok() {
                return Ok(());
            }
        }
        Err(ChildError::Immortal { pid: self.pid })
    }
}

async fn wait(
    mut child: Child,
    mut output: pipe::Receiver,
    mut orders: mpsc::UnboundedReceiver<Order>,
    tell: watch::Sender<Option<Arc<Ended>>>,
) {
    let started = Instant::now();
    let mut tail = Tail::default();
    let mut silent = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            Some(order) = orders.recv() => obey(order, &child),
            () = tail.follow(&mut output), if !silent => silent = true,
        }
    };
    let lived = started.elapsed();
    if tokio::time::timeout(LAST_WORDS, tail.follow(&mut output)).await.is_err() {
        tracing::debug!("tailscaled left a process that keeps its output open");
    }
    let ended = Ended { how: in_words(status), lived, lines: tail.into_lines() };
    tell.send_replace(Some(Arc::new(ended)));
}

fn obey(order: Order, child: &Child) {
    // Once it was waited on there is no pid, so no other process can be meant.
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw) else { return };
    let obeyed = match order {
        Order::Terminate => kill(pid, Signal::SIGTERM).and_then(|()| kill(pid, Signal::SIGCONT)),
        Order::Kill => killpg(pid, Signal::SIGKILL),
    };
    if let Err(errno) = obeyed {
        tracing::warn!(pid = pid.as_raw(), ?order, error = %io::Error::from(errno), "failed to signal tailscaled");
    }
}
