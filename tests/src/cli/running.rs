//! The record of a lab that stays: how another command line finds it.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use devbox_lab::tools::{Layout, Workspace};
use serde::{Deserialize, Serialize};

/// A running lab.
#[derive(Debug, Serialize, Deserialize)]
pub struct Running {
    /// The process that leads into its sandbox.
    pub leader: u32,
    /// Its programs.
    pub layout: Layout,
}

impl Running {
    /// Writes the record.
    pub fn save(&self, workspace: &Workspace) -> anyhow::Result<()> {
        let file = file(workspace);
        fs::create_dir_all(workspace.lab().join("run"))
            .with_context(|| format!("failed to create the folder of {}", file.display()))?;
        fs::write(&file, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("failed to write {}", file.display()))
    }

    /// Reads the record.
    pub fn load(workspace: &Workspace) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file(workspace))
            .context("failed to find a running lab: start one with `cargo lab up`")?;
        serde_json::from_str(&text)
            .context("failed to parse the record of the running lab: start one with `cargo lab up`")
    }

    /// Removes the record of a lab that has ended.
    pub fn remove(workspace: &Workspace) -> anyhow::Result<()> {
        let file = file(workspace);
        fs::remove_file(&file).with_context(|| format!("failed to remove {}", file.display()))
    }
}

fn file(workspace: &Workspace) -> PathBuf {
    workspace.lab().join("run/up.json")
}
