//! The Debian package: the binary for old systems, its manual, its completions, and what holds all of it to account.

mod builders;
mod completions;
mod manual;
mod symbols;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::tools::{self, Cargo, Images, Progress, Workspace};
use symbols::Linkage;

/// The oldest glibc that the binary runs with: that of Debian 11 and Ubuntu 20.04. The package's `Depends` says the same.
const GLIBC: symbols::Version = symbols::Version { major: 2, minor: 31 };

/// The largest binary, in bytes: it goes into every image.
const SIZE_MAX: u64 = 5_000_000;

/// What a package is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
}

impl Architecture {
    /// This machine's.
    pub const OWN: Self = if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 };

    /// Debian's name.
    fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Rust's target.
    fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }
}

/// A package that was built.
#[derive(Debug, Clone)]
pub struct Package {
    /// The `.deb`.
    pub file: PathBuf,
    /// The newest glibc that its binary asks for.
    pub glibc: symbols::Version,
    /// The binary's size, in bytes.
    pub size: u64,
}

/// Builds the package, and what it is built with; nothing is done again that has not changed but the last step, which takes seconds.
///
/// # Errors
/// When something cannot be built, or the binary is too large or asks for a newer glibc.
pub fn build(workspace: &Workspace, progress: &Progress, architecture: Architecture) -> anyhow::Result<Package> {
    let tools = builders::ensure(workspace, progress).context("failed to prepare the tools that build packages")?;
    let cargo = Cargo::new(workspace, progress).with_environment(tools.environment()?);
    let binary = binary(&cargo, architecture)?;
    let (glibc, size) = judge(&binary).with_context(|| format!("failed to accept {}", binary.display()))?;
    // cargo-deb looks for what stands under target/release in its manifest beside the binary, wherever that is.
    let beside = binary.parent().unwrap_or(Path::new("."));
    write_documents(&beside.join("package")).context("failed to write the manual and the completions")?;
    let file = pack(workspace, &cargo, architecture)?;
    Ok(Package { file, glibc, size })
}

/// Makes what machines boot from, with `package` installed, or with one that is built. Needs root.
///
/// # Errors
/// When something cannot be built or installed.
pub fn images(workspace: &Workspace, progress: &Progress, package: Option<PathBuf>) -> anyhow::Result<Images> {
    let file = package.map_or_else(|| build(workspace, progress, Architecture::OWN).map(|built| built.file), Ok)?;
    tools::prepare_images(workspace, progress, &file).context("failed to make the images of machines that boot")
}

fn binary(cargo: &Cargo<'_>, architecture: Architecture) -> anyhow::Result<PathBuf> {
    let target = format!("{}.{GLIBC}", architecture.target());
    let arguments =
        ["zigbuild", "--release", "--package", "devbox-agent", "--bin", "devbox-agent", "--target", &target];
    Ok(cargo.binary("building the agent for its package (minutes, the first time)", &arguments)?)
}

/// The newest glibc that the binary asks for, and its size.
fn judge(binary: &Path) -> anyhow::Result<(symbols::Version, u64)> {
    let bytes = fs::read(binary)?;
    let linkage = Linkage::of(&bytes)?;
    ensure!(
        linkage.libraries.iter().all(|library| symbols::is_glibc(library)),
        "it is linked with {}: the package depends on glibc alone",
        linkage.libraries.join(", ")
    );
    ensure!(linkage.glibc <= GLIBC, "it asks for glibc {}: the package promises {GLIBC}", linkage.glibc);
    let size = bytes.len() as u64;
    ensure!(size <= SIZE_MAX, "it has {size} bytes, {SIZE_MAX} are the most");
    Ok((linkage.glibc, size))
}

fn write_documents(folder: &Path) -> anyhow::Result<()> {
    // Without the pages of verbs that are gone.
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    manual::write(&folder.join("man"))?;
    completions::write(&folder.join("completions"))
}

fn pack(workspace: &Workspace, cargo: &Cargo<'_>, architecture: Architecture) -> anyhow::Result<PathBuf> {
    let folder = workspace.lab().join("deb");
    let version = env!("CARGO_PKG_VERSION");
    let file = folder.join(format!("devbox-agent_{version}_{}.deb", architecture.name()));
    fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let target = architecture.target();
    let fixed = ["deb", "--no-build", "--no-strip", "--package", "devbox-agent", "--target", target, "--output"];
    let mut arguments: Vec<OsString> = fixed.iter().map(OsString::from).collect();
    arguments.push(file.clone().into());
    cargo.carry_out("packing", &arguments)?;
    Ok(file)
}
