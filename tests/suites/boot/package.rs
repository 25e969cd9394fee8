//! The package on machines that live: installed, upgraded, removed, installed again and purged, while people use them.

use std::fs;

use anyhow::{Context, Result, ensure};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_agent::privilege::helper::GATE;
use devbox_lab::devbox::{AGENT, Identity, Installed, LIMIT, TAILSCALED};
use devbox_lab::machine::{eventually, story};
use devbox_lab::platform::fault::Fault;
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;

const STATE: &str = "/var/lib/devbox-agent";
const PACKAGE: &str = "/srv/devbox-agent.deb";
const RULE: &str = "devbox-agent-metadata.service";
const PREINST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/debian/preinst");
const UNITS: [&str; 2] = [AGENT, "devbox-agent-helper.socket"];

/// Installs the package, or upgrades to it, as an administrator does.
async fn install(devbox: &Installed<'_>) -> Result<String> {
    let package = fs::read(devbox.scene.lab.package()?).context("failed to read the package")?;
    devbox.machine.write(PACKAGE, package)?;
    dpkg(devbox, &["--install", PACKAGE]).await
}

async fn dpkg(devbox: &Installed<'_>, words: &[&str]) -> Result<String> {
    let said = devbox.machine.run("dpkg", words).await?;
    fs::remove_file(devbox.machine.path(PACKAGE)).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    Ok(said)
}

/// The processes behind two units.
async fn processes(devbox: &Installed<'_>) -> Result<(String, String)> {
    Ok((devbox.machine.show(AGENT, "MainPID").await?, devbox.machine.show(TAILSCALED, "MainPID").await?))
}

async fn enabled(devbox: &Installed<'_>) -> Result<Vec<String>> {
    let mut states = Vec::new();
    for unit in UNITS {
        states.push(devbox.machine.show(unit, "UnitFileState").await?);
    }
    Ok(states)
}

#[test]
fn installed_on_a_live_machine_it_leaves_somebody_s_node_alone() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::bare(&scene, "web")?;
        devbox.boot().await?;
        scene.up_by_hand(&devbox.machine, &scene.platform.user_key("ada").await?).await?;
        devbox.machine.run("rm", &["/run/key"]).await?;
        let node = |nodes: Vec<_>| nodes.first().map(Identity::from).context("the person's node");
        let theirs = node(scene.platform.nodes().await?)?;
        let tunnel = processes(&devbox).await?.1;

        install(&devbox).await?;
        // Somebody's node may use an exit node already: the agent's first request is not to go there.
        let rule =
            devbox.machine.moment(RULE, "ActiveEnterTimestamp").await?.context("the rule for metadata is there")?;
        let agent = devbox.machine.moment(AGENT, "InactiveExitTimestamp").await?.context("the agent was started")?;
        ensure!(rule <= agent, "the agent was started at {agent:?}, the rule for metadata there at {rule:?}");
        devbox.until_phase(Phase::Blocked, Code::ForeignNode).await?;
        assert_eq!(enabled(&devbox).await?, ["enabled"; 2]);
        ensure!(!devbox.machine.path(GATE).exists(), "the gate was closed behind a tailscaled that runs");
        assert_eq!((processes(&devbox).await?.1, devbox.minted()), (tunnel, 0));
        let nodes = scene.platform.nodes().await?;
        ensure!(nodes.iter().all(|node| node.online), "the tunnel stands");
        assert_eq!((nodes.len(), node(nodes)?), (1, theirs));
        devbox.close(Left::Nothing).await
    });
}

#[test]
fn installed_on_a_live_machine_it_joins() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::bare(&scene, "web")?;
        devbox.boot().await?;
        install(&devbox).await?;
        devbox.online().await?;
        let (before, tunnel) = (devbox.identity().await?, processes(&devbox).await?.1);

        // Enabled again by its presets, as an image with an empty /etc does at its first boot.
        devbox.machine.run("systemctl", &[&["disable", "--quiet"], &UNITS[..]].concat()).await?;
        assert_eq!(enabled(&devbox).await?, ["disabled"; 2]);
        devbox.machine.run("systemctl", &[&["preset", "--quiet"], &UNITS[..]].concat()).await?;
        assert_eq!(enabled(&devbox).await?, ["enabled"; 2]);

        dpkg(&devbox, &["--remove", "devbox-agent"]).await?;
        ensure!(devbox.machine.path(STATE).join("state.json").exists(), "the state is kept");
        ensure!(!devbox.machine.path(GATE).exists() && !devbox.machine.path("/usr/bin/devbox-agent").exists(), "gone");
        assert_eq!(devbox.machine.show(AGENT, "ActiveState").await?, "inactive");
        assert_eq!(processes(&devbox).await?.1, tunnel, "tailscaled goes on");
        ensure!(devbox.node().await?.online, "and so does the tunnel");
        // As in a chroot whose /run cannot be written: what cannot be marked is no failure. dpkg runs it with these words to install again.
        devbox.machine.write("/srv/preinst", fs::read(PREINST).context("failed to read preinst")?)?;
        assert_eq!(devbox.as_user("nobody", &["sh", "/srv/preinst", "install", "0.1.0"]).await?.code, 0);
        // A boot without the agent: nobody holds tailscaled back.
        devbox.reboot().await?;
        devbox.until_unit(TAILSCALED, "active").await?;

        install(&devbox).await?;
        devbox.online().await?;
        assert_eq!((devbox.identity().await?, devbox.minted()), (before, 1));
        assert_eq!(enabled(&devbox).await?, ["enabled"; 2]);

        dpkg(&devbox, &["--purge", "devbox-agent"]).await?;
        for path in [STATE, "/run/devbox-agent", "/run/devbox-agent-gate"] {
            ensure!(!devbox.machine.path(path).exists(), "{path} is left by a purge");
        }
        ensure!(devbox.machine.path("/var/lib/tailscale/tailscaled.state").exists(), "it is tailscaled's");
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn an_upgrade_in_the_middle_of_a_join_makes_one_node() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::devbox(&scene, "web")?;
        let server = &scene.platform.api.server;
        for (boots, route) in [(true, "POST /api/v2/oauth/token-exchange"), (false, "POST /api/v2/tailnet/-/keys")] {
            let (held, hold) = Fault::hold();
            server.faults.next(route, held);
            if boots {
                devbox.boot().await?;
            }
            server.log.wait_for(route, 1, LIMIT).await?;
            install(&devbox).await?;
            drop(hold);
        }
        devbox.online().await?;
        assert_eq!(devbox.machine.show(AGENT, "NRestarts").await?, "0");
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn an_upgrade_keeps_a_runner_s_node_and_its_tunnel_and_a_removal_takes_it_away() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut runner = Installed::runner(&scene, "job")?;
        runner.boot().await?;
        runner.online().await?;
        let (before, (agent, tunnel)) = (runner.identity().await?, processes(&runner).await?);
        install(&runner).await?;
        let restarted = || async { Ok((processes(&runner).await?.0 != agent).then_some(())) };
        eventually("the new agent", LIMIT, restarted).await?;
        runner.online().await?;
        assert_eq!((processes(&runner).await?.1, runner.identity().await?, runner.minted()), (tunnel, before, 1));

        dpkg(&runner, &["--remove", "devbox-agent"]).await?;
        runner.close(Left::Nothing).await
    });
}
