//! Progress of long work: spinners on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Between two frames of a spinner.
const FRAME: Duration = Duration::from_millis(120);

/// Where progress is shown: standard error, as it is talk, not an answer.
#[derive(Debug, Clone)]
pub struct Progress {
    bars: Option<MultiProgress>,
}

impl Progress {
    /// Spinners where standard error is a terminal.
    pub fn new() -> Self {
        Self { bars: std::io::stderr().is_terminal().then(MultiProgress::new) }
    }

    /// Begins a step and says so.
    pub fn step(&self, what: impl Into<String>) -> Step {
        let what = what.into();
        let bar = self.bars.as_ref().map(|bars| bars.add(spinner(&what)));
        if bar.is_none() {
            eprintln!("{what} …");
        }
        Step { progress: self.clone(), bar, what, started: Instant::now() }
    }

    /// Writes a result to standard output, above the spinners.
    pub fn answer(&self, text: impl AsRef<str>) {
        match &self.bars {
            Some(bars) => bars.suspend(|| println!("{}", text.as_ref())),
            None => println!("{}", text.as_ref()),
        }
    }

    /// Writes a line above the spinners.
    pub fn line(&self, text: impl AsRef<str>) {
        match &self.bars {
            Some(bars) => bars.suspend(|| eprintln!("{}", text.as_ref())),
            None => eprintln!("{}", text.as_ref()),
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// One piece of work under way.
#[derive(Debug)]
pub struct Step {
    progress: Progress,
    bar: Option<ProgressBar>,
    what: String,
    started: Instant,
}

impl Step {
    /// Says what the step is at now; only on a terminal.
    pub fn note(&self, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(detail.to_owned());
        }
    }

    /// Ends the step and says how.
    pub fn end(self, how: &str) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let took = self.started.elapsed();
        self.progress.line(format!("{}: {how} ({:.1} s)", self.what, took.as_secs_f64()));
        took
    }
}

fn spinner(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed:.dim} {wide_msg:.dim}");
    let bar = ProgressBar::new_spinner().with_prefix(what.to_owned());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(FRAME);
    bar
}
