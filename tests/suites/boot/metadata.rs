//! The metadata address belongs to the machine's own link, whatever the tailnet says of it.

use anyhow::{Context, Result, ensure};
use devbox_lab::devbox::{Installed, LIMIT};
use devbox_lab::machine::{METADATA, Machine, eventually, story};
use devbox_lab::platform::routes::INSTANCE;
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;

const TUNNEL: &str = "dev tailscale0";

/// Advertises routes from a machine and approves them; returns once control has.
async fn advertise(scene: &Scene, laptop: &Machine, flag: &str, routes: &[&str]) -> Result<()> {
    let mut set = laptop.command("tailscale");
    set.arg(format!("--socket={}", devbox_lab::scene::SOCKET)).args(["set", flag]);
    let output = laptop.exec(set).await?;
    ensure!(output.status.success(), "tailscale set {flag}: {}", String::from_utf8_lossy(&output.stderr));
    let nodes = scene.platform.nodes().await?;
    let node = nodes.iter().find(|node| node.name == "laptop").context("the laptop is a node")?;
    scene.platform.headscale.api.approve_routes(&node.id, routes).await
}

/// How the machine sends to the metadata address.
async fn route(devbox: &Installed<'_>) -> Result<String> {
    devbox.machine.run("ip", &["route", "get", &METADATA.to_string()]).await
}

/// Whether it would go into the tailnet if it were not for the rule.
async fn is_captured(devbox: &Installed<'_>) -> Result<bool> {
    let rule = ["pref", "5190"];
    devbox.machine.run("ip", &[&["rule", "del"], &rule[..]].concat()).await?;
    let captured = route(devbox).await?.contains(TUNNEL);
    let again = ["to", "169.254.169.254/32", "lookup", "main"];
    devbox.machine.run("ip", &[&["rule", "add"], &rule[..], &again[..]].concat()).await?;
    Ok(captured)
}

/// That metadata is read by its own way.
async fn is_read(devbox: &Installed<'_>) -> Result<()> {
    let way = route(devbox).await?;
    ensure!(!way.contains(TUNNEL), "metadata goes into the tailnet: {way}");
    let log = &devbox.scene.platform.metadata.server.log;
    let before = log.count(INSTANCE);
    devbox.machine.run("devbox-agent", &["refresh"]).await?;
    log.wait_for(INSTANCE, before + 1, LIMIT).await?;
    devbox.online().await.map(drop)
}

#[test]
fn neither_a_route_nor_an_exit_node_of_the_tailnet_captures_it() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let laptop = scene.machine("laptop")?;
        let _daemon = scene.join_by_hand(&laptop, &scene.platform.user_key("ada").await?).await?;
        let mut devbox = Installed::devbox(&scene, "web")?;
        devbox.change(|tailnet| tailnet.accept_routes = Some(true))?;
        devbox.boot().await?;
        devbox.online().await?;

        let address = format!("{METADATA}/32");
        advertise(&scene, &laptop, &format!("--advertise-routes={address}"), &[&address]).await?;
        let accepted = || async {
            let table = devbox.machine.run("ip", &["route", "show", "table", "52"]).await?;
            Ok(table.contains(&METADATA.to_string()).then_some(()))
        };
        eventually("the route for the metadata address", LIMIT, accepted).await?;
        ensure!(is_captured(&devbox).await?, "the tailnet's route matters");
        is_read(&devbox).await?;

        advertise(&scene, &laptop, "--advertise-exit-node", &[&address, "0.0.0.0/0", "::/0"]).await?;
        let used = || async { Ok(devbox.machine.run("tailscale", &["set", "--exit-node=laptop"]).await.ok()) };
        eventually("the exit node", LIMIT, used).await?;
        let all = || async {
            let table = devbox.machine.run("ip", &["route", "show", "table", "52"]).await?;
            Ok(table.contains("default").then_some(()))
        };
        eventually("the exit node's route", LIMIT, all).await?;
        ensure!(is_captured(&devbox).await?, "the exit node matters");
        is_read(&devbox).await?;
        devbox.machine.run("tailscale", &["set", "--exit-node="]).await?;
        devbox.close(Left::OneNode).await
    });
}
