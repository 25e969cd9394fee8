//! Running cargo: the agent, the suites' binaries, the checks.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use serde::Deserialize;

use super::layout::Workspace;
use super::programs;
use super::progress::{Progress, Step};

/// Why cargo did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CargoError {
    /// cargo could not be run.
    #[error("failed to run cargo")]
    Run(#[source] io::Error),
    /// cargo refused.
    #[error("failed to run cargo {command}: it said:\n{said}")]
    Refused {
        /// Its arguments.
        command: String,
        /// Its standard error.
        said: String,
    },
    /// No binary was named in cargo's messages.
    #[error("failed to find the binary that cargo {0} built")]
    NoBinary(String),
}

/// How the agent is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build; what the tests run.
    Dev,
    /// As it is shipped; what is measured.
    Release,
}

/// A binary that cargo built.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// The target's name.
    pub name: String,
    /// The file.
    pub file: PathBuf,
}

/// What a run of cargo left.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// cargo in this workspace.
#[derive(Debug)]
pub struct Cargo<'a> {
    workspace: &'a Workspace,
    progress: &'a Progress,
    environment: Vec<(&'static str, OsString)>,
}

/// The part of cargo's JSON messages that is of use (cargo book, "External tools").
#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

impl<'a> Cargo<'a> {
    /// cargo as it built this lab.
    pub fn new(workspace: &'a Workspace, progress: &'a Progress) -> Self {
        Self { workspace, progress, environment: Vec::new() }
    }

    /// With variables of its own, beside this process's.
    pub fn with_environment(self, environment: Vec<(&'static str, OsString)>) -> Self {
        Self { environment, ..self }
    }

    /// Builds the agent and returns its file.
    pub fn agent(&self, profile: Profile) -> Result<PathBuf, CargoError> {
        let arguments: &[&str] = match profile {
            // With both packages selected, the dependencies have the features that this program was built with: once is enough.
            Profile::Dev => &["build", "--workspace", "--bin", "devbox-agent"],
            Profile::Release => &["build", "--release", "--package", "devbox-agent", "--bin", "devbox-agent"],
        };
        self.binary("building the agent", arguments)
    }

    /// Builds one binary and returns its file.
    pub fn binary(&self, what: &str, arguments: &[&str]) -> Result<PathBuf, CargoError> {
        let built = self.build(what, arguments, "bin")?;
        built.into_iter().next().map(|artifact| artifact.file).ok_or_else(|| CargoError::NoBinary(arguments.join(" ")))
    }

    /// Runs cargo as a step of its own.
    pub fn carry_out(&self, what: &str, arguments: &[OsString]) -> Result<Ran, CargoError> {
        let step = self.progress.step(what);
        let ran = self.run(&step, arguments)?;
        step.end(if ran.status.success() { "done" } else { "failed" });
        if ran.status.success() {
            return Ok(ran);
        }
        let words: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
        Err(CargoError::Refused { command: words.join(" "), said: ran.stderr })
    }

    /// A subcommand of cargo at a pinned version, in a folder of the lab's; installed when it is not there. Returns the folder to put on PATH.
    pub fn subcommand(&self, name: &str, version: &str) -> Result<PathBuf, CargoError> {
        let root = self.workspace.lab().join("tools").join(format!("{name}-{version}"));
        let folder = root.join("bin");
        if !programs::is_program(&folder.join(name)) {
            let crate_name = format!("{name}@{version}");
            let arguments = ["install", "--locked", "--quiet", &crate_name, "--root"].map(OsString::from);
            self.carry_out(&format!("installing {crate_name}"), &[&arguments[..], &[root.into_os_string()]].concat())?;
        }
        Ok(folder)
    }

    /// Builds the suites and returns their binaries.
    pub fn suites(&self) -> Result<Vec<Artifact>, CargoError> {
        self.build("building the suites", &["test", "--no-run", "--workspace", "--test", "*"], "test")
    }

    /// Runs cargo, showing what it is at, and returns what it said.
    pub fn run(&self, step: &Step, arguments: &[impl AsRef<OsStr>]) -> Result<Ran, CargoError> {
        let mut child = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.workspace.root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(CargoError::Run)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (stdout, stderr) = thread::scope(|scope| {
            let stdout = scope.spawn(|| stdout.map(read).transpose());
            let stderr = stderr.map(|pipe| follow(BufReader::new(pipe), step)).transpose();
            match stdout.join() {
                Ok(stdout) => Ok::<_, io::Error>((stdout?.unwrap_or_default(), stderr?.unwrap_or_default())),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
        .map_err(CargoError::Run)?;
        let status = child.wait().map_err(CargoError::Run)?;
        Ok(Ran { status, stdout, stderr })
    }

    fn build(&self, what: &str, arguments: &[&str], kind: &str) -> Result<Vec<Artifact>, CargoError> {
        let arguments: Vec<_> =
            arguments.iter().chain(&["--message-format=json-render-diagnostics"]).map(OsString::from).collect();
        Ok(artifacts(&self.carry_out(what, &arguments)?.stdout, kind))
    }
}

/// The binaries of one kind of target in cargo's messages.
fn artifacts(messages: &str, kind: &str) -> Vec<Artifact> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.reason == "compiler-artifact")
        .filter_map(|message| {
            let target = message.target.filter(|target| target.kind.iter().any(|k| k == kind))?;
            Some(Artifact { name: target.name, file: message.executable? })
        })
        .collect()
}

fn read(mut pipe: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Shows each line as the step's note, and returns them all.
fn follow(mut lines: impl BufRead, step: &Step) -> io::Result<String> {
    let mut all = String::new();
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        step.note(text.trim());
        all.push_str(&text);
        line.clear();
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::artifacts;

    #[test]
    fn only_binaries_of_the_asked_kind_count() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"join","kind":["test"]},"executable":"/t/join-1"}
{"reason":"compiler-artifact","target":{"name":"devbox-lab","kind":["bin"]},"executable":"/t/devbox-lab"}
{"reason":"compiler-artifact","target":{"name":"devbox_lab","kind":["lib"]},"executable":null}
not json
{"reason":"build-finished","success":true}"#;
        let found = artifacts(messages, "test");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].file.to_str()), ("join", Some("/t/join-1")));
    }
}
