//! The real Tailscale and Headscale programs, built from pinned Go modules.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use super::layout::Workspace;
use super::programs;
use super::progress::{Progress, Step};

/// Lines of Go's output kept for the error message.
const KEPT_LINES: usize = 30;

/// A real program that the lab runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Tailscale's daemon.
    Tailscaled,
    /// Tailscale's command.
    Tailscale,
    /// Tailscale's container entry point, a peer in the bench.
    Containerboot,
    /// The control server.
    Headscale,
}

impl Program {
    /// What the demo and the tests run; containerboot is only for the bench.
    pub const USUAL: [Self; 3] = [Self::Tailscaled, Self::Tailscale, Self::Headscale];
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tailscaled, Self::Tailscale, Self::Containerboot, Self::Headscale];

    /// The file's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tailscaled => "tailscaled",
            Self::Tailscale => "tailscale",
            Self::Containerboot => "containerboot",
            Self::Headscale => "headscale",
        }
    }

    fn tree(self) -> &'static Tree {
        if self == Self::Headscale { &HEADSCALE } else { &TAILSCALE }
    }

    /// The arguments that make it print its version; containerboot has none.
    fn version_arguments(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Tailscaled => Some(&["--version"]),
            Self::Tailscale | Self::Headscale => Some(&["version"]),
            Self::Containerboot => None,
        }
    }
}

/// A Go module under `tests/tools` and what it pins.
#[derive(Debug)]
struct Tree {
    /// The folder under `tests/tools`.
    folder: &'static str,
    /// The module whose version counts.
    module: &'static str,
    /// Where that module has its commands.
    commands: &'static str,
    /// Whether the linker must be told the version: Tailscale's own release script does, and the version reads `ERR-BuildInfo` otherwise.
    stamped: bool,
}

const TAILSCALE: Tree =
    Tree { folder: "tailscale", module: "tailscale.com", commands: "tailscale.com/cmd", stamped: true };
const HEADSCALE: Tree = Tree {
    folder: "headscale",
    module: "github.com/juanfont/headscale",
    commands: "github.com/juanfont/headscale/cmd",
    stamped: false,
};

/// Why a program is not there.
#[derive(Debug, thiserror::Error)]
pub enum GoError {
    /// A file could not be read or written.
    #[error("failed to access {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// go.mod does not name the module's version.
    #[error("failed to find the version of {module} in {}", path.display())]
    NoVersion {
        /// The go.mod.
        path: PathBuf,
        /// The module.
        module: &'static str,
    },
    /// Go is not installed.
    #[error(
        "failed to find Go, which builds {0}: install it (https://go.dev/dl, 1.21 or later fetches the version it needs) and put `go` on PATH"
    )]
    NoGo(String),
    /// Go could not be run.
    #[error("failed to run go build")]
    Run(#[source] io::Error),
    /// Go refused.
    #[error("failed to build {what}: go said:\n{said}")]
    Refused {
        /// The programs.
        what: String,
        /// The end of its output.
        said: String,
    },
}

