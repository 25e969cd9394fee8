//! A job's machine, and what an ordinary user runs on it with `exec`.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use devbox_lab::devbox::{Devbox, Said};
use devbox_lab::machine::sandbox::exit_code;
use devbox_lab::machine::{Machine, ORDINARY, Process, eventually};
use devbox_lab::scene::Scene;
use devbox_lab::witness::{Left, TOKENS};
use nix::unistd::Pid;

use crate::tree;

/// How long what belongs to a run may outlive it: 60 ms when the machine is idle, and a busy kernel takes its time to take interfaces down.
const GONE: Duration = Duration::from_secs(10);
/// Far more than a run takes to get anywhere.
pub const LIMIT: Duration = Duration::from_secs(100);
/// Where a story puts files of its own.
pub const OWN: &str = "/var/lib/story";
/// Folders of a machine that are its own.
const FOLDERS: [&str; 3] = ["/run", "/etc", "/var/lib"];

/// A runner of the platform's; the agent is installed on it and does not run.
pub struct Job<'a> {
    runner: Devbox<'a>,
    before: Traces,
}

impl<'a> Deref for Job<'a> {
    type Target = Devbox<'a>;

    fn deref(&self) -> &Devbox<'a> {
        &self.runner
    }
}

impl<'a> Job<'a> {
    /// Makes the machine `name`, whose nodes are to be `tag:ci`.
    pub async fn new(scene: &'a Scene, name: &str) -> Result<Self> {
        let job = Self::in_container(scene, name).await?;
        // One that nothing covers, in a folder that every system has and nobody uses.
        let mut mount = job.machine.command("mount");
        mount.args(["-t", "proc", "proc", "/mnt"]);
        let mounted = job.machine.exec(mount).await?;
        ensure!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        let before = Traces::of(&job.machine).await?;
        Ok(Self { before, ..job })
    }

    /// The same for a job whose platform is somebody else's, and whose tokens are about `subject`.
    pub async fn elsewhere(scene: &'a Scene, name: &str, subject: &str) -> Result<Self> {
        Self::on(Devbox::elsewhere(scene, name, subject, "")?).await
    }

    /// The same as in a container: the machine's /proc is masked in part, as its boot id is its own, and the kernel then lets nobody without power
    /// over the machine mount another.
    pub async fn in_container(scene: &'a Scene, name: &str) -> Result<Self> {
        Self::on(Devbox::runner(scene, name)?).await
    }

    async fn on(runner: Devbox<'a>) -> Result<Self> {
        // mount(8) makes this folder.
        runner.machine.root().write("/run/mount/utab", "")?;
        let users = format!("root:x:0:0::/root:/bin/sh\nci:x:{ORDINARY}:{ORDINARY}::/run/home:/bin/sh\n");
        runner.machine.root().write("/etc/passwd", users)?;
        let before = Traces::of(&runner.machine).await?;
        Ok(Self { runner, before })
    }

    /// Writes a file of the story's, and returns its path on the machine.
    pub fn write(&self, name: &str, contents: &str) -> Result<String> {
        let path = format!("{OWN}/{name}");
        self.machine.root().write(&path, contents).with_context(|| format!("failed to write {path}"))?;
        Ok(path)
    }

