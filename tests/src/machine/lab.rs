//! What a story gets: the sandbox it runs in, and machines in it.

use std::env;
use std::future::Future;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::cgroup::Branch;
use super::container::Booted;
use super::namespace::{Link, Machine, MachineError};
use super::sandbox;
use crate::tools::{Images, Layout};

/// Between two looks of [`eventually`]; short beside anything a story waits for.
const GLANCE: Duration = Duration::from_millis(10);

/// The lab inside a sandbox.
#[derive(Debug)]
pub struct Lab {
    layout: Layout,
    machines: AtomicUsize,
}

impl Lab {
    /// The lab of the sandbox that this process runs in.
    pub fn new(layout: Layout) -> Self {
        Self { layout, machines: AtomicUsize::new(0) }
    }

    /// Where programs and logs are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Makes a machine with the network up. Names are unique within a lab.
    pub fn machine(&self, name: &str) -> Result<Machine, MachineError> {
        self.machine_with(name, Link::Up)
    }

    /// Makes a machine whose network comes up late, or from the start.
    pub fn machine_with(&self, name: &str, link: Link) -> Result<Machine, MachineError> {
        Machine::create(&self.layout, self.next_index(), name, link)
    }

    /// Makes a machine that boots, switched off. Only in a story of a suite that needs root.
    pub fn booted(&self, name: &str) -> anyhow::Result<Booted> {
        Booted::create(&self.layout, self.next_index(), name, &self.images()?.stock)
    }

    /// The same with the agent installed from its package.
    pub fn baked(&self, name: &str) -> anyhow::Result<Booted> {
        Booted::create(&self.layout, self.next_index(), name, &self.images()?.baked)
    }

    /// The agent's package, for a machine that it is installed on by the story.
    pub fn package(&self) -> anyhow::Result<&Path> {
        Ok(&self.images()?.agent)
    }

    fn images(&self) -> anyhow::Result<&Images> {
        self.layout.images.as_ref().context("failed to find an image: this story's suite boots no machines")
    }

    fn next_index(&self) -> usize {
        self.machines.fetch_add(1, Ordering::Relaxed)
    }
}

/// Runs a verb of the lab inside a sandbox. Outside, `prepare` builds what is needed and says where it is, then this same command
/// line is started again in a sandbox, and its exit code passed on; inside, `work` runs. `announce` hears the process that
/// leads into the sandbox ([`enter_running`](super::enter_running)). With images in the layout, machines can boot in the sandbox.
pub fn inside<F>(
    prepare: impl FnOnce() -> anyhow::Result<Layout>,
    announce: impl FnOnce(u32, &Layout) -> anyhow::Result<()>,
    work: impl FnOnce(Lab) -> F,
) -> anyhow::Result<ExitCode>
where
    F: Future<Output = anyhow::Result<ExitCode>>,
{
    if sandbox::is_inside() {
        let lab = Lab::new(Layout::from_environment()?);
        return sandbox::runtime()?.block_on(work(lab));
    }
    let layout = prepare()?;
    let (variable, text) = layout.to_environment()?;
    // Dropped last, when the sandbox has ended.
    let branch = layout.images.as_ref().map(|_| Branch::for_sandbox(0)).transpose();
    let branch =
        branch.context("failed to make a control group: booted machines need root, and control groups of version 2")?;
    let mut command = match &branch {
        Some(branch) => sandbox::command_that_boots(&layout.lab, branch.path(), &layout.lab),
        None => sandbox::command(&layout.lab, &layout.lab),
    };
    command.args(env::args_os().skip(1)).env(variable, text);
    let mut child = command.spawn().context("failed to start a sandbox")?;
    announce(child.id(), &layout)?;
    let status = child.wait().context("failed to wait for the sandbox")?;
    Ok(ExitCode::from(sandbox::exit_code(status)))
}

/// Runs one story: the body of a `#[test]` function in `tests/suites/`. Panics, as libtest wants it, when the story fails or when it
/// was not started by `cargo lab test`, which gives each story a sandbox of its own.
pub fn story<F>(tell: impl FnOnce(Lab) -> F)
where
    F: Future<Output = anyhow::Result<()>>,
{
    assert!(sandbox::is_inside(), "run stories with `cargo lab test`");
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    let told = Layout::from_environment().map_err(anyhow::Error::from).and_then(|layout| {
        let runtime = sandbox::runtime()?;
        runtime.block_on(tell(Lab::new(layout)))
    });
    if let Err(error) = told {
        panic!("{error:?}");
    }
}

/// Looks until `look` finds something, and returns it; an error that names `what` after `limit`.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        tokio::time::sleep(GLANCE).await;
    }
    anyhow::bail!("waited {} in vain for {what}", humantime::format_duration(limit))
}
