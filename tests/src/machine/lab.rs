//! What a story gets: the sandbox it runs in, and machines in it.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::namespace::{Link, Machine, MachineError};
use super::sandbox;
use crate::tools::Layout;

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
        Machine::create(&self.layout, self.machines.fetch_add(1, Ordering::Relaxed), name, link)
    }
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
