//! Counting: what passed and failed, and how long each suite took.

use std::process::ExitCode;
use std::time::Duration;

/// One suite's result.
#[derive(Debug, Clone, PartialEq)]
pub struct Suite {
    /// Its name.
    pub name: String,
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
    /// The time of its tests, one after the other.
    pub took: Duration,
}

/// All results of a run.
#[derive(Debug, Default)]
pub struct Tally {
    suites: Vec<Suite>,
}

impl Tally {
    /// Adds a suite; one of the same name is added to.
    pub fn add(&mut self, suite: Suite) {
        match self.suites.iter_mut().find(|known| known.name == suite.name) {
            Some(known) => {
                known.passed += suite.passed;
                known.failed += suite.failed;
                known.took += suite.took;
            }
            None => self.suites.push(suite),
        }
    }

    /// Passed and failed, over all suites.
    pub fn counts(&self) -> (usize, usize) {
        self.suites.iter().fold((0, 0), |(passed, failed), s| (passed + s.passed, failed + s.failed))
    }

    /// Prints each suite's time and the closing line; the exit code says whether all is well. A run of no test at all is a failure.
    pub fn close(&self) -> ExitCode {
        for line in self.lines() {
            println!("{line}");
        }
        let (passed, failed) = self.counts();
        let nothing = if passed + failed == 0 { ": nothing has that name" } else { "" };
        println!("{passed} passed, {failed} failed{nothing}");
        ExitCode::from(u8::from(failed > 0 || passed == 0))
    }

    fn lines(&self) -> Vec<String> {
        let width = self.suites.iter().map(|s| s.name.len()).max().unwrap_or(0);
        let line = |s: &Suite| {
            format!("{:width$}  {:4} passed  {:2} failed  {:6.1} s", s.name, s.passed, s.failed, s.took.as_secs_f64())
        };
        self.suites.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(name: &str, passed: usize, failed: usize) -> Suite {
        Suite { name: name.to_owned(), passed, failed, took: Duration::from_millis(1500) }
    }

    #[test]
    fn results_of_one_suite_add_up() {
        let mut tally = Tally::default();
        tally.add(suite("join", 1, 0));
        tally.add(suite("life", 2, 1));
        tally.add(suite("join", 3, 0));
        assert_eq!(tally.counts(), (6, 1));
        assert_eq!(tally.lines(), ["join     4 passed   0 failed     3.0 s", "life     2 passed   1 failed     1.5 s"]);
    }

    #[test]
    fn one_failure_or_nothing_at_all_fails_the_run() {
        let mut tally = Tally::default();
        assert_eq!(tally.close(), ExitCode::FAILURE);
        tally.add(suite("join", 1, 0));
        assert_eq!(tally.close(), ExitCode::SUCCESS);
        tally.add(suite("life", 0, 1));
        assert_eq!(tally.close(), ExitCode::FAILURE);
    }
}
