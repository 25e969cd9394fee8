//! Where things are: the workspace while building, the layout while running.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::image::Images;
use super::programs;

/// Holds the [`Layout`] as JSON for a story.
const VARIABLE: &str = "DEVBOX_LAB_LAYOUT";

/// Why the layout is not known.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Not started by the lab.
    #[error("failed to find the lab's programs: {VARIABLE} is not set; run stories with `cargo lab test`")]
    Unset,
    /// The variable does not hold a layout.
    #[error("failed to parse {VARIABLE}")]
    Malformed(#[source] serde_json::Error),
}

/// Where a running lab finds its programs and leaves its logs. Nothing in it depends on the source tree, so that a copy
/// elsewhere runs as well, under another user too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The lab's own program, which makes sandboxes.
    pub lab: PathBuf,
    /// The folder of tailscaled, tailscale, containerboot and headscale.
    pub programs: PathBuf,
    /// The agent under test.
    pub agent: PathBuf,
    /// The folder that takes the logs of this run.
    pub logs: PathBuf,
    /// What machines boot from; none where nobody may boot any.
    pub images: Option<Images>,
}

impl Layout {
    /// The layout that the runner passed to this story.
    pub fn from_environment() -> Result<Self, LayoutError> {
        let text = env::var(VARIABLE).map_err(|_| LayoutError::Unset)?;
        serde_json::from_str(&text).map_err(LayoutError::Malformed)
    }

    /// The variable that passes this layout to a story.
    pub fn to_environment(&self) -> Result<(&'static str, String), LayoutError> {
        Ok((VARIABLE, serde_json::to_string(self).map_err(LayoutError::Malformed)?))
    }

    /// The file that `program` stands for: the agent, one of the lab's programs, or one of the system's.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        let own = if program == "devbox-agent" { self.agent.clone() } else { self.programs.join(program) };
        if programs::is_program(&own) { Some(own) } else { programs::find(program) }
    }

    /// Makes the folder of the logs, without those of an earlier run.
    ///
    /// # Errors
    /// When an old log cannot be removed or the folder not be made.
    pub fn clear_logs(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.logs) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::create_dir_all(&self.logs),
        }
    }

    /// PATH within a machine: the lab's programs, the agent's folder, the system's.
    pub fn search_path(&self) -> String {
        let agent = self.agent.parent().unwrap_or(Path::new("/"));
        format!("{}:{}:{}", self.programs.display(), agent.display(), programs::SYSTEM_PATH)
    }
}

/// The source tree and its target folder.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
    lab: PathBuf,
}

impl Workspace {
    /// The workspace that this lab was built from.
    pub fn find() -> Self {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = package.parent().unwrap_or(package).to_path_buf();
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        let lab = root.join(target).join("lab");
        Self { root, lab }
    }

    /// The folder of the workspace's Cargo.toml.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder for everything that the lab makes: `target/lab`.
    pub fn lab(&self) -> &Path {
        &self.lab
    }

    /// The folder of the real programs.
    pub fn programs(&self) -> PathBuf {
        self.lab.join("bin")
    }

    /// The folder of a Go module that pins real programs.
    pub fn go_module(&self, name: &str) -> PathBuf {
        self.root.join("tests/tools").join(name)
    }

    /// The layout of a run whose logs go to `target/lab/log/NAME`.
    pub fn layout(&self, agent: PathBuf, name: &str) -> io::Result<Layout> {
        let lab = env::current_exe()?;
        Ok(Layout { lab, programs: self.programs(), agent, logs: self.lab.join("log").join(name), images: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(folder: &Path) -> Layout {
        Layout {
            lab: folder.join("devbox-lab"),
            programs: folder.join("bin"),
            agent: folder.join("devbox-agent"),
            logs: folder.join("log"),
            images: None,
        }
    }

    #[test]
    fn the_environment_carries_a_layout_unchanged() {
        let layout = layout(Path::new("/lab"));
        let (_, text) = layout.to_environment().expect("a layout is valid JSON");
        assert_eq!(serde_json::from_str::<Layout>(&text).expect("what was written can be read"), layout);
    }

    #[test]
    fn the_labs_own_program_wins_over_the_systems() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let layout = layout(folder.path());
        let system = layout.find("sh").expect("every system has a shell");
        std::fs::create_dir(&layout.programs).expect("an empty folder");
        std::fs::copy(&system, layout.programs.join("sh")).expect("a copy with its mode");
        assert_eq!(layout.find("sh"), Some(layout.programs.join("sh")));
        assert_eq!(layout.find("no-such-program"), None);
    }
}
