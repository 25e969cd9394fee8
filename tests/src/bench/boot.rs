//! A whole boot: what the agent adds to it, and how soon the machine is on its tailnet.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::observer::{Observer, accepting};
use super::online::{LIMIT, forget};
use super::sheet::Sheet;
use crate::devbox::{Instance, TAILSCALED};
use crate::machine::Booted;
use crate::scene::Scene;

/// What a boot without anybody's waiting ends with.
const MULTI_USER: &str = "multi-user.target";
/// The series of what the agent adds to reaching it.
const ADDED: &str = "multi-user.target, agent - stock";
/// What that may be, in seconds.
const ADDED_MAX: f64 = 0.050;
/// Of the time that `tailscale up` takes with a key that was made beforehand.
const RATIO_MAX: f64 = 1.05;
/// Where tailscaled's own unit has it listen.
const SOCKET: &str = "/run/tailscale/tailscaled.sock";
/// What every node is tagged with.
const TAG: &str = "tag:devbox";
/// The peer's unit: `tailscale up` as soon as tailscaled is ready, as an image without the agent would have it.
const UP: &str = "tailscale-up.service";

/// How a machine boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// With the agent, from its package; the platform's API has a key ready, as a real one does not need 150 ms of this machine for it.
    Agent,
    /// With `tailscaled.service` alone, which joins nothing.
    Stock,
    /// With a oneshot unit beside it: `tailscale up` with a key that was made beforehand.
    TailscaleUp,
    /// With the agent, and Headscale making the key on this machine while it is waited for.
    AgentUnprepared,
}

const WAYS: [Way; 4] = [Way::Agent, Way::Stock, Way::TailscaleUp, Way::AgentUnprepared];

impl Way {
    /// The names of its two series: to online, and to `multi-user.target`. A oneshot unit of that target holds it up, so that of the peer's
    /// says nothing; who makes the key is no matter to it.
    fn series(self) -> (Option<&'static str>, Option<&'static str>) {
        match self {
            Self::Agent => (Some("agent"), Some("multi-user.target, agent")),
            Self::Stock => (None, Some("multi-user.target, stock")),
            Self::TailscaleUp => (Some("tailscale_up"), None),
            Self::AgentUnprepared => (Some("agent_unprepared"), None),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Stock => "stock",
            Self::TailscaleUp => "peer",
            Self::AgentUnprepared => "unprepared",
        }
    }
}

/// How long after PID 1 began.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// None for a way that joins nothing.
    online: Option<Duration>,
    reached: Duration,
}

/// Measures boots of fresh machines, interleaved; the first round, which fills the page cache, does not count.
///
/// # Errors
/// When a machine does not boot or does not come online.
pub async fn measure(scene: &Scene, runs: usize) -> Result<Sheet> {
    let mut sheet = Sheet::new("boot", "s");
    for round in 0..=runs {
        let mut times = BTreeMap::new();
        for turn in 0..WAYS.len() {
            // Another goes first each time, so that none is always behind the same one.
            let way = WAYS[(round + turn) % WAYS.len()];
            let name = format!("{}{round}", way.name());
            let measured = boot(scene, way, &name).await.with_context(|| format!("failed to measure {name}"))?;
            eprintln!("{name}: {measured:.3?}");
            times.insert(way, measured);
        }
        if round > 0 {
            note(&mut sheet, &times);
        }
    }
    let (name, ratio) = sheet.ratio("agent", "tailscale_up");
    sheet.budget(name, ratio, RATIO_MAX);
    sheet.ratio("agent_unprepared", "tailscale_up");
    sheet.budget(ADDED, sheet.median(ADDED), ADDED_MAX);
    sheet.note("from PID 1's start, fresh machines in containers of systemd-nspawn; the agent's time includes metadata, token, exchange and mint");
    sheet.note("agent: the API has a key ready; agent_unprepared: Headscale makes it meanwhile, with 75-150 ms of bcrypt on this machine");
    Ok(sheet)
}

fn note(sheet: &mut Sheet, times: &BTreeMap<Way, Times>) {
    for (way, times) in times {
        let (online, reached) = way.series();
        online.zip(times.online).into_iter().for_each(|(series, online)| sheet.add(series, online.as_secs_f64()));
        reached.into_iter().for_each(|series| sheet.add(series, times.reached.as_secs_f64()));
    }
    sheet.add(ADDED, times[&Way::Agent].reached.as_secs_f64() - times[&Way::Stock].reached.as_secs_f64());
}

async fn boot(scene: &Scene, way: Way, name: &str) -> Result<Times> {
    let mut machine = prepare(scene, way, name).await.context("failed to prepare the machine")?;
    machine.boot().await?;
    let observer = Observer::start(machine.path(SOCKET));
    // Nothing asks a machine anything while it boots, whichever way.
    tokio::time::timeout(LIMIT, accepting(&machine.path(SOCKET))).await.context("tailscaled does not listen")?;
    let seen = if way == Way::Stock { None } else { Some(observer.online(LIMIT).await?) };
    machine.settle().await?;
    let began = machine.started().await?;
    let reached =
        machine.moment(MULTI_USER, "ActiveEnterTimestamp").await?.context("multi-user.target was not reached")?;
    drop(machine);
    forget(scene, &format!("i-{name}")).await?;
    let online = seen.map(monotonic).transpose()?.map(|online| online.saturating_sub(began));
    Ok(Times { online, reached: reached.saturating_sub(began) })
}

async fn prepare(scene: &Scene, way: Way, name: &str) -> Result<Booted> {
    if matches!(way, Way::Agent | Way::AgentUnprepared) {
        let machine = scene.baked(name)?;
        Instance::announce(scene, name, machine.address(), "devbox", TAG);
        if way == Way::Agent {
            scene.platform.prepare_key(&[TAG], false).await?;
        }
        return Ok(machine);
    }
    let machine = scene.booted(name)?;
    if way == Way::Stock {
        return Ok(machine);
    }
    machine.write("/etc/tailscale-key", scene.platform.tagged_key(&[TAG], false).await?)?;
    let unit = format!(
        "[Unit]\nAfter={TAILSCALED}\nRequires={TAILSCALED}\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=tailscale up --auth-key=file:/etc/tailscale-key --hostname={name} --login-server={}\n\
         [Install]\nWantedBy=multi-user.target\n",
        scene.platform.control_url()
    );
    machine.write(format!("/etc/systemd/system/{UP}"), unit)?;
    machine.enable(UP, true)?;
    Ok(machine)
}

/// An instant as systemd's time stamps tell it.
fn monotonic(instant: Instant) -> Result<Duration> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).context("failed to read the clock")?;
    Ok(Duration::from(now).saturating_sub(instant.elapsed()))
}
