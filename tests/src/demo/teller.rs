//! How the demo speaks: a title an act, then what happened and how long it took.

use std::fmt::Display;
use std::io::IsTerminal;
use std::time::Duration;

use devbox_agent::cli::{output, words};

/// Columns of what is said, so that with margin and time a line fits 80.
const WIDTH: usize = 66;

/// Bold (ECMA-48 §8.3.117, as all of these).
const BOLD: &str = "1";
/// Faint.
const FAINT: &str = "2";
/// Green.
const GREEN: &str = "32";
/// Red.
const RED: &str = "31";

/// The voice. Standard output, as what the demo shows is its answer.
#[derive(Debug)]
pub(super) struct Teller {
    acts: usize,
    colour: bool,
}

impl Teller {
    /// A voice with colour where that is wanted.
    pub fn new() -> Self {
        let no_color = std::env::var_os("NO_COLOR");
        Self { acts: 0, colour: output::colour(std::io::stdout().is_terminal(), no_color.as_deref()) }
    }

    /// Begins an act.
    pub fn act(&mut self, title: &str) {
        self.acts += 1;
        println!("\n{}", self.paint(BOLD, format_args!("{} · {title}", self.acts)));
    }

    /// Says what was seen to be so.
    pub fn seen(&self, what: impl Display) {
        println!("  {} {what}", self.paint(GREEN, "✓"));
    }

    /// Says what was seen to be so, and how long it took.
    pub fn took(&self, what: impl Display, time: Duration) {
        let (what, time) = (what.to_string(), words::took(time));
        println!("  {} {what:<WIDTH$}{}", self.paint(GREEN, "✓"), self.paint(FAINT, format_args!("{time:>8}")));
    }

    /// Adds details: lines of their own, as they are.
    pub fn detail(&self, text: impl Display) {
        for line in text.to_string().lines() {
            println!("{}", format!("      {line}").trim_end());
        }
    }

    /// Says that the act failed, and why.
    pub fn failed(&self, error: &anyhow::Error) {
        println!("  {} {error:#}", self.paint(RED, "✗"));
    }

    /// Ends a play in which all went well.
    pub fn end(&self, what: &str, time: Duration) {
        println!("\n{} {}", self.paint(BOLD, what), self.paint(FAINT, format_args!("({})", words::took(time))));
    }

    fn paint(&self, code: &str, text: impl Display) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}
