//! Sends the status document to the platform: on every change, as a heartbeat, and last of all when stopping.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Sink;
use super::envelope::{self, Stamp, essence};
use crate::clock::{BootTime, Clock};
use crate::core::reason::{Code, Fault, chain};
use crate::socket::document::Document;

/// How long changes are collected before they are sent (`devbox/v1`).
const COALESCE: Duration = Duration::from_millis(250);
/// How long the last report may keep the agent from stopping.
const LAST: Duration = Duration::from_secs(1);
/// How much of that a report on its way is given to arrive: half, so that as much is left for the last.
const ON_ITS_WAY: Duration = Duration::from_millis(500);
/// How long after a refusal the next try comes: a person must act first.
const REFUSED: Duration = Duration::from_secs(15 * 60);
/// The longest wait after a failure that may pass, so that a sink that is back is noticed within a minute.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// From the failure after this many on, the shortest wait as well. Six waits of any length and 57 s from then on are at most 70 tries in any
/// hour, while full jitter up to 60 s would make 120.
const RAMP: u32 = 6;
/// See [`RAMP`].
const RETRY_MIN: Duration = Duration::from_secs(57);

/// How random waits are drawn, passed in so that tests draw none.
pub trait Pace: Send + Sync {
    /// The wait after `failures` failures before this one: exponential from 0.5 s, with jitter.
    fn retry(&self, failures: u32) -> Duration;

    /// `around` ± 10 %.
    fn spread(&self, around: Duration) -> Duration;
}

/// What the publisher is made of.
pub struct PublisherSettings {
    /// Where reports go.
    pub sink: Arc<dyn Sink>,
    /// What reports are stamped with.
    pub clock: Arc<dyn Clock>,
    /// How waits are drawn.
    pub pace: Arc<dyn Pace>,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// The document; only the latest is ever sent. The publisher ends when its sender is gone.
    pub documents: watch::Receiver<Arc<Document>>,
    /// The spec's `report.interval_s`.
    pub interval: watch::Receiver<Duration>,
    /// Told when reports begin to fail, fail for another reason, and are taken again (`None`).
    pub faults: mpsc::Sender<Option<Fault>>,
}

/// The running publisher; dropped, it ends without a last report.
pub struct Publisher {
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Publisher {
    /// Starts a task that sends reports until [`Self::finish`].
    pub fn start(settings: PublisherSettings) -> Self {
        let stop = CancellationToken::new();
        let beat = Instant::now() + settings.pace.spread(*settings.interval.borrow());
        let task = Task {
            settings,
            stop: stop.clone(),
            sent: None,
            news: None,
            beat,
            failures: 0,
            hold: None,
            last: BootTime::default(),
            told: None,
        };
        Self { stop, task: AbortOnDropHandle::new(tokio::spawn(task.run())) }
    }

    /// Sends the latest document once more, whether it is news or not, and ends; within a second. Nothing is sent while the sink refuses
    /// reports or asked to be left alone.
    pub async fn finish(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!("the report publisher failed: {}", chain(&error));
        }
    }
}

/// Why nothing is sent for now.
#[derive(Clone, Copy)]
struct Hold {
    until: Instant,
    /// The sink refused, or asked to be left alone; otherwise it only failed.
    asked: bool,
}

struct Task {
    settings: PublisherSettings,
    stop: CancellationToken,
    sent: Option<Document>,
    news: Option<Instant>,
    beat: Instant,
    failures: u32,
    hold: Option<Hold>,
    last: BootTime,
    told: Option<Code>,
}

