//! What `cargo lab bench` measures: one file a bench, all on real parts, each written to `tests/bench/NAME.json`.
//!
//! Series that are compared are interleaved in one run, so that whatever else the machine does meets all of them alike. A ratio says
//! more than the absolute times of one machine do.

mod boot;
mod exec;
mod idle;
mod join;
mod observer;
mod online;
mod process;
mod sheet;
mod sizes;
mod soak;
mod status;
mod transfer;

use std::time::Duration;

use anyhow::Result;

use crate::machine::Lab;
use crate::scene::Scene;
use crate::tools::Workspace;

/// One bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Bench {
    /// Start to online, beside `tailscale up` and containerboot
    Join,
    /// The same with round trips of 50 ms to the API and to control
    #[value(name = "join-50ms")]
    JoinFar,
    /// `devbox-agent status` beside `tailscale status --json`
    Status,
    /// The binary, and the agent's memory when idle
    Sizes,
    /// How often the idle agent wakes
    Idle,
    /// The agent's memory after minutes of churn
    Soak,
    /// `exec` beside the same steps by hand
    Exec,
    /// Transfers from within `exec` beside a bare tailscaled
    ExecTransfer,
    /// A whole boot, beside `tailscaled.service` and `tailscale up`; needs root
    Boot,
}

impl Bench {
    /// All that any user can measure, the quick ones first.
    pub const ALL: [Self; 8] =
        [Self::Join, Self::JoinFar, Self::Status, Self::Sizes, Self::Exec, Self::ExecTransfer, Self::Soak, Self::Idle];
}

/// What to measure, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// The benches.
    pub names: Vec<Bench>,
    /// Runs of each series; medians are of these.
    pub runs: usize,
    /// How long benches last that watch rather than repeat; each has a default.
    pub time: Option<Duration>,
}

/// Measures one after the other on one platform; each result is written and shown as soon as it is there.
///
/// # Errors
/// When something cannot be started or does not come online; never because a budget is missed.
pub async fn run(lab: Lab, workspace: &Workspace, options: &Options) -> Result<()> {
    let scene = Scene::start(lab).await?;
    scene.platform.add_credential(online::CLIENT, online::WORKSPACE, &online::TAGS);
    for bench in &options.names {
        let sheet = match bench {
            Bench::Join => join::measure(&scene, join::NEAR, options.runs).await?,
            Bench::JoinFar => join::measure(&scene, join::FAR, options.runs).await?,
            Bench::Status => status::measure(&scene, options.runs).await?,
            Bench::Sizes => sizes::measure(&scene, options.runs).await?,
            Bench::Idle => idle::measure(&scene, options.time.unwrap_or(idle::TIME)).await?,
            Bench::Exec => exec::measure(&scene, options.runs).await?,
            Bench::ExecTransfer => transfer::measure(&scene, options.runs).await?,
            Bench::Boot => boot::measure(&scene, options.runs).await?,
            Bench::Soak => soak::measure(&scene, options.time.unwrap_or(soak::TIME)).await?,
        };
        println!("{}", sheet.save(&workspace.root().join("tests/bench"))?);
    }
    Ok(())
}
