//! How a machine comes onto the tailnet.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use devbox_lab::machine::{Lab, story};
use devbox_lab::platform::instance::{InstanceSpec, Tailnet};
use devbox_lab::scene::Scene;

#[test]
fn a_devbox_joins_and_the_platform_hears_of_it() {
    story(|lab: Lab| async move {
        let scene = Scene::start(lab).await?;
        scene.platform.add_credential("lab-client", "acme", &["tag:devbox"]);
        let devbox = scene.machine("devbox")?;
        let spec = InstanceSpec::new("i-devbox", "devbox", "acme", IpAddr::V4(devbox.address()));
        scene.platform.add_instance(spec.named("web").joining(Tailnet::new("lab-client", &["tag:devbox"])));
        let agent = scene.start_agent(&devbox)?;
        let reports = &scene.platform.reports;
        let online = reports.wait_for("i-devbox", Duration::from_secs(20), |r| r.phase() == "online").await;
        let log = std::fs::read_to_string(agent.log_path())?;
        let online = online.with_context(|| log)?;
        println!("{}", serde_json::to_string_pretty(&online.status)?);
        let nodes = scene.platform.nodes().await?;
        ensure!(nodes.len() == 1, "{} nodes", nodes.len());
        println!("{}", std::fs::read_to_string(agent.log_path())?);
        let mut status = devbox.command("devbox-agent");
        status.arg("status");
        let output = devbox.exec(status).await?;
        println!("{}", String::from_utf8_lossy(&output.stdout));
        Ok(())
    });
}