impl Task {
    async fn run(mut self) {
        self.notice();
        let stop = self.stop.clone();
        loop {
            let due = tokio::time::sleep_until(self.due());
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.send_last(Instant::now() + LAST).await,
                changed = self.settings.documents.changed() => match changed {
                    Ok(()) => self.notice(),
                    Err(_) => return,
                },
                Ok(()) = self.settings.interval.changed() => self.set_beat(),
                () = due => if let Some(deadline) = self.send_unless(&stop).await {
                    return self.send_last(deadline).await;
                }
            }
        }
    }

    /// Takes note of a new document: it is news when it differs from what was last sent by more than what changes by itself.
    fn notice(&mut self) {
        let document = self.settings.documents.borrow_and_update().clone();
        let news = document.instance.is_some() && self.sent.as_ref() != Some(&essence(&document));
        self.news = news.then(|| self.news.unwrap_or_else(|| Instant::now() + COALESCE));
    }

    fn due(&self) -> Instant {
        match self.hold {
            Some(hold) => hold.until,
            None => self.news.map_or(self.beat, |news| news.min(self.beat)),
        }
    }

    fn set_beat(&mut self) {
        let interval = *self.settings.interval.borrow_and_update();
        self.beat = Instant::now() + self.settings.pace.spread(interval);
    }

    /// Sends a report; returns until when the last one is to be sent, once `stop` is cancelled meanwhile.
    async fn send_unless(&mut self, stop: &CancellationToken) -> Option<Instant> {
        let mut send = std::pin::pin!(self.send());
        tokio::select! {
            () = &mut send => return None,
            () = stop.cancelled() => {}
        }
        let deadline = Instant::now() + LAST;
        // The last report goes by another connection if this one is cut off, and would overtake it.
        if tokio::time::timeout(ON_ITS_WAY, send).await.is_err() {
            tracing::debug!("a report on its way was given up for the last one");
        }
        Some(deadline)
    }

    async fn send(&mut self) {
        let document = self.settings.documents.borrow_and_update().clone();
        let outcome = match self.write(&document) {
            Ok(Some(report)) => self.settings.sink.put(report).await,
            Ok(None) => return self.set_beat(),
            Err(fault) => Err(fault),
        };
        let fault = outcome.err();
        match &fault {
            None => self.delivered(&document),
            Some(fault) => self.failed(fault),
        }
        self.tell(fault).await;
    }

    fn delivered(&mut self, document: &Document) {
        self.sent = Some(essence(document));
        (self.news, self.hold, self.failures) = (None, None, 0);
        self.set_beat();
    }

    fn failed(&mut self, fault: &Fault) {
        let refused = fault.code == Code::ReportDenied;
        let wait = if refused { self.settings.pace.spread(REFUSED) } else { self.retry_wait() };
        let wait = wait.max(fault.retry_after.unwrap_or_default());
        self.failures = self.failures.saturating_add(1);
        self.hold = Some(Hold { until: Instant::now() + wait, asked: refused || fault.retry_after.is_some() });
    }

    fn retry_wait(&self) -> Duration {
        let wait = self.settings.pace.retry(self.failures).min(RETRY_MAX);
        if self.failures < RAMP { wait } else { wait.max(RETRY_MIN) }
    }

    async fn tell(&mut self, fault: Option<Fault>) {
        let code = fault.as_ref().map(|fault| fault.code);
        if self.told != code {
            self.told = code;
            // Nobody listening any more means that the agent is stopping.
            self.settings.faults.send(fault).await.unwrap_or_default();
        }
    }

    /// Sends whatever the latest document is, for [`Publisher::finish`].
    async fn send_last(mut self, deadline: Instant) {
        if self.hold.is_some_and(|hold| hold.asked && hold.until > Instant::now()) {
            return;
        }
        let document = self.settings.documents.borrow_and_update().clone();
        let Ok(Some(report)) = self.write(&document) else { return };
        match tokio::time::timeout_at(deadline, self.settings.sink.put(report)).await {
            Ok(Ok(())) => tracing::debug!("the last report was sent"),
            Ok(Err(fault)) => {
                tracing::warn!(code = fault.code.as_str(), "failed to send the last report: {}", fault.detail)
            }
            Err(_) => tracing::warn!("failed to send the last report within {} s", LAST.as_secs()),
        }
    }

    fn write(&mut self, document: &Document) -> Result<Option<Vec<u8>>, Fault> {
        let now = self.settings.clock.now();
        // Two reports of the same millisecond would have no order.
        self.last = now.boot.max(self.last + Duration::from_millis(1));
        let stamp = Stamp { boot_id: &self.settings.boot_id, boottime: self.last, sent_at: now.real };
        envelope::report(document, stamp).map_err(|error| Fault {
            code: Code::ReportUnreachable,
            detail: format!("failed to write the report: {}", chain(&error)),
            retry_after: None,
            unsent: true,
        })
    }
}

#[cfg(test)]
mod tests;
