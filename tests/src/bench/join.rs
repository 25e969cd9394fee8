//! From the start of the first process to a node that control holds as online.
//!
//! The agent does more than its peers: it reads metadata, fetches a token, trades it and has a key made, where they are handed a key
//! that was made beforehand.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::observer::{Observer, accepting};
use super::online::{LIMIT, TAGS, forget, provision};
use super::sheet::Sheet;
use crate::machine::{Machine, Process};
use crate::scene::{SOCKET, Scene};

/// Where the peers' machines keep the key.
const KEY_FILE: &str = "/run/key";

/// How far the API and control are.
#[derive(Clone, Copy, Debug)]
pub struct Distance {
    name: &'static str,
    one_way: Duration,
}

/// In the next room.
pub const NEAR: Distance = Distance { name: "join", one_way: Duration::ZERO };
/// On the same continent: round trips of 50 ms.
pub const FAR: Distance = Distance { name: "join-50ms", one_way: Duration::from_millis(25) };

/// How a machine joins.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// The agent; the platform's API has a key ready, as a real one does not need 150 ms of this machine for it.
    Agent,
    /// The agent, with Headscale making the key on this machine while it is waited for.
    AgentUnprepared,
    /// `tailscaled`, then `tailscale up`.
    TailscaleUp,
    /// The same without port mapping, as the agent has it.
    TailscaleUpNoPortmapper,
    /// containerboot with a real TUN.
    Containerboot,
}

const WAYS: [Way; 5] =
    [Way::Agent, Way::AgentUnprepared, Way::TailscaleUp, Way::TailscaleUpNoPortmapper, Way::Containerboot];

impl Way {
    fn series(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::AgentUnprepared => "agent_unprepared",
            Self::TailscaleUp => "tailscale_up",
            Self::TailscaleUpNoPortmapper => "tailscale_up_no_portmapper",
            Self::Containerboot => "containerboot",
        }
    }
}

/// Measures all ways, interleaved; the first round, which fills the page cache, does not count.
///
/// # Errors
/// When a machine cannot be made or does not come online.
pub async fn measure(scene: &Scene, distance: Distance, runs: usize) -> Result<Sheet> {
    let mut sheet = Sheet::new(distance.name, "s");
    for relay in [&scene.platform.api_relay, &scene.platform.control_relay] {
        relay.set_delay(distance.one_way);
    }
    for round in 0..=runs {
        for turn in 0..WAYS.len() {
            // Another goes first each time, so that none is always behind the same one.
            let way = WAYS[(round + turn) % WAYS.len()];
            let name = format!("{}-{}-{round}", distance.name, way.series().replace('_', "-"));
            let took = join(scene, way, &name).await.with_context(|| format!("failed to measure {name}"))?;
            if round > 0 {
                sheet.add(way.series(), took.as_secs_f64());
            }
            eprintln!("{name}: {:.3} s", took.as_secs_f64());
        }
    }
    for relay in [&scene.platform.api_relay, &scene.platform.control_relay] {
        relay.set_delay(Duration::ZERO);
    }
    judge(&mut sheet, distance);
    Ok(sheet)
}

fn judge(sheet: &mut Sheet, distance: Distance) {
    let peers = [("tailscale_up", 0.60), ("containerboot", 0.55), ("tailscale_up_no_portmapper", 1.00)];
    for (peer, limit) in peers {
        let (name, ratio) = sheet.ratio("agent", peer);
        if distance.one_way.is_zero() {
            sheet.budget(name, ratio, limit);
        }
        sheet.ratio("agent_unprepared", peer);
    }
    if !distance.one_way.is_zero() {
        let two_round_trips = 4.0 * distance.one_way.as_secs_f64();
        let behind = sheet.median("agent") - sheet.median("tailscale_up");
        sheet.budget("agent - tailscale_up", behind, two_round_trips);
        sheet.note("API and control are 50 ms of round trip away; the metadata endpoint is on the machine's own link");
    }
    sheet.note("peers are handed a key that was made before the clock starts; the agent's time includes metadata, token, exchange and mint");
    sheet.note("agent: the API has a key ready; agent_unprepared: Headscale makes it meanwhile, with 75-150 ms of bcrypt on this machine");
}

