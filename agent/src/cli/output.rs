//! Where a command's answer and its talk go.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, Write};

use super::exit::ExitCode;
use crate::core::reason::chain;

/// The two streams of a command: stdout is the answer, stderr is talk.
pub struct Output<'a> {
    /// The answer.
    pub out: &'a mut dyn Write,
    /// The talk.
    pub err: &'a mut dyn Write,
    /// Whether the answer goes to a terminal.
    pub terminal: bool,
    /// Whether the answer may have colour; see [`colour`].
    pub colour: bool,
}

/// Whether to use colour: on a terminal, and unless `NO_COLOR` is set to something (no-color.org).
pub fn colour(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

impl Output<'_> {
    /// Writes an answer at once, so that a reader at a pipe sees it when it is true.
    pub fn answer(&mut self, text: impl Display) -> io::Result<()> {
        write!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Writes a line of talk.
    pub fn talk(&mut self, text: impl Display) -> io::Result<()> {
        writeln!(self.err, "devbox-agent: {text}")
    }

    /// Writes an error with its causes as a line of talk.
    pub fn complain(&mut self, error: &dyn std::error::Error) -> io::Result<()> {
        self.talk(chain(error))
    }

    /// Makes an exit code of a command that could not write: a reader that went away (`| head`) has all that it wanted.
    pub fn ended(&mut self, result: io::Result<ExitCode>) -> ExitCode {
        match result {
            Ok(code) => code,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::Fine,
            Err(error) => {
                // When stderr fails as well, the exit code is all that is left to say it with.
                let _ = self.talk(format_args!("failed to write the answer: {error}"));
                ExitCode::No
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_terminals_and_no_color_is_honoured() {
        assert!(colour(true, None));
        assert!(colour(true, Some(OsStr::new(""))), "an empty NO_COLOR asks for nothing");
        assert!(!colour(true, Some(OsStr::new("1"))));
        assert!(!colour(false, None));
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure_and_a_full_disk_is() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut output = Output { out: &mut out, err: &mut err, terminal: false, colour: false };
        assert_eq!(output.ended(Err(io::ErrorKind::BrokenPipe.into())), ExitCode::Fine);
        assert_eq!(output.ended(Err(io::ErrorKind::StorageFull.into())), ExitCode::No);
        assert!(String::from_utf8_lossy(&err).starts_with("devbox-agent: failed to write the answer: "));
    }
}
