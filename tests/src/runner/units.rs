//! Holds the shipped systemd units to systemd's own judgement: they load without a complaint, and are exposed as little as was meant.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, ensure};

use super::tally::{Suite, Tally};
use crate::tools::{Needs, Progress, Workspace, install_missing};

const NEEDS: &Needs = &[("systemd-analyze", "systemd")];

/// Where packages install units.
const UNITS: &str = "usr/lib/systemd/system";

/// The most that `systemd-analyze security` may find, in tenths: 10 of its 10 points are no protection at all. What is left of the daemon's
/// is that it speaks to the network, of the helper's that it is root.
pub const EXPOSURE: [(&str, u8); 2] = [("devbox-agent.service", 12), ("devbox-agent-helper.service", 7)];

/// Directives that a systemd of this lab may be too old for: it goes on without them, and says so.
const NEWER: [&str; 1] = ["ImportCredential"];

/// Programs that the units start without allowing for their absence.
const PROGRAMS: [&str; 3] = ["usr/bin/devbox-agent", "usr/bin/touch", "usr/sbin/tailscaled"];

/// What the drop-in for tailscaled is a drop-in to.
const TAILSCALED: &str = "[Service]\nType=notify\nExecStart=/usr/sbin/tailscaled\nRuntimeDirectory=tailscale\n";

/// Judges every unit, printing the complaints, and counts the verdicts.
pub fn run(workspace: &Workspace, progress: &Progress, tally: &mut Tally) -> anyhow::Result<()> {
    install_missing(progress, NEEDS)?;
    let step = progress.step("units");
    let shipped = workspace.root().join("systemd/system");
    let root = tempfile::tempdir().context("failed to make a folder for the units")?;
    lay_out(&shipped, root.path()).context("failed to lay out the units as installed")?;
    let mut verdicts = Vec::new();
    for unit in names(&shipped)? {
        let output = analyze(&["verify", "--man=no", "--root"], &[root.path(), Path::new(&unit)])?;
        verdicts.push((format!("verify {unit}"), complaints(&output)));
    }
    for (unit, most) in EXPOSURE {
        let threshold = format!("--threshold={most}");
        let output = analyze(&["security", "--offline=true", "--no-pager", &threshold], &[&shipped.join(unit)])?;
        let exposed = (!output.status.success()).then(|| text(&output));
        verdicts.push((format!("security {unit}, at most {:.1}", f32::from(most) / 10.0), exposed.unwrap_or_default()));
    }
    let failed = verdicts.iter().filter(|(_, complaint)| !complaint.is_empty()).count();
    let took = step.end(if failed == 0 { "passed" } else { "failed" });
    for (what, complaint) in verdicts.iter().filter(|(_, complaint)| !complaint.is_empty()) {
        println!("--- units failed: {what}\n{complaint}");
    }
    tally.add(Suite { name: "units".to_owned(), passed: verdicts.len() - failed, failed, took });
    Ok(())
}

/// Makes `root` hold the units of this system, which ours refer to, ours, and the programs they start.
fn lay_out(shipped: &Path, root: &Path) -> anyhow::Result<()> {
    let units = root.join(UNITS);
    fs::create_dir_all(&units)?;
    for source in [&Path::new("/").join(UNITS), shipped] {
        // With links as links and drop-ins in their folders.
        let copied = Command::new("cp").arg("-a").arg(source.join(".")).arg(&units).output()?;
        ensure!(copied.status.success(), "failed to copy {}: {}", source.display(), text(&copied));
    }
    fs::write(units.join("tailscaled.service"), TAILSCALED)?;
    for program in PROGRAMS {
        let file = root.join(program);
        fs::create_dir_all(file.parent().unwrap_or(root))?;
        OpenOptions::new().create(true).append(true).mode(0o755).open(file)?;
    }
    Ok(())
}

/// The units to verify: ours, and the one that we add to.
fn names(shipped: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = vec!["tailscaled.service".to_owned()];
    for entry in fs::read_dir(shipped).with_context(|| format!("failed to read {}", shipped.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn analyze(options: &[&str], operands: &[&Path]) -> anyhow::Result<Output> {
    Command::new("systemd-analyze")
        .args(options)
        .args(operands)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .context("failed to run systemd-analyze")
}

/// What was said, but for directives that are newer than the one who says it. The exit code alone would not do: it is 0 for a value that
/// cannot be parsed.
fn complaints(output: &Output) -> String {
    let said = text(output);
    let newer =
        |line: &&str| NEWER.iter().any(|key| line.contains(&format!("Unknown key '{key}' in section [Service]")));
    let lines: Vec<&str> = said.lines().filter(|line| !newer(line)).collect();
    match (lines.is_empty(), output.status.success()) {
        (true, false) => output.status.to_string(),
        _ => lines.join("\n"),
    }
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn said(code: i32, stderr: &str) -> Output {
        Output { status: ExitStatus::from_raw(code << 8), stdout: Vec::new(), stderr: stderr.into() }
    }

    #[test]
    fn a_directive_that_is_too_new_is_no_complaint_and_any_other_is() {
        let newer = "a.service:3: Unknown key 'ImportCredential' in section [Service], ignoring.\n";
        assert_eq!(complaints(&said(0, newer)), "");
        let misspelt = "a.service:4: Unknown key 'ImportCredentials' in section [Service], ignoring.";
        assert_eq!(complaints(&said(0, &format!("{newer}{misspelt}\n"))), misspelt);
    }

    #[test]
    fn a_failure_without_words_is_a_complaint() {
        assert_eq!(complaints(&said(1, "")), "exit status: 1");
    }
}
