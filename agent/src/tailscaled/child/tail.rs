//! The last lines that tailscaled wrote, for the reason of its end.

use std::collections::VecDeque;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::core::reason::printable;
use crate::tailscaled::redact::redact;

/// How many lines are kept: enough to hold what led to an end.
pub(crate) const LINES_MAX: usize = 20;

/// How much of a line is kept, in characters.
const LINE_MAX: usize = 300;

/// How much of a line is read, in bytes; the rest of it is skipped. Room for [`LINE_MAX`] characters of any kind.
const LINE_BYTES: usize = LINE_MAX * 4;

/// How much of all lines together is told, in characters: a fault's detail is one line for people.
const TOLD_MAX: usize = 300;

/// What a Go program's end begins with; a page of stack traces follows it.
const PANICS: [&str; 2] = ["panic: ", "fatal error: "];

/// The last lines of a stream.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    lines: VecDeque<String>,
    panic: Option<String>,
    partial: Vec<u8>,
}

impl Tail {
    /// Reads until the stream ends. Safe to cancel, and to go on with later.
    pub async fn follow(&mut self, output: &mut (impl AsyncRead + Unpin)) {
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut chunk).await {
            self.push(&chunk[..length]);
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let room = LINE_BYTES.saturating_sub(self.partial.len());
            self.partial.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.partial);
        let line = String::from_utf8_lossy(&line);
        let line = printable(&redact(without_time(line.trim_end())), LINE_MAX);
        if line.is_empty() {
            return;
        }
        tracing::debug!(target: "tailscaled", "{line}");
        if self.panic.is_none() && PANICS.iter().any(|start| line.starts_with(start)) {
            self.panic = Some(line.clone());
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// The lines, oldest first, and before them the panic that they belong to.
    pub fn into_lines(mut self) -> Vec<String> {
        self.end_line();
        let lost = self.panic.filter(|panic| !self.lines.contains(panic));
        lost.into_iter().chain(self.lines).collect()
    }
}

/// The line without the time that Go's log package puts before it (`2006/01/02 15:04:05 `): whoever tells the line tells the time too.
fn without_time(line: &str) -> &str {
    const SHAPE: &[u8] = b"0000/00/00 00:00:00 ";
    let fits = |(byte, shape): (u8, &u8)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == *shape };
    let timed = line.len() >= SHAPE.len() && line.bytes().zip(SHAPE).all(fits);
    if timed { &line[SHAPE.len()..] } else { line }
}

/// The lines as part of a sentence: the first of a panic, else as many of the last as there is room for.
pub(crate) fn told(lines: &[String]) -> String {
    let panic = lines.iter().find(|line| PANICS.iter().any(|start| line.starts_with(start)));
    if let Some(panic) = panic {
        return panic.clone();
    }
    let mut told = String::new();
    for line in lines.iter().rev() {
        let longer = if told.is_empty() { line.clone() } else { format!("{line} | {told}") };
        if !told.is_empty() && longer.chars().count() > TOLD_MAX {
            break;
        }
        told = longer;
    }
    told
}

/// Whether words of tailscaled's speak of the TUN device that it has not.
pub(crate) fn without_tun(words: &str) -> bool {
    words.contains("CreateTUN") || words.contains("/dev/net/tun")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn tail(written: &[u8]) -> Vec<String> {
        let mut tail = Tail::default();
        tail.follow(&mut &written[..]).await;
        tail.into_lines()
    }

    #[tokio::test]
    async fn the_last_twenty_lines_are_kept_also_one_without_an_end() {
        let written: String = (1..=25).map(|number| format!("line {number}\n")).collect();
        let lines = tail((written + "the end").as_bytes()).await;
        assert_eq!(lines.len(), 20);
        assert_eq!((lines[0].as_str(), lines[19].as_str()), ("line 7", "the end"));
    }

    #[tokio::test]
    async fn long_lines_are_cut_and_do_not_run_into_the_next() {
        let written = format!("{}\nnext\n", "ü".repeat(100_000));
        let lines = tail(written.as_bytes()).await;
        assert_eq!(lines, [format!("{}…", "ü".repeat(300)), "next".to_owned()]);
    }

    #[tokio::test]
    async fn control_characters_and_secrets_do_not_come_through() {
        let lines = tail(b"\x1b[31mkey tskey-auth-k1-abc\x07\r\n\n").await;
        assert_eq!(lines, ["\\u{1b}[31mkey tskey-[redacted]\\u{7}"]);
    }

    #[tokio::test]
    async fn the_time_before_a_line_is_left_out() {
        let lines =
            tail("2026/01/02 03:04:05 wgengine: up\n2026/01/02 is a date\n2026/01/02 03:04:05 ü\n".as_bytes()).await;
        assert_eq!(lines, ["wgengine: up", "2026/01/02 is a date", "ü"]);
    }

    #[tokio::test]
    async fn a_panic_survives_its_stack_traces() {
        let traces: String = (0..90).map(|number| format!("goroutine {number}\n")).collect();
        let lines = tail(format!("panic: nil map\n\n{traces}").as_bytes()).await;
        assert_eq!(lines[0], "panic: nil map");
        assert_eq!(told(&lines), "panic: nil map");
    }

    #[test]
    fn a_sentence_has_the_last_lines_in_order() {
        let lines: Vec<_> = (0..100).map(|number| format!("line {number}")).collect();
        let told = told(&lines);
        assert!(told.ends_with("line 98 | line 99") && told.chars().count() <= TOLD_MAX, "{told}");
    }
}
