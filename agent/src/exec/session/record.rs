//! What `--json` asks for: the node, its addresses, and what took how long.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use nix::libc::{ENXIO, O_NONBLOCK};
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
        let file = request.record.as_deref().map(open).transpose()?;
        Ok(Self { file, clock, began: request.began.boot })
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

/// Opens a file to append to. Nothing waits for who reads it: not this, for a FIFO's reader, and no line later, for a full pipe.
fn open(path: &Path) -> io::Result<File> {
    let file = File::options().create(true).append(true).custom_flags(O_NONBLOCK).open(path);
    file.map_err(|error| match error.raw_os_error() {
        // What open(2) says of a FIFO without a reader, and of a socket.
        Some(ENXIO) => io::Error::new(error.kind(), format!("{error}: nobody reads it; have its reader begin first")),
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn a_fifo_is_opened_when_it_has_a_reader_and_not_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).expect("a FIFO");
        let refused = open(&fifo).expect_err("it has no reader");
        assert!(refused.to_string().contains("nobody reads it"), "{refused}");
        let mut reader = File::options().read(true).custom_flags(O_NONBLOCK).open(&fifo).expect("opened");
        writeln!(open(&fifo).expect("it has a reader"), "a line").expect("written");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "a line\n");
    }
}
