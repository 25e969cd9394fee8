//! `cargo lab up`.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Context;
use devbox_lab::machine::{Lab, inside, sandbox};
use devbox_lab::platform::instance::{InstanceSpec, Tailnet};
use devbox_lab::scene::Scene;
use devbox_lab::tools::{Layout, Profile, Program, Progress, Workspace, prepare};

use super::running::Running;

/// Boot a platform, a devbox and a laptop, and stay until interrupted
#[derive(Debug, clap::Args)]
pub struct Up {}

impl Up {
    /// Stays; the sandbox ends with this process, however it ends.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let announce =
            |leader: u32, layout: &Layout| Running { leader, layout: layout.clone() }.save(&Workspace::find());
        let code = inside(layout, announce, stay)?;
        if !sandbox::is_inside() {
            Running::remove(&Workspace::find())?;
        }
        Ok(code)
    }
}

fn layout() -> anyhow::Result<Layout> {
    let workspace = Workspace::find();
    let agent = prepare(&workspace, &Progress::new(), &Program::USUAL, Profile::Dev)?;
    workspace.layout(agent, "up").context("failed to find the lab's own program")
}

async fn stay(lab: Lab) -> anyhow::Result<ExitCode> {
    let scene = Scene::start(lab).await?;
    scene.platform.add_credential("lab-client", "acme", &["tag:devbox"]);
    let devbox = scene.machine("devbox")?;
    let spec = InstanceSpec::new("i-devbox", "devbox", "acme", IpAddr::V4(devbox.address()));
    scene.platform.add_instance(spec.named("devbox").joining(Tailnet::new("lab-client", &["tag:devbox"])));
    let agent = scene.start_agent(&devbox)?;
    let laptop = scene.machine("laptop")?;
    scene.join_by_hand(&laptop, &scene.platform.user_key("ada").await?).await?;
    println!(
        "The platform is up, with two machines. From another terminal:\n  \
         cargo lab sh devbox devbox-agent status\n  \
         cargo lab sh devbox tailscale status\n  \
         cargo lab sh laptop tailscale ping devbox\n  \
         cargo lab sh laptop\n\
         The agent's log: {}\nCtrl-C ends it all.",
        agent.log_path().display()
    );
    tokio::signal::ctrl_c().await.context("failed to wait for Ctrl-C")?;
    Ok(ExitCode::SUCCESS)
}
