//! Which stories a suite's binary holds.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::tools::Artifact;

/// The suites whose machines boot, which only root can have.
const BOOTING: [&str; 1] = ["boot"];

/// The suite whose stories run programs that are not on every machine.
const EXEC: &str = "exec";

/// One story: a `#[test]` function of a suite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    /// The suite: the name of its file.
    pub suite: String,
    /// The function's path within the suite.
    pub name: String,
    /// The suite's binary.
    pub binary: PathBuf,
}

impl Story {
    /// The story's name among all suites.
    pub fn id(&self) -> String {
        format!("{}::{}", self.suite, self.name)
    }

    /// Whether its machines boot: it then needs root, and an image.
    pub fn boots(&self) -> bool {
        BOOTING.contains(&self.suite.as_str())
    }

    /// Whether it runs commands by `exec`: it then needs more programs than others.
    pub fn execs(&self) -> bool {
        self.suite == EXEC
    }

    /// The folder of its logs, under the run's.
    pub fn folder(&self) -> PathBuf {
        PathBuf::from(&self.suite).join(self.name.replace("::", "."))
    }
}

/// Asks a suite's binary for its stories.
pub fn list(suite: &Artifact) -> anyhow::Result<Vec<Story>> {
    let binary = suite.file.display();
    let output = Command::new(&suite.file)
        .args(["--list", "--format", "terse"])
        .output()
        .with_context(|| format!("failed to run {binary}"))?;
    ensure!(
        output.status.success(),
        "failed to list the stories of {binary}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names = names(&String::from_utf8_lossy(&output.stdout));
    Ok(names.into_iter().map(|name| Story { suite: suite.name.clone(), name, binary: suite.file.clone() }).collect())
}

/// The names in libtest's terse list: `name: test` a line.
fn names(list: &str) -> Vec<String> {
    list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn benchmarks_and_chatter_are_no_stories() {
        assert_eq!(names("a_box_joins: test\nsub::b: test\nfast: benchmark\n\n2 tests\n"), ["a_box_joins", "sub::b"]);
    }

    #[test]
    fn a_storys_logs_are_in_one_folder() {
        let story = Story { suite: "join".to_owned(), name: "sub::b".to_owned(), binary: "/b".into() };
        assert_eq!((story.id().as_str(), story.folder()), ("join::sub::b", PathBuf::from("join/sub.b")));
    }
}
