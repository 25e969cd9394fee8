//! Where the agent's log goes: to the journal with its fields, or to stderr as lines for people.

use std::io;
use std::os::fd::AsFd;

use tracing::Subscriber;
use tracing::field::Field;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, reload};

use super::run::SetLogLevel;

/// What the journal files the entries under.
const IDENTIFIER: &str = "devbox-agent";

/// Starts the log at `level` and returns what changes it.
pub(super) fn start(level: &Targets, journal_stream: Option<&str>) -> SetLogLevel {
    let (filter, handle) = reload::Layer::new(level.clone());
    tracing_subscriber::registry().with(filter).with(output(journal_stream)).init();
    Box::new(move |level: &Targets| {
        if let Err(error) = handle.reload(level.clone()) {
            tracing::warn!("the log's level stays as it was: {error}");
        }
    })
}

fn output<S>(journal_stream: Option<&str>) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    if journal_stream.is_some_and(is_stderr)
        && let Ok(journal) = tracing_journald::layer()
    {
        return journal.with_field_prefix(None).with_syslog_identifier(IDENTIFIER.to_owned()).boxed();
    }
    tracing_subscriber::fmt::layer()
        .fmt_fields(debug_fn(only_the_message))
        .with_writer(io::stderr)
        .with_ansi(false)
        .boxed()
}

/// A message says by itself what its fields say again for machines.
fn only_the_message(out: &mut Writer<'_>, field: &Field, value: &dyn std::fmt::Debug) -> std::fmt::Result {
    if field.name() == "message" { write!(out, "{value:?}") } else { Ok(()) }
}

/// Whether stderr is the stream to the journal that `JOURNAL_STREAM` names as device and inode (systemd.exec(5)).
fn is_stderr(stream: &str) -> bool {
    let stat = nix::sys::stat::fstat(io::stderr().as_fd());
    stat.is_ok_and(|stat| format!("{}:{}", stat.st_dev, stat.st_ino) == stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_stream_that_stderr_is_counts_as_the_journal() {
        let stat = nix::sys::stat::fstat(io::stderr().as_fd()).expect("stderr");
        assert!(is_stderr(&format!("{}:{}", stat.st_dev, stat.st_ino)));
        for other in ["", "1:2", "x", &format!("{}:{}", stat.st_dev, stat.st_ino + 1)] {
            assert!(!is_stderr(other), "{other}");
        }
    }
}
