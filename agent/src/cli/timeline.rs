//! The boot as a picture: a bar a stage, on one scale.

use std::time::Duration;

use super::words;
use crate::clock::BootTime;
use crate::socket::document::{Boot, Stage};

/// How many cells the whole boot is wide: with name and time it fits 80 columns.
const WIDTH: u64 = 40;

/// How long the boot took until the node was online, from the start of its first stage; none when it was not yet.
pub fn online_after(boot: &Boot) -> Option<Duration> {
    Some(boot.online_ms?.since(start(boot)?))
}

/// Draws a line for each stage: its name, when and how long it ran, and the same in words.
pub fn draw(boot: &Boot) -> Vec<String> {
    let Some(start) = start(boot) else { return Vec::new() };
    let end = boot.stages.iter().map(end).chain(boot.online_ms).max().unwrap_or(start);
    let whole = end.0.saturating_sub(start.0).max(1);
    boot.stages.iter().map(|stage| line(stage, start, whole)).collect()
}

fn line(stage: &Stage, start: BootTime, whole: u64) -> String {
    let cells = |ms: u64| (u128::from(ms.min(whole)) * u128::from(WIDTH) / u128::from(whole)) as usize;
    // A stage that is too short to see still was there: at least one cell, within the picture.
    let from = cells(stage.start_ms.0.saturating_sub(start.0)).min(WIDTH as usize - 1);
    let to = cells(end(stage).0.saturating_sub(start.0)).max(from + 1);
    let bar = format!("{}{}", " ".repeat(from), "━".repeat(to - from));
    let name = crate::core::reason::printable(&stage.name, 12);
    let took = words::took(Duration::from_millis(stage.duration_ms));
    format!("{name:<10} {bar:<width$} {took:>8}", width = WIDTH as usize)
}

fn start(boot: &Boot) -> Option<BootTime> {
    boot.stages.iter().map(|stage| stage.start_ms).min()
}

fn end(stage: &Stage) -> BootTime {
    stage.start_ms + Duration::from_millis(stage.duration_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &str, start: u64, duration_ms: u64) -> Stage {
        Stage { name: name.into(), start_ms: BootTime(start), duration_ms }
    }

    #[test]
    fn stages_that_overlap_stand_above_each_other_on_one_scale() {
        let boot = Boot {
            stages: vec![stage("spec", 1000, 100), stage("daemon", 1000, 200), stage("join", 1200, 200)],
            online_ms: Some(BootTime(1400)),
        };
        assert_eq!(online_after(&boot), Some(Duration::from_millis(400)));
        assert_eq!(
            draw(&boot),
            [
                "spec       ━━━━━━━━━━                                 100 ms",
                "daemon     ━━━━━━━━━━━━━━━━━━━━                       200 ms",
                "join                           ━━━━━━━━━━━━━━━━━━━━   200 ms",
            ]
        );
    }

    #[test]
    fn the_shortest_stage_is_still_seen_even_at_the_very_end() {
        let boot = Boot { stages: vec![stage("spec", 0, 10_000), stage("login", 10_000, 0)], online_ms: None };
        let lines = draw(&boot);
        assert!(lines[1].contains('━'));
        assert_eq!(lines[0].chars().count(), lines[1].chars().count());
        assert_eq!(online_after(&boot), None);
    }

    #[test]
    fn numbers_without_sense_do_not_break_the_picture() {
        let boot = Boot {
            stages: vec![stage("spec", u64::MAX, u64::MAX), stage("join", 0, u64::MAX)],
            online_ms: Some(BootTime(5)),
        };
        assert_eq!(draw(&boot).len(), 2);
        assert!(draw(&Boot::default()).is_empty());
    }
}
