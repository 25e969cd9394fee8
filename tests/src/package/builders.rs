//! What builds packages, at pinned versions, in a folder of the lab's.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::tools::{Cargo, Needs, Progress, Workspace, install_missing, programs};

/// cargo's subcommands, by crate.
const CRATES: [(&str, &str); 2] = [("cargo-zigbuild", "0.24.1"), ("cargo-deb", "3.8.0")];

/// zig, which comes with the symbols of every glibc: a package of PyPI, as it has no other registry.
const ZIG: &str = "0.13.0";

const NEEDS: &Needs = &[("python3", "python3"), ("pip3", "python3-pip")];

/// Where the tools are.
#[derive(Debug)]
pub struct Tools {
    folder: PathBuf,
    subcommands: Vec<PathBuf>,
}

impl Tools {
    /// The variables that let cargo find its subcommands, and these zig.
    pub fn environment(&self) -> anyhow::Result<Vec<(&'static str, OsString)>> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = self.subcommands.iter().cloned().chain(env::split_paths(&path));
        Ok(vec![
            ("PATH", env::join_paths(folders).context("failed to put the tools on PATH")?),
            ("CARGO_ZIGBUILD_ZIG_PATH", self.zig().into()),
            ("CARGO_ZIGBUILD_CACHE_DIR", self.folder.join("zigbuild-cache").into()),
        ])
    }

    fn of_zig(&self) -> PathBuf {
        self.folder.join(format!("ziglang-{ZIG}"))
    }

    fn zig(&self) -> PathBuf {
        self.of_zig().join("ziglang/zig")
    }
}

/// Installs what is not there yet.
pub fn ensure(workspace: &Workspace, progress: &Progress) -> anyhow::Result<Tools> {
    let cargo = Cargo::new(workspace, progress);
    let subcommands = CRATES.iter().map(|(name, version)| cargo.subcommand(name, version));
    let tools = Tools { folder: workspace.lab().join("tools"), subcommands: subcommands.collect::<Result<_, _>>()? };
    if !programs::is_program(&tools.zig()) {
        install_missing(progress, NEEDS)?;
        let step = progress.step(format!("installing ziglang {ZIG}"));
        let installed = install_zig(&tools.of_zig());
        step.end(if installed.is_ok() { "done" } else { "failed" });
        installed?;
    }
    Ok(tools)
}

/// Into a folder of its own, so that neither root's nor the system's Python is touched. What a broken download left is removed first.
fn install_zig(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("failed to remove {}", folder.display()))?;
    }
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--target"])
        .arg(folder)
        .arg(format!("ziglang=={ZIG}"))
        .stdin(Stdio::null())
        .output()
        .context("failed to run python3")?;
    ensure!(
        output.status.success(),
        "failed to install ziglang: pip said: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
