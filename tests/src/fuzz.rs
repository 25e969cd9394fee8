//! `cargo fuzz` with what is pinned and where the lab keeps things.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::tools::{Cargo, Progress, Workspace};

/// cargo-fuzz's version.
const CARGO_FUZZ: &str = "0.13.2";

/// The fuzz target, and the name of its corpus.
const TARGET: &str = "helper_wire";

/// A little more than the longest request, so that what is too long is tried too.
const LENGTH_MAX: usize = 4200;

/// Fuzzes for this long, beginning with the corpus in the tree; returns whether nothing was found.
///
/// # Errors
/// When there is no nightly toolchain, or something cannot be built.
pub fn run(workspace: &Workspace, progress: &Progress, time: Duration) -> anyhow::Result<bool> {
    ensure!(
        has_nightly(),
        "failed to find a nightly toolchain, which the fuzzer needs: run rustup toolchain install nightly --profile minimal"
    );
    let subcommands = Cargo::new(workspace, progress).subcommand("cargo-fuzz", CARGO_FUZZ)?;
    let package = workspace.root().join("agent/fuzz");
    // The same dependencies as everything else; cargo adds the fuzzer's own.
    let lock = package.join("Cargo.lock");
    fs::copy(workspace.root().join("Cargo.lock"), &lock)
        .with_context(|| format!("failed to write {}", lock.display()))?;
    let found = workspace.lab().join("fuzz-corpus");
    fs::create_dir_all(&found).with_context(|| format!("failed to make {}", found.display()))?;
    let status = cargo_fuzz(&workspace.lab().join("fuzz"), &package, &found, time)
        .env("PATH", with(&subcommands)?)
        .status()
        .context("failed to run cargo fuzz")?;
    Ok(status.success())
}

fn cargo_fuzz(built: &Path, package: &Path, found: &Path, time: Duration) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "fuzz", "run", "--fuzz-dir"]).arg(package).arg("--target-dir").arg(built);
    // What is new goes into the first folder; the others are read.
    command.arg(TARGET).arg(found).arg(package.join("corpus").join(TARGET)).arg("--");
    command.arg(format!("-max_total_time={}", time.as_secs())).arg(format!("-max_len={LENGTH_MAX}"));
    command.stdin(Stdio::null());
    command
}

fn with(folder: &Path) -> anyhow::Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [folder.to_owned()].into_iter().chain(env::split_paths(&path));
    env::join_paths(folders).context("failed to put cargo-fuzz on PATH")
}

fn has_nightly() -> bool {
    let rustc = Command::new("rustup").args(["run", "nightly", "rustc", "--version"]).stdin(Stdio::null()).output();
    rustc.is_ok_and(|output| output.status.success())
}
