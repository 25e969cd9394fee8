//! What cargo alone can check: formatting, lints, unit, property and process tests.

use super::tally::{Suite, Tally};
use crate::tools::{Cargo, CargoError, Progress, Ran, Workspace};

/// A check with one verdict, or a run of libtest with many.
struct Check {
    name: &'static str,
    arguments: &'static [&'static str],
}

const CHECKS: [Check; 3] = [
    Check { name: "formatting", arguments: &["fmt", "--all", "--check"] },
    Check { name: "clippy", arguments: &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"] },
    Check { name: "unit", arguments: &["test", "--workspace", "--lib", "--no-fail-fast"] },
];

/// Runs all checks, printing the output of those that fail, and counts their results.
pub fn run(workspace: &Workspace, progress: &Progress, tally: &mut Tally) -> Result<(), CargoError> {
    let cargo = Cargo::new(workspace, progress);
    for check in CHECKS {
        let step = progress.step(check.name);
        let ran = cargo.run(&step, check.arguments)?;
        let (passed, failed) = count(&ran);
        let took = step.end(if failed == 0 { "passed" } else { "failed" });
        if failed > 0 {
            println!("--- {} failed: cargo {}\n{}{}", check.name, check.arguments.join(" "), ran.stderr, ran.stdout);
        }
        tally.add(Suite { name: check.name.to_owned(), passed, failed, took });
    }
    Ok(())
}

/// Sums libtest's result lines. A run without any counts as one verdict, and one that failed without naming a failed test
/// (it did not compile, or a test binary died) as one more failure.
fn count(ran: &Ran) -> (usize, usize) {
    let results: Vec<_> = ran.stdout.lines().filter_map(result_line).collect();
    let (passed, failed) = results.iter().fold((0, 0), |(p, f), (passed, failed)| (p + passed, f + failed));
    match (ran.status.success(), results.is_empty()) {
        (true, true) => (1, 0),
        (true, false) => (passed, failed),
        (false, _) => (passed, failed.max(1)),
    }
}

/// `test result: ok. 3 passed; 1 failed; …`
fn result_line(line: &str) -> Option<(usize, usize)> {
    let rest = line.strip_prefix("test result: ")?;
    let number =
        |word: &str| rest.split(['.', ';']).find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok());
    Some((number("passed")?, number("failed")?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn ran(code: i32, stdout: &str) -> Ran {
        Ran { status: ExitStatus::from_raw(code << 8), stdout: stdout.to_owned(), stderr: String::new() }
    }

    #[test]
    fn result_lines_of_all_binaries_are_summed() {
        let out = "test a ... ok\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
                   test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n";
        assert_eq!(count(&ran(101, out)), (5, 1));
    }

    #[test]
    fn a_check_without_tests_is_one_verdict() {
        assert_eq!(count(&ran(0, "")), (1, 0));
        assert_eq!(count(&ran(1, "Diff in x.rs")), (0, 1));
    }

    #[test]
    fn a_test_binary_that_dies_is_a_failure() {
        assert_eq!(count(&ran(101, "test result: ok. 3 passed; 0 failed; 0 ignored;\n")), (3, 1));
    }
}