    /// Writes a shell's script that stands for a program, and returns its path.
    pub fn program(&self, name: &str, script: &str) -> Result<PathBuf> {
        let path = self.machine.root().path(self.write(&format!("bin/{name}"), &format!("#!/bin/sh\n{script}\n"))?);
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// A program, run by the user.
    pub fn command(&self, program: &str) -> Command {
        self.machine.ordinary(program)
    }

    /// `devbox-agent exec` with options, run by the user; what it is to run follows.
    pub fn exec(&self, options: &[&str], command: &[&str]) -> Command {
        with_exec(self.command("devbox-agent"), options, command)
    }

    /// The same, run by root.
    pub fn exec_by_root(&self, options: &[&str], command: &[&str]) -> Command {
        with_exec(self.machine.command("devbox-agent"), options, command)
    }

    /// Runs a command on a node of its own, to its end.
    pub async fn run(&self, options: &[&str], command: &[&str]) -> Result<Said> {
        self.say(self.exec(options, command)).await
    }

    /// The same for a shell's script, which must end with `code`; returns what it printed.
    pub async fn script(&self, options: &[&str], script: &str, code: u8) -> Result<String> {
        let said = self.run(options, &["bash", "-c", script]).await?;
        ensure!(said.code == code && said.talk.is_empty(), "{script}: not {code} without a word, but {said:?}");
        Ok(said.answer)
    }

    /// Runs what fails within exec itself; returns its line, which must have these words.
    pub async fn fails(&self, options: &[&str], words: &[&str]) -> Result<String> {
        told(&self.run(options, &["echo", "it runs"]).await?, 125, words)
    }

    /// The same in namespaces of the user's own, in which the user is root and a shell's script has done something first.
    pub async fn fails_after(&self, script: &str, options: &[&str], words: &[&str]) -> Result<String> {
        told(&self.say(self.exec_after(script, options, &["--", "echo", "it runs"])).await?, 125, words)
    }

    /// The same with `--check`.
    pub async fn check_fails_after(&self, script: &str, words: &[&str]) -> Result<String> {
        told(&self.say(self.exec_after(script, &["--check"], &[])).await?, 125, words)
    }

    fn exec_after(&self, script: &str, options: &[&str], command: &[&str]) -> Command {
        let mut root = self.machine.command("unshare");
        root.args(["--map-root-user", "--mount", "--", "sh", "-c", &format!("set -e; {script}; exec \"$@\""), "sh"]);
        root.arg(program(&self.machine, "devbox-agent")).arg("exec").args(options).args(command);
        root
    }

    /// Runs a line of the user's shell, in which `$0` is the agent; not by `exec`.
    pub async fn shell(&self, line: &str) -> Result<Said> {
        let mut shell = self.command("bash");
        shell.args(["-c", line]).arg(program(&self.machine, "devbox-agent"));
        self.say(shell).await
    }

    /// Starts a shell's script on a node of its own, and waits until it has printed `ready`.
    pub async fn start(&self, options: &[&str], script: &str) -> Result<Process> {
        let process = self.machine.spawn(self.exec(options, &["bash", "-c", script]))?;
        says(&process, "ready").await?;
        Ok(process)
    }

    /// The nodes of this machine's runs, which must soon be as many as given.
    pub async fn until_nodes(&self, count: usize) -> Result<()> {
        let look = || async { Ok((self.nodes().await?.len() == count).then_some(())) };
        eventually(&format!("{count} nodes"), LIMIT, look).await
    }

    /// Checks that nothing of any run is left on the machine, after at most [`GONE`].
    pub async fn is_clean(&self) -> Result<()> {
        let look = || async { Ok((self.machine.processes()?.is_empty() && tree::nested()?.is_empty()).then_some(())) };
        eventually("the end of every process", GONE, look).await.with_context(|| self.living())?;
        let after = Traces::of(&self.machine).await?;
        let left: Vec<_> = after.0.difference(&self.before.0).collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }

    fn living(&self) -> String {
        let line = |pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
        let all = [self.machine.processes().unwrap_or_default(), tree::nested().unwrap_or_default()].concat();
        let processes: BTreeSet<Pid> = all.into_iter().collect();
        format!("{:?}", processes.into_iter().map(|pid| format!("{pid}: {}", line(pid))).collect::<Vec<_>>())
    }

    /// Ends the story: nothing is left of any run, and no node. On a machine that is too busy to log one out within its second, control hears of
    /// it all the same, later.
    pub async fn close(self) -> Result<()> {
        self.until_nodes(0).await?;
        self.close_with(Left::Nothing).await
    }

    /// How many times longer than on an idle machine it takes now to take an interface down, and 1 at least: the kernel does that for one process at
    /// a time.
    pub async fn busyness(&self) -> Result<f64> {
        const IDLE: Duration = Duration::from_millis(100);
        let mut interface = self.machine.command("unshare");
        let line = "ip tuntap add mode tun t && ip tuntap del mode tun t";
        interface.args(["--map-root-user", "--net", "--", "sh", "-c", line]);
        let begun = Instant::now();
        let said = self.say(interface).await?;
        ensure!(said.code == 0, "{said:?}");
        Ok(begun.elapsed().div_duration_f64(IDLE).max(1.0))
    }

    /// The same with a node that nobody could log out.
    pub async fn close_with(self, left: Left) -> Result<()> {
        self.is_clean().await?;
        let reports = self.scene.platform.reports.all(&self.id).len();
        ensure!(reports == 0, "a run made {reports} reports of a machine that it is not");
        self.runner.close(left).await
    }
}

/// `devbox-agent exec` with options, and what it is to run.
pub fn with_exec(mut agent: Command, options: &[&str], command: &[&str]) -> Command {
    agent.arg("exec").args(options).arg("--").args(command);
    agent
}

/// The path of a program, for a shell.
pub fn program(machine: &Machine, name: &str) -> String {
    machine.command(name).get_program().to_string_lossy().into_owned()
}

/// Checks a failure: its code, and that it is one line with all these words; returns that line.
pub fn told(said: &Said, code: u8, words: &[&str]) -> Result<String> {
    let one = said.talk.lines().count() == 1 && said.answer.is_empty();
    let all = words.iter().all(|word| said.talk.contains(word));
    ensure!(said.code == code && one && all, "not {code} with one line of {words:?}, but {said:?}");
    Ok(said.talk.clone())
}

/// Waits until a process has written words to its log.
pub async fn says(process: &Process, words: &str) -> Result<()> {
    let look = || async {
        let log = process.log()?;
        ensure!(log.contains(words) || process.exit_status().is_none(), "it ended without {words:?}: {log}");
        Ok(log.contains(words).then_some(()))
    };
    eventually(words, LIMIT, look).await.with_context(|| process.log().unwrap_or_default())
}

/// Waits for the end of a process, and returns its exit code.
pub async fn code_of(process: &Process) -> Result<u8> {
    let ended = tokio::time::timeout(LIMIT, process.wait()).await;
    Ok(exit_code(ended.with_context(|| format!("it goes on: {}", process.log().unwrap_or_default()))??))
}

/// What a run could leave on a machine besides processes: mounts, which also keep namespaces, and files.
struct Traces(BTreeSet<String>);

impl Traces {
    async fn of(machine: &Machine) -> Result<Self> {
        let mut mounts = machine.command("cat");
        mounts.arg("/proc/self/mountinfo");
        let mounts = String::from_utf8(machine.exec(mounts).await?.stdout)?;
        let mut traces: BTreeSet<String> = mounts.lines().map(str::to_owned).collect();
        for folder in FOLDERS {
            list(&machine.root().path(folder), Path::new(folder), &mut traces)?;
        }
        Ok(Self(traces))
    }
}

/// Notes every file below a folder of the machine, by its path there, but for those of the story.
fn list(folder: &Path, path: &Path, into: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))? {
        let entry = entry?;
        let path = path.join(entry.file_name());
        if [OWN, TOKENS].iter().any(|own| path == Path::new(own)) {
            continue;
        }
        into.insert(path.display().to_string());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &path, into)?;
        }
    }
    Ok(())
}
