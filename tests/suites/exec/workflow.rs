//! A runner of GitHub Actions: does the steps of an action, and of a job that uses it, as GitHub's documentation has it.

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use devbox_lab::devbox::Said;
use serde::Deserialize;

use crate::job::{Job, OWN};

const ACTION: &str = include_str!("../../../packaging/github-action/action.yml");
const INSTALL: &str = include_str!("../../../packaging/github-action/install.sh");

#[derive(Deserialize)]
struct Action {
    inputs: HashMap<String, Input>,
    runs: Runs,
}

#[derive(Deserialize)]
struct Input {
    #[serde(default)]
    default: String,
}

#[derive(Deserialize)]
struct Runs {
    using: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    run: String,
    shell: String,
    env: HashMap<String, String>,
}

/// A job that uses the action, on a machine of its own.
pub struct Workflow<'a> {
    /// The machine.
    pub job: Job<'a>,
    /// What GitHub gives the job.
    environment: Vec<(String, String)>,
    /// The PATH of the runner's user.
    path: String,
}

impl<'a> Workflow<'a> {
    /// Checks the action out; its steps have `environment`, and find programs along `path`.
    pub fn begin(job: Job<'a>, environment: Vec<(String, String)>, path: &str) -> Result<Self> {
        let script = job.machine.root().path(job.write("action/install.sh", INSTALL)?);
        fs::set_permissions(script, Permissions::from_mode(0o755))?;
        for file in ["temp/kept", "path"] {
            job.write(file, "")?;
        }
        Ok(Self { job, environment, path: path.to_owned() })
    }

    /// Does `uses:` with inputs; gives what the last step of the action said.
    pub async fn uses(&self, with: &[(&str, &str)]) -> Result<Said> {
        let action: Action = serde_saphyr::from_str(ACTION)?;
        ensure!(action.runs.using == "composite" && !action.runs.steps.is_empty(), "the action does nothing");
        let known = with.iter().all(|(name, _)| action.inputs.contains_key(*name));
        ensure!(known, "the action has not all of these inputs: {with:?}");
        let mut said = None;
        for step in action.runs.steps {
            ensure!(step.shell == "bash", "no runner of every kind has {}", step.shell);
            let mut command = self.step(&step.run)?;
            for (name, value) in &step.env {
                command.env(name, evaluate(value, &action.inputs, with)?);
            }
            said = Some(self.job.say(command).await?);
        }
        said.context("the action has no step")
    }

    /// Does `run:`, a step of the job itself.
    pub async fn run(&self, script: &str) -> Result<Said> {
        self.job.say(self.step(script)?).await
    }

    /// A file of the story's, as it is now.
    pub fn read(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.job.machine.root().path(format!("{OWN}/{name}"))).with_context(|| name.to_owned())
    }

    /// A step's shell, as `shell: bash` names it, with what earlier steps have left for it.
    fn step(&self, script: &str) -> Result<Command> {
        let mut command = self.job.command("bash");
        command.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", script]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        for (name, file) in [("GITHUB_PATH", "path"), ("RUNNER_TEMP", "temp")] {
            command.env(name, Path::new(OWN).join(file));
        }
        command.env("GITHUB_ACTION_PATH", Path::new(OWN).join("action"));
        let added = self.read("path")?;
        command.env("PATH", added.lines().rev().chain([&self.path[..]]).collect::<Vec<_>>().join(":"));
        Ok(command)
    }
}

/// The value of an expression that names an input.
fn evaluate(text: &str, inputs: &HashMap<String, Input>, with: &[(&str, &str)]) -> Result<String> {
    let name = text.strip_prefix("${{ inputs.").and_then(|rest| rest.strip_suffix(" }}"));
    let name = name.with_context(|| format!("not the value of an input: {text}"))?;
    let input = inputs.get(name).with_context(|| format!("the action has no input {name}"))?;
    let given = with.iter().find(|(given, _)| *given == name);
    Ok(given.map_or_else(|| input.default.clone(), |(_, value)| (*value).to_owned()))
}
