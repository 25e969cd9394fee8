//! How long each story took the last time, so that the slow ones start first.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::suites::Story;

/// Seconds by story.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Durations(BTreeMap<String, f64>);

impl Durations {
    /// What the last runs left; nothing when there is no readable record, as order is only a matter of speed.
    pub fn load(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Notes a story's time.
    pub fn note(&mut self, story: &Story, took: Duration) {
        self.0.insert(story.id(), took.as_secs_f64());
    }

    /// Writes the record.
    pub fn save(&self, file: &Path) -> io::Result<()> {
        fs::write(file, serde_json::to_vec_pretty(self)?)
    }

    /// Unknown stories first, then from slow to quick.
    pub fn order(&self, stories: &mut [Story]) {
        let time = |story: &Story| self.0.get(&story.id()).copied().unwrap_or(f64::INFINITY);
        stories.sort_by(|a, b| time(b).total_cmp(&time(a)).then_with(|| a.id().cmp(&b.id())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(name: &str) -> Story {
        Story { suite: "s".to_owned(), name: name.to_owned(), binary: "/b".into() }
    }

    #[test]
    fn unknown_then_slow_then_quick() {
        let mut durations = Durations::default();
        durations.note(&story("quick"), Duration::from_secs(1));
        durations.note(&story("slow"), Duration::from_secs(9));
        let mut stories = [story("quick"), story("slow"), story("new")];
        durations.order(&mut stories);
        assert_eq!(stories.map(|s| s.name), ["new", "slow", "quick"]);
    }

    #[test]
    fn a_record_survives_and_a_broken_one_is_as_good_as_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("durations.json");
        let mut durations = Durations::default();
        durations.note(&story("a"), Duration::from_millis(1500));
        durations.save(&file).expect("the folder is writable");
        assert_eq!(Durations::load(&file).0["s::a"], 1.5);
        fs::write(&file, "{").expect("the folder is writable");
        assert!(Durations::load(&file).0.is_empty());
    }
}
