//! One line on a terminal that says how far the join is.

use std::io::{self, IsTerminal, Write};

/// Erases the line that the cursor is in (ECMA-48, EL).
const ERASE: &str = "\r\x1b[K";

/// The line.
pub(super) struct Progress {
    wanted: bool,
    shown: bool,
}

impl Progress {
    /// Shown where stderr is a terminal, unless nobody wants it.
    pub fn new(quiet: bool) -> Self {
        Self { wanted: !quiet && io::stderr().is_terminal(), shown: false }
    }

    /// Shows where the node is; nothing is left of it when the command starts.
    pub fn show(&mut self, words: &str) {
        if self.wanted {
            self.shown = true;
            // A terminal that has gone needs no word.
            let _ = write!(io::stderr(), "{ERASE}devbox-agent exec: {words}…");
        }
    }

    /// Takes the line back, for good.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(io::stderr(), "{ERASE}");
        }
        self.wanted = false;
    }
}