/// One run on a machine of its own, which is gone afterwards, as is its node.
async fn join(scene: &Scene, way: Way, name: &str) -> Result<Duration> {
    let machine = scene.machine(name)?;
    let instance = provision(scene, &machine);
    make_key(scene, way, &machine).await?;
    let observer = Observer::start(machine.root().path(SOCKET));
    let (processes, started) = start(scene, way, &machine).await?;
    let online = observer.online(LIMIT).await;
    let online = online.with_context(|| logs(&processes))?;
    drop(machine);
    forget(scene, &instance).await?;
    Ok(online - started)
}

fn logs(processes: &[Process]) -> String {
    processes.iter().filter_map(|process| process.log().ok()).collect::<Vec<_>>().join("\n")
}

/// Makes the key that this way needs beforehand, and puts it where it is looked for.
async fn make_key(scene: &Scene, way: Way, machine: &Machine) -> Result<()> {
    let platform = &scene.platform;
    match way {
        Way::AgentUnprepared => {}
        Way::Agent => platform.prepare_key(&TAGS[..1], false).await?,
        Way::TailscaleUp | Way::TailscaleUpNoPortmapper | Way::Containerboot => {
            let key = platform.tagged_key(&TAGS[..1], false).await?;
            machine.root().write(KEY_FILE, key).context("failed to write the key")?;
        }
    }
    Ok(())
}

/// Starts the way's processes and returns when the first was started.
async fn start(scene: &Scene, way: Way, machine: &Machine) -> Result<(Vec<Process>, Instant)> {
    let processes = match way {
        Way::Agent | Way::AgentUnprepared => vec![scene.start_agent(machine)?],
        Way::Containerboot => vec![machine.spawn(containerboot(scene, machine)?)?],
        Way::TailscaleUp => tailscale_up(scene, machine, tailscaled(machine)).await?,
        Way::TailscaleUpNoPortmapper => {
            let mut daemon = tailscaled(machine);
            daemon.env("TS_DISABLE_PORTMAPPER", "1");
            tailscale_up(scene, machine, daemon).await?
        }
    };
    let started = processes.first().map(Process::started).context("failed to start anything")?;
    Ok((processes, started))
}

fn tailscaled(machine: &Machine) -> Command {
    let mut daemon = machine.command("tailscaled");
    daemon.arg("--statedir=/var/lib/tailscale").arg(format!("--socket={SOCKET}"));
    daemon
}

/// As a script does it: `tailscale up` as soon as tailscaled listens, without which it would fail.
async fn tailscale_up(scene: &Scene, machine: &Machine, daemon: Command) -> Result<Vec<Process>> {
    let daemon = machine.spawn(daemon)?;
    tokio::time::timeout(LIMIT, accepting(&machine.root().path(SOCKET)))
        .await
        .with_context(|| format!("tailscaled does not listen: {}", daemon.log().unwrap_or_default()))?;
    let mut up = machine.command("tailscale");
    up.arg("up").arg(format!("--auth-key=file:{KEY_FILE}"));
    up.args(["--login-server", &scene.platform.control_url()]);
    let up = machine.spawn(up)?;
    Ok(vec![daemon, up])
}

/// containerboot reads its key from the environment.
fn containerboot(scene: &Scene, machine: &Machine) -> Result<Command> {
    let key = std::fs::read_to_string(machine.root().path(KEY_FILE)).context("failed to read the key")?;
    ensure!(!key.is_empty(), "the key is empty");
    let mut command = machine.command("containerboot");
    command.env("TS_AUTHKEY", key).env("TS_USERSPACE", "false").env("TS_SOCKET", SOCKET);
    command.env("TS_STATE_DIR", "/var/lib/tailscale");
    command.env("TS_EXTRA_ARGS", format!("--login-server={}", scene.platform.control_url()));
    Ok(command)
}
