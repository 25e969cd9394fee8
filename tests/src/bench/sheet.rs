//! The result of a bench: JSON for machines, a short table for people.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};
use serde::Serialize;

/// What one bench found.
#[derive(Debug, Serialize)]
pub struct Sheet {
    name: &'static str,
    unit: &'static str,
    runs: usize,
    machine: String,
    series: BTreeMap<&'static str, Summary>,
    ratios: BTreeMap<String, f64>,
    budgets: BTreeMap<String, Budget>,
    notes: Vec<String>,
    #[serde(skip)]
    samples: BTreeMap<&'static str, Vec<f64>>,
    #[serde(skip)]
    load: f64,
}

#[derive(Debug, Serialize)]
struct Summary {
    median: f64,
    min: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Budget {
    limit: f64,
    measured: f64,
    met: bool,
}

impl Sheet {
    /// An empty sheet; `unit` is that of every series.
    pub fn new(name: &'static str, unit: &'static str) -> Self {
        Self {
            name,
            unit,
            runs: 0,
            machine: String::new(),
            series: BTreeMap::new(),
            ratios: BTreeMap::new(),
            budgets: BTreeMap::new(),
            notes: Vec::new(),
            samples: BTreeMap::new(),
            load: load(),
        }
    }

    /// Adds the value of one run to a series.
    pub fn add(&mut self, series: &'static str, value: f64) {
        let samples = self.samples.entry(series).or_default();
        samples.push(value);
        self.runs = self.runs.max(samples.len());
        if let Some(summary) = summarise(samples) {
            self.series.insert(series, summary);
        }
    }

    /// The median of a series so far; NaN of one without runs, which meets no budget.
    pub fn median(&self, series: &str) -> f64 {
        self.series.get(series).map_or(f64::NAN, |summary| summary.median)
    }

    /// Notes how the medians of two series compare, and returns the name and the value.
    pub fn ratio(&mut self, of: &str, to: &str) -> (String, f64) {
        let (name, value) = (format!("{of}/{to}"), rounded(self.median(of) / self.median(to)));
        self.ratios.insert(name.clone(), value);
        (name, value)
    }

    /// Holds what was measured against its budget.
    pub fn budget(&mut self, name: impl Into<String>, measured: f64, limit: f64) {
        let measured = rounded(measured);
        self.budgets.insert(name.into(), Budget { limit, measured, met: measured <= limit });
    }

    /// Says something that a reader of the figures has to know.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Writes `NAME.json` in `folder` and returns the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(mut self, folder: &Path) -> Result<Saved> {
        self.machine = machine(self.load);
        fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
        let file = folder.join(format!("{}.json", self.name));
        let mut text = serde_json::to_string_pretty(&self).context("failed to write a result as JSON")?;
        text.push('\n');
        fs::write(&file, text).with_context(|| format!("failed to write {}", file.display()))?;
        Ok(Saved { sheet: self, file })
    }
}

/// A sheet that was written.
#[derive(Debug)]
pub struct Saved {
    sheet: Sheet,
    file: PathBuf,
}

impl fmt::Display for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sheet { name, unit, runs, machine, series, ratios, budgets, notes, .. } = &self.sheet;
        writeln!(f, "{name}: {unit}, {runs} runs; {machine}")?;
        writeln!(f, "  {:<44}{:>11}{:>11}{:>11}", "series", "median", "min", "max")?;
        for (name, Summary { median, min, max }) in series {
            writeln!(f, "  {name:<44}{median:>11}{min:>11}{max:>11}")?;
        }
        for (name, ratio) in ratios.iter().filter(|(name, _)| !budgets.contains_key(*name)) {
            writeln!(f, "  {name:<44}{ratio:>11}")?;
        }
        writeln!(f, "  {:<44}{:>11}{:>11}", "budget", "measured", "at most")?;
        for (name, Budget { limit, measured, met }) in budgets {
            let verdict = if *met { "met" } else { "MISSED" };
            writeln!(f, "  {name:<44}{measured:>11}{limit:>11}  {verdict}")?;
        }
        for note in notes {
            writeln!(f, "  note: {note}")?;
        }
        writeln!(f, "  written to {}", self.file.display())
    }
}

fn summarise(samples: &[f64]) -> Option<Summary> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median =
        if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[middle - 1], sorted[middle]) } else { sorted[middle] };
    Some(Summary { median: rounded(median), min: rounded(min), max: rounded(max) })
}

/// Four places: finer than anything that is measured here.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// Where it was measured: as much as a reader needs to judge the figures, nothing that names the machine.
fn machine(before: f64) -> String {
    let cores = thread::available_parallelism().map_or(1, |n| n.get());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.trim().split(['-', '+']).next().unwrap_or_default().to_owned();
    let tailscaled = super::online::TAILSCALED;
    format!("{cores} cores, Linux {kernel}, {tailscaled}, load average {before} before and {} after", load())
}

/// The load average of the last minute.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_told_by_its_median_and_its_extremes() {
        let mut sheet = Sheet::new("test", "s");
        for value in [3.0, 1.0, 2.0, 10.0] {
            sheet.add("agent", value);
        }
        let Summary { median, min, max } = summarise(&sheet.samples["agent"]).expect("four runs");
        assert_eq!((median, min, max, sheet.runs), (2.5, 1.0, 10.0, 4));
    }

    #[test]
    fn a_ratio_is_of_medians_and_a_budget_includes_its_limit() {
        let mut sheet = Sheet::new("test", "s");
        for (agent, peer) in [(1.0, 2.0), (1.2, 2.0), (9.0, 2.0)] {
            sheet.add("agent", agent);
            sheet.add("peer", peer);
        }
        let (name, ratio) = sheet.ratio("agent", "peer");
        assert_eq!((name.as_str(), ratio), ("agent/peer", 0.6));
        sheet.budget(name, ratio, 0.6);
        sheet.budget("strict", ratio, 0.59);
        assert!(sheet.budgets["agent/peer"].met && !sheet.budgets["strict"].met);
    }

    #[test]
    fn a_series_without_runs_meets_no_budget() {
        let mut sheet = Sheet::new("test", "s");
        let (name, ratio) = sheet.ratio("agent", "peer");
        sheet.budget(name.clone(), ratio, 1.0);
        assert!(!sheet.budgets[&name].met);
    }

    #[test]
    fn the_file_has_what_was_measured_and_the_table_says_what_was_missed() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut sheet = Sheet::new("test", "ms");
        sheet.add("agent", 12.0);
        sheet.budget("agent", 12.0, 10.0);
        let saved = sheet.save(folder.path()).expect("written");
        let text = fs::read_to_string(folder.path().join("test.json")).expect("a file");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["series"]["agent"]["median"], 12.0);
        assert_eq!((&json["budgets"]["agent"]["met"], &json["runs"]), (&false.into(), &1.into()));
        assert!(saved.to_string().contains("MISSED"));
    }
}