/// Sees to it that `programs` are in the lab's folder at their pinned versions: what is there already, else what PATH has, else built. The two
/// trees are built at the same time.
pub fn ensure(workspace: &Workspace, progress: &Progress, programs: &[Program]) -> Result<(), GoError> {
    let folder = workspace.programs();
    fs::create_dir_all(&folder).map_err(file_error(&folder))?;
    // Two labs started at once must not build into each other's files.
    let lock_path = folder.join(".lock");
    let lock = File::create(&lock_path).map_err(file_error(&lock_path))?;
    lock.lock().map_err(file_error(&lock_path))?;
    let of = |folder: &str| programs.iter().copied().filter(|p| p.tree().folder == folder).collect::<Vec<_>>();
    let (tailscale, headscale) = (of(TAILSCALE.folder), of(HEADSCALE.folder));
    thread::scope(|scope| {
        let other = scope.spawn(|| ensure_tree(workspace, progress, &HEADSCALE, &headscale));
        let built = ensure_tree(workspace, progress, &TAILSCALE, &tailscale);
        match other.join() {
            Ok(other) => built.and(other),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn ensure_tree(
    workspace: &Workspace,
    progress: &Progress,
    tree: &'static Tree,
    wanted: &[Program],
) -> Result<(), GoError> {
    let pin = Pin::read(workspace, tree)?;
    let folder = workspace.programs();
    let mut stale = Vec::new();
    for program in wanted {
        if !pin.is_current(&folder, *program) && !pin.adopt(&folder, *program)? {
            stale.push(*program);
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    let names = stale.iter().map(|p| p.name()).collect::<Vec<_>>().join(", ");
    let step = progress.step(format!("building {names} {} (minutes, the first time)", pin.version));
    let built = pin.build(&workspace.go_module(tree.folder), &folder, &stale, &step);
    step.end(if built.is_ok() { "done" } else { "failed" });
    built?;
    stale.into_iter().try_for_each(|program| pin.stamp(&folder, program))
}

/// What a tree asks for: the version, and everything a program built from it depends on.
#[derive(Debug)]
struct Pin {
    tree: &'static Tree,
    version: String,
    inputs: String,
}

impl Pin {
    fn read(workspace: &Workspace, tree: &'static Tree) -> Result<Self, GoError> {
        let folder = workspace.go_module(tree.folder);
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(file_error(&path))
        };
        let (go_mod, go_sum) = (read("go.mod")?, read("go.sum")?);
        let version = version_in(&go_mod, tree.module)
            .ok_or(GoError::NoVersion { path: folder.join("go.mod"), module: tree.module })?;
        let mut pin = Self { tree, version, inputs: String::new() };
        pin.inputs = format!("{}\n{go_mod}{go_sum}", pin.linker_flags());
        Ok(pin)
    }

    fn linker_flags(&self) -> String {
        let version = &self.version;
        if self.tree.stamped {
            format!("-s -w -X tailscale.com/version.shortStamp={version} -X tailscale.com/version.longStamp={version}")
        } else {
            "-s -w".to_owned()
        }
    }

    /// Built from these very inputs, or a link to a program that still has the right version.
    fn is_current(&self, folder: &Path, program: Program) -> bool {
        let file = folder.join(program.name());
        let stamped = fs::read_to_string(stamp_path(folder, program)).is_ok_and(|stamp| stamp == self.inputs);
        stamped && programs::is_program(&file) && (!file.is_symlink() || self.has_version(&file, program))
    }

    /// Links a program on PATH that has the right version.
    fn adopt(&self, folder: &Path, program: Program) -> Result<bool, GoError> {
        let Some(found) = programs::find(program.name()).filter(|file| self.has_version(file, program)) else {
            return Ok(false);
        };
        let link = folder.join(program.name());
        if link.symlink_metadata().is_ok() {
            fs::remove_file(&link).map_err(file_error(&link))?;
        }
        symlink(found, &link).map_err(file_error(&link))?;
        self.stamp(folder, program).map(|()| true)
    }

    fn has_version(&self, file: &Path, program: Program) -> bool {
        let Some(arguments) = program.version_arguments() else {
            return false;
        };
        let said = Command::new(file).args(arguments).stdin(Stdio::null()).output();
        said.is_ok_and(|output| {
            output.status.success() && says_version(&String::from_utf8_lossy(&output.stdout), &self.version)
        })
    }

    fn build(&self, module: &Path, folder: &Path, programs: &[Program], step: &Step) -> Result<(), GoError> {
        let what = programs.iter().map(|p| p.name()).collect::<Vec<_>>().join(", ");
        let go = programs::find("go").ok_or_else(|| GoError::NoGo(what.clone()))?;
        let mut child = Command::new(go)
            .args(["build", "-v", "-ldflags", &self.linker_flags(), "-o"])
            .arg(folder)
            .args(programs.iter().map(|p| format!("{}/{}", self.tree.commands, p.name())))
            .current_dir(module)
            .env("CGO_ENABLED", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(GoError::Run)?;
        let said =
            child.stderr.take().map(|stderr| follow(BufReader::new(stderr), step)).transpose().map_err(GoError::Run)?;
        if child.wait().map_err(GoError::Run)?.success() {
            return Ok(());
        }
        Err(GoError::Refused { what, said: said.unwrap_or_default() })
    }

    fn stamp(&self, folder: &Path, program: Program) -> Result<(), GoError> {
        let path = stamp_path(folder, program);
        fs::write(&path, &self.inputs).map_err(file_error(&path))
    }
}

/// Shows each line as the step's note and returns the last ones.
fn follow(lines: impl BufRead, step: &Step) -> io::Result<String> {
    let mut kept = VecDeque::with_capacity(KEPT_LINES);
    for line in lines.lines() {
        let line = line?;
        step.note(&line);
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(line);
    }
    Ok(Vec::from(kept).join("\n"))
}

/// The file that remembers what a program was built from.
fn stamp_path(folder: &Path, program: Program) -> PathBuf {
    folder.join(format!(".{}.stamp", program.name()))
}

/// The version of `module` in a go.mod, without its `v`; the `require` line may stand alone or in a block.
fn version_in(go_mod: &str, module: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        let (name, version) = (words.next()?, words.next()?);
        (name == module).then(|| version.strip_prefix('v').map(str::to_owned)).flatten()
    })
}

/// Whether a program's answer has `version` as a word of its own.
fn says_version(answer: &str, version: &str) -> bool {
    answer.split_whitespace().any(|word| word.strip_prefix('v').unwrap_or(word) == version)
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> GoError + use<> {
    let path = path.to_path_buf();
    |source| GoError::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_module_itself() {
        let block = "module x\n\nrequire (\n\ttailscale.com/other v9.9.9 // indirect\n\ttailscale.com v1.102.3 // indirect\n)\n";
        assert_eq!(version_in(block, "tailscale.com"), Some("1.102.3".to_owned()));
        assert_eq!(version_in("require tailscale.com v1.2.3\n", "tailscale.com"), Some("1.2.3".to_owned()));
        assert_eq!(version_in("module tailscale.com\n", "tailscale.com"), None);
    }

    #[test]
    fn only_the_whole_version_counts() {
        assert!(says_version("headscale version v0.29.2\ncommit: unknown", "0.29.2"));
        assert!(says_version("1.102.3\n  long version: 1.102.3-t1", "1.102.3"));
        assert!(!says_version("1.102.30", "1.102.3"));
        assert!(!says_version("1.102.3-ERR-BuildInfo", "1.102.3"));
    }

    #[test]
    fn the_pins_in_the_tree_name_their_versions() {
        for tree in [&TAILSCALE, &HEADSCALE] {
            let pin = Pin::read(&Workspace::find(), tree).expect("the pins are in the tree");
            assert!(pin.version.split('.').count() == 3, "{} is no release", pin.version);
        }
    }

    #[test]
    fn another_input_makes_a_program_stale() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut pin = Pin { tree: &HEADSCALE, version: "0.29.2".to_owned(), inputs: "a".to_owned() };
        let shell = programs::find("sh").expect("every system has a shell");
        fs::copy(shell, folder.path().join("headscale")).expect("any program will do");
        assert!(!pin.is_current(folder.path(), Program::Headscale));
        pin.stamp(folder.path(), Program::Headscale).expect("the folder is writable");
        assert!(pin.is_current(folder.path(), Program::Headscale));
        pin.inputs = "b".to_owned();
        assert!(!pin.is_current(folder.path(), Program::Headscale));
    }
}
