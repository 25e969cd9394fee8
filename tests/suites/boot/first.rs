//! What an image with the agent in it does by itself: joins at the first boot, is the same node after each further one, and tells those who
//! wait for it.

use anyhow::{Context, Result, ensure};
use devbox_lab::devbox::{AGENT, Installed, LIMIT, TAILSCALED};
use devbox_lab::machine::{Link, eventually, story};
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::routes::INSTANCE;
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;

const TARGET: &str = "devbox-agent-online.target";
/// Units that need the tailnet.
const NEEDY: [&str; 2] = ["one.service", "two.service"];

/// What the generator says of tailscaled's memory, which is at most 512 MiB and an eighth of the machine's.
async fn memory_limit(devbox: &Installed<'_>) -> Result<u32> {
    let environment = devbox.machine.show(TAILSCALED, "Environment").await?;
    let limit = environment.split(' ').find_map(|pair| pair.strip_prefix("GOMEMLIMIT=")?.strip_suffix("MiB"));
    limit.with_context(|| format!("no limit in {environment}"))?.parse().context("the limit is a number")
}

/// The same by the machine's own account of its memory.
async fn memory_limit_expected(devbox: &Installed<'_>) -> Result<u32> {
    let told = devbox.machine.run("cat", &["/proc/meminfo"]).await?;
    let total = told.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let kib: u32 = total.context("no MemTotal")?.parse().context("MemTotal is a number")?;
    Ok((kib / 8192).clamp(64, 512))
}

/// Has a unit that needs the tailnet, from the machine's next boot on.
fn add_needy(devbox: &Installed<'_>, name: &str) -> Result<()> {
    let unit = format!(
        "[Unit]\nRequires={TARGET}\nAfter={TARGET}\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=/usr/bin/devbox-agent status --check online\n[Install]\nWantedBy=multi-user.target\n"
    );
    devbox.machine.write(format!("/etc/systemd/system/{name}"), unit)?;
    devbox.machine.enable(name, true)
}

/// The machine's static name, by hostname1.
async fn static_name(devbox: &Installed<'_>) -> Result<String> {
    let said = devbox.machine.run("hostnamectl", &["--static"]).await?;
    Ok(said.trim().to_owned())
}

#[test]
fn the_first_boot_joins_with_no_human() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::devbox(&scene, "web")?;
        devbox.boot().await?;
        let document = devbox.online().await?;

        let node = devbox.node().await?;
        assert_eq!((node.given_name.as_str(), node.tags.as_slice()), ("web", &["tag:devbox".to_owned()][..]));
        let name = || async { Ok((static_name(&devbox).await? == "web").then_some(())) };
        eventually("the machine's name", LIMIT, name).await?;
        assert_eq!(devbox.minted(), 1);
        for unit in [AGENT, TAILSCALED] {
            assert_eq!(devbox.machine.show(unit, "ActiveState").await?, "active");
            assert_eq!(devbox.machine.show(unit, "NRestarts").await?, "0");
        }
        assert_eq!(memory_limit(&devbox).await?, memory_limit_expected(&devbox).await?);
        let told =
            || async { Ok(devbox.machine.show(AGENT, "StatusText").await?.starts_with("online as web").then_some(())) };
        eventually("what systemctl status shows", LIMIT, told).await?;
        let online = document.boot.online_ms.context("it is online and does not know since when")?;
        let (agent, tailscaled) = (devbox.active_after(AGENT).await?, devbox.active_after(TAILSCALED).await?);
        tracing::info!(?agent, ?tailscaled, online = ?devbox.after_start(online).await?, "from PID 1");
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_reboot_keeps_name_node_and_address() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::joined(&scene, "web").await?;
        let (before, key) = (devbox.identity().await?, devbox.node().await?.node_key);
        for _ in 0..2 {
            devbox.reboot().await?;
            devbox.online().await?;
            assert_eq!(devbox.identity().await?, before);
            assert_eq!(devbox.node().await?.node_key, key, "it did not authenticate again");
            assert_eq!(static_name(&devbox).await?, "web");
        }
        devbox.machine.cut_power().await?;
        devbox.boot().await?;
        devbox.online().await?;
        assert_eq!((devbox.identity().await?, devbox.minted()), (before, 1));
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn services_ordered_after_the_target_start_when_the_node_is_online() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::devbox(&scene, "web")?;
        for name in NEEDY {
            add_needy(&devbox, name)?;
        }
        let metadata = &scene.platform.metadata.server.faults;
        metadata.always(INSTANCE, Fault::status(503));
        // The boot goes on without them: READY does not mean joined.
        devbox.machine.boot().await?;
        devbox.until_unit(AGENT, "active").await?;
        devbox.until_unit("devbox-agent-wait-online.service", "activating").await?;
        let jobs = devbox.machine.run("systemctl", &["list-jobs", "--no-legend", "--plain"]).await?;
        let jobs: Vec<Vec<&str>> = jobs.lines().map(|line| line.split_whitespace().skip(1).collect()).collect();
        for name in NEEDY {
            ensure!(jobs.contains(&vec![name, "start", "waiting"]), "{name} does not wait: {jobs:?}");
        }

        metadata.clear(INSTANCE);
        devbox.machine.settle().await?;
        let target = devbox.active_after(TARGET).await?.context("the target was reached")?;
        for name in NEEDY {
            let started = devbox.active_after(name).await?;
            ensure!(
                started >= Some(target),
                "{name} started after {started:?}, the target was reached after {target:?}"
            );
        }
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_boot_that_nothing_waits_for_does_not_wait_for_the_network() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::devbox(&scene, "web")?;
        devbox.boot_with(&[], Link::Down).await?;
        assert_eq!(devbox.machine.show(TARGET, "ActiveState").await?, "inactive");
        devbox.machine.link_up()?;
        devbox.online().await?;
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn the_kernel_command_line_switches_it_off() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::joined(&scene, "web").await?;
        devbox.machine.power_off().await?;
        add_needy(&devbox, NEEDY[0])?;
        devbox.boot_with(&["devbox-agent=off"], Link::Up).await?;
        assert_eq!(devbox.machine.show(AGENT, "ConditionResult").await?, "no");
        // What needs the tailnet does not start without it.
        for unit in [TARGET, NEEDY[0]] {
            assert_eq!(devbox.machine.show(unit, "ActiveState").await?, "inactive", "{unit}");
        }
        // Nobody holds tailscaled back either.
        devbox.until_unit(TAILSCALED, "active").await?;
        devbox.close(Left::OneNode).await
    });
}
