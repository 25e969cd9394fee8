//! What `--json` asks for: the node, its addresses, and what took how long.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::clock::{BootTime, Clock};
use crate::exec::Request;
use crate::exec::control::Ended;
use crate::socket::document::Document;

/// The file that it goes to, one JSON object a line.
pub(super) struct Record {
    file: Option<File>,
    clock: Arc<dyn Clock>,
    began: BootTime,
}

impl Record {
    /// Opens the file, if one is wanted.
    pub fn open(request: &Request, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let file = request.record.as_ref().map(|path| File::options().create(true).append(true).open(path));
        Ok(Self { file: file.transpose()?, clock, began: request.began.boot })
    }

    /// Notes that the command begins, and on which node.
    pub fn started(&mut self, document: &Document) {
        let node = document.node.as_ref().map(|node| {
            json!({
                "id": node.id, "name": node.name, "dns_name": node.dns_name, "addresses": node.addresses, "tags": node.tags,
            })
        });
        self.write("started", json!({ "node": node, "stages": document.boot.stages }));
    }

    /// Notes how it ended.
    pub fn ended(&mut self, ended: Ended, code: u8) {
        let signal = match ended {
            Ended::Killed(signal) => Some(signal),
            Ended::Exited(_) => None,
        };
        self.write("ended", json!({ "code": code, "signal": signal }));
    }

    /// A record that cannot be written is no reason to end a command that runs, or to give it another exit code.
    fn write(&mut self, event: &str, mut line: Value) {
        let Some(file) = &mut self.file else { return };
        line["event"] = event.into();
        line["after_ms"] = (self.clock.now().boot.since(self.began).as_millis() as u64).into();
        if let Err(error) = writeln!(file, "{line}") {
            eprintln!("devbox-agent exec: failed to write what --json names, which ends here: {error}");
            self.file = None;
        }
    }
}
