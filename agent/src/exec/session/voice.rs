//! What the session says: a line of progress on a terminal, and a record of the run for programs.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::clock::{BootTime, Clock};
use crate::exec::Request;
use crate::exec::control::Ended;
use crate::socket::document::Document;

/// Erases the line that the cursor is in (ECMA-48, EL).
const ERASE: &str = "\r\x1b[K";

/// Where things are said.
pub(super) struct Voice {
    progress: bool,
    shown: bool,
    record: Option<File>,
    clock: Arc<dyn Clock>,
    began: BootTime,
}

impl Voice {
    pub fn new(request: &Request, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let record = match &request.record {
            None => None,
            Some(path) => Some(File::options().create(true).append(true).open(path)?),
        };
        let progress = !request.quiet && io::stderr().is_terminal();
        Ok(Self { progress, shown: false, record, began: request.began.boot, clock })
    }

    /// Shows where the node is; nothing is left of it when the command starts.
    pub fn progress(&mut self, words: &str) {
        if self.progress {
            self.shown = true;
            // A terminal that has gone needs no word.
            let _ = write!(io::stderr(), "{ERASE}devbox-agent exec: {words}…");
        }
    }

    /// Takes the line back.
    pub fn hush(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(io::stderr(), "{ERASE}");
        }
        self.progress = false;
    }

    /// Says that the command begins, and on which node.
    pub fn started(&mut self, document: &Document) -> io::Result<()> {
        let node = document.node.as_ref();
        let stages = &document.boot.stages;
        let line = json!({
            "event": "started",
            "after_ms": self.elapsed().as_millis() as u64,
            "node": node.map(|node| json!({
                "id": node.id, "name": node.name, "dns_name": node.dns_name, "addresses": node.addresses, "tags": node.tags,
            })),
            "stages": stages,
        });
        self.write(&line)
    }

    /// Says how it ended.
    pub fn ended(&mut self, ended: Option<Ended>, code: u8) -> io::Result<()> {
        let signal = match ended {
            Some(Ended::Killed(signal)) => Some(signal),
            _ => None,
        };
        let line =
            json!({ "event": "ended", "after_ms": self.elapsed().as_millis() as u64, "code": code, "signal": signal });
        self.write(&line)
    }

    fn write(&mut self, line: &serde_json::Value) -> io::Result<()> {
        self.record.as_mut().map_or(Ok(()), |record| writeln!(record, "{line}"))
    }

    fn elapsed(&self) -> Duration {
        self.clock.now().boot.since(self.began)
    }
}
