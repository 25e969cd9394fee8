//! The report sink: keeps what instances say of themselves and notes every report that breaks the protocol.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use axum::http::StatusCode;
use serde_json::Value;
use tokio::sync::watch;

use super::report_schema::{self, Envelope};

/// The longest report that the protocol allows, bytes.
const MAX_BYTES: usize = 16 * 1024;

/// One accepted report.
#[derive(Clone, Debug)]
pub struct Report {
    /// The instance that the channel belongs to.
    pub instance: String,
    /// When it came.
    pub received: SystemTime,
    /// The boot it is from.
    pub boot_id: String,
    /// CLOCK_BOOTTIME when it was sent, milliseconds.
    pub boottime_ms: u64,
    /// The generation that the instance knew.
    pub generation: Option<String>,
    /// The status document.
    pub status: Value,
    /// The whole report as it came.
    pub raw: String,
}

impl Report {
    /// Returns the phase of the status document.
    pub fn phase(&self) -> &str {
        self.status.get("phase").and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns the code of the status document's reason, if it has one.
    pub fn reason(&self) -> Option<&str> {
        let reason = self.status.get("reason")?;
        reason.get("code").unwrap_or(reason).as_str()
    }
}

/// How a report broke the protocol.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Violation {
    /// It is longer than 16 KiB.
    #[error("report of {instance} has {bytes} bytes, more than {MAX_BYTES}")]
    TooLong {
        /// Whose channel it came on.
        instance: String,
        /// How long it is.
        bytes: usize,
    },
    /// It is no report of version 1.
    #[error("report of {instance} breaks the schema: {problem}")]
    Schema {
        /// Whose channel it came on.
        instance: String,
        /// Which field, and what is wrong with it.
        problem: String,
    },
    /// It speaks for another instance than its channel's.
    #[error("report on the channel of {instance} speaks for {claimed}")]
    Impostor {
        /// Whose channel it came on.
        instance: String,
        /// Whom it speaks for.
        claimed: String,
    },
    /// It is older than one that was already taken.
    #[error("report of {instance} is out of order: {problem}")]
    Order {
        /// Whose channel it came on.
        instance: String,
        /// What it came after.
        problem: String,
    },
}

impl Violation {
    /// Returns the status that the sink answers.
    pub fn code(&self) -> StatusCode {
        match self {
            Self::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Schema { .. } => StatusCode::BAD_REQUEST,
            Self::Impostor { .. } => StatusCode::FORBIDDEN,
            Self::Order { .. } => StatusCode::CONFLICT,
        }
    }
}

#[derive(Default)]
struct State {
    reports: HashMap<String, Vec<Report>>,
    violations: Vec<Violation>,
}

/// Where reports arrive.
#[derive(Clone)]
pub struct ReportSink {
    state: Arc<Mutex<State>>,
    arrived: watch::Sender<u64>,
}

impl Default for ReportSink {
    fn default() -> Self {
        Self { state: Arc::default(), arrived: watch::Sender::new(0) }
    }
}

impl ReportSink {
    /// Takes a report that came on the channel of `instance`.
    ///
    /// # Errors
    /// When it breaks the protocol; it is then not kept, and the violation is.
    pub fn take(&self, instance: &str, body: &[u8]) -> Result<(), Violation> {
        let result = self.check_and_store(instance, body);
        if let Err(violation) = &result {
            self.lock().violations.push(violation.clone());
        }
        // Only after the lock is gone: a waiter takes it while it holds the channel's own.
        self.arrived.send_modify(|count| *count += 1);
        result
    }

    fn check_and_store(&self, instance: &str, body: &[u8]) -> Result<(), Violation> {
        let instance = instance.to_owned();
        if body.len() > MAX_BYTES {
            return Err(Violation::TooLong { instance, bytes: body.len() });
        }
        let schema = |problem| Violation::Schema { instance: instance.clone(), problem };
        let envelope = report_schema::parse(body).map_err(schema)?;
        if envelope.instance_id != instance {
            return Err(Violation::Impostor { instance, claimed: envelope.instance_id });
        }
        let mut state = self.lock();
        let earlier = state.reports.entry(instance.clone()).or_default();
        let report = into_report(&instance, envelope, body);
        check_order(earlier, &report).map_err(|problem| Violation::Order { instance, problem })?;
        earlier.push(report);
        Ok(())
    }

    /// Returns every report of an instance, oldest first.
    pub fn all(&self, instance: &str) -> Vec<Report> {
        self.lock().reports.get(instance).cloned().unwrap_or_default()
    }

    /// Returns an instance's last report.
    pub fn latest(&self, instance: &str) -> Option<Report> {
        self.lock().reports.get(instance).and_then(|reports| reports.last().cloned())
    }

    /// Returns every way in which reports broke the protocol so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.lock().violations.clone()
    }

    /// Waits until an instance's last report is as asked, and returns it.
    ///
    /// # Errors
    /// When `limit` is over first; says what the last report was.
    pub async fn wait_for(&self, instance: &str, limit: Duration, wanted: impl Fn(&Report) -> bool) -> Result<Report> {
        let mut arrived = self.arrived.subscribe();
        let found = async {
            loop {
                arrived.borrow_and_update();
                if let Some(report) = self.latest(instance).filter(&wanted) {
                    return Ok::<_, watch::error::RecvError>(report);
                }
                arrived.changed().await?;
            }
        };
        let report = tokio::time::timeout(limit, found).await.with_context(|| self.unmet(instance, limit))??;
        Ok(report)
    }

    fn unmet(&self, instance: &str, limit: Duration) -> String {
        let last = self.latest(instance).map_or_else(|| "there was none".to_owned(), |report| report.raw);
        format!("failed to see the report of {instance} within {limit:?}; the last: {last}")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn into_report(instance: &str, envelope: Envelope, body: &[u8]) -> Report {
    Report {
        instance: instance.to_owned(),
        received: SystemTime::now(),
        boot_id: envelope.boot_id,
        boottime_ms: envelope.boottime_ms,
        generation: envelope.generation,
        status: envelope.status,
        raw: String::from_utf8_lossy(body).into_owned(),
    }
}

/// Says what is wrong with a report after those before it: boots do not come back, and within one CLOCK_BOOTTIME grows.
fn check_order(earlier: &[Report], report: &Report) -> Result<(), String> {
    let Some(last) = earlier.last() else {
        return Ok(());
    };
    if last.boot_id != report.boot_id {
        let came_back = earlier.iter().any(|old| old.boot_id == report.boot_id);
        return if came_back { Err(format!("boot {} was over already", report.boot_id)) } else { Ok(()) };
    }
    // A client that did not see the answer may send the same again.
    let repeated = last.boottime_ms == report.boottime_ms && last.raw == report.raw;
    if report.boottime_ms > last.boottime_ms || repeated {
        return Ok(());
    }
    Err(format!("boottime_ms {} after {}", report.boottime_ms, last.boottime_ms))
}
