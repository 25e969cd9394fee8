//! Running the stories as another user, who can neither run cargo out of this user's home nor, it may be, open /dev/net/tun: from copies
//! in a world-readable folder.

use std::convert::Infallible;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

use super::stories::{self, Plan};
use super::suites::Story;
use super::tally::Tally;
use crate::machine::bind_own_node;
use crate::machine::sandbox::exit_code;
use crate::tools::{Layout, Progress};

/// The hidden verb that becomes another user and runs a plan.
pub const BECOME: &str = "as-user";
/// The hidden verb that runs a plan.
pub const RUN_PLAN: &str = "run-plan";

/// An error when this process could not become another user; before anything is built for one.
pub fn check_may_become(uid: u32) -> anyhow::Result<()> {
    ensure!(geteuid().is_root(), "failed to become user {uid}: `--as-user` needs root");
    Ok(())
}

/// Copies what the plan names and carries it out as `uid`. The folder is kept when something failed, for its logs.
pub fn run_as(plan: &Plan, uid: u32) -> anyhow::Result<ExitCode> {
    let folder =
        tempfile::Builder::new().prefix("devbox-lab-").tempdir().context("failed to create a folder for the copies")?;
    let copy = stage(plan, folder.path(), uid)
        .with_context(|| format!("failed to copy the lab's programs to {}", folder.path().display()))?;
    let file = folder.path().join("plan.json");
    serde_json::to_writer(File::create(&file)?, &copy)?;
    fs::set_permissions(&file, Permissions::from_mode(0o644))?;
    let status = Command::new(&copy.layout.lab)
        .arg(BECOME)
        .arg(uid.to_string())
        .arg(&file)
        .status()
        .context("failed to start the copied lab")?;
    if !status.success() {
        eprintln!("logs: {}", folder.keep().join("log").display());
    }
    Ok(ExitCode::from(exit_code(status)))
}

/// Becomes user `uid` in a mount namespace where /dev/net/tun is open to all, and runs the plan there: replaces this process.
pub fn become_user(uid: u32, plan: &Path) -> anyhow::Result<Infallible> {
    unshare(CloneFlags::CLONE_NEWNS).context("failed to make a mount namespace")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("failed to make mounts private")?;
    let device_folder = plan.parent().unwrap_or(Path::new("/")).join("device");
    bind_own_node(&device_folder)?;
    let lab = std::env::current_exe().context("failed to find the lab's own program")?;
    // With a uid, std also drops the supplementary groups.
    let error = Command::new(lab).arg(RUN_PLAN).arg(plan).current_dir("/").uid(uid).gid(uid).exec();
    Err(error).context(format!("failed to become user {uid}"))
}

/// Runs the plan in `file` and prints the results.
pub fn run_plan(file: &Path) -> anyhow::Result<ExitCode> {
    let text = fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
    let plan: Plan = serde_json::from_str(&text).with_context(|| format!("failed to parse {}", file.display()))?;
    let mut tally = Tally::default();
    stories::run(&plan, &Progress::new(), &mut tally)?;
    Ok(tally.close())
}

/// Copies every program of the plan into `folder`, and says where they are now. Logs and durations belong to the user.
fn stage(plan: &Plan, folder: &Path, uid: u32) -> anyhow::Result<Plan> {
    fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    let (programs, suites, logs, own) =
        (folder.join("bin"), folder.join("suites"), folder.join("log"), folder.join("own"));
    for folder in [&programs, &suites, &logs, &own] {
        fs::create_dir(folder)?;
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    }
    for folder in [&logs, &own] {
        chown(folder, Some(uid), Some(uid))?;
    }
    for entry in fs::read_dir(&plan.layout.programs)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            copy(&entry.path(), &programs)?;
        }
    }
    let durations = own.join("durations.json");
    if plan.durations.exists() {
        fs::copy(&plan.durations, &durations)?;
        chown(&durations, Some(uid), Some(uid))?;
    }
    let mut stories = Vec::with_capacity(plan.stories.len());
    for story in &plan.stories {
        stories.push(Story { binary: copy(&story.binary, &suites)?, ..story.clone() });
    }
    let layout =
        Layout { lab: copy(&plan.layout.lab, folder)?, agent: copy(&plan.layout.agent, &programs)?, programs, logs };
    Ok(Plan { layout, stories, durations, ..plan.clone() })
}

/// Copies a program into a folder, once, readable and executable by all.
fn copy(program: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let Some(name) = program.file_name() else { bail!("{} is no file", program.display()) };
    let to = folder.join(name);
    if !to.exists() {
        fs::copy(program, &to).with_context(|| format!("failed to copy {}", program.display()))?;
        fs::set_permissions(&to, Permissions::from_mode(0o755))?;
    }
    Ok(to)
}
