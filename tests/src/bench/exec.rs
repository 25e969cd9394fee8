//! One command on a node of its own: how soon it runs, how soon after its end everything is gone, and what its traffic loses.
//!
//! The peer is what a CI job does by hand: the same token, exchange and key by curl, then pasta, tailscaled, `tailscale up` and the command.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use super::online::{CLIENT, LIMIT, TAGS, forget, provision};
use super::sheet::Sheet;
use crate::machine::Machine;
use crate::scene::Scene;

/// What the command does: says that it runs, and waits to be let go.
const COMMAND: &str = "echo . > /run/bench/running; read line < /run/bench/go";
/// Of the script's time, to the command's start and from its end.
const START_MAX: f64 = 0.60;
const END_MAX: f64 = 0.25;

/// Who runs the command.
#[derive(Clone, Copy, Debug)]
enum Way {
    Exec,
    Script,
}

const WAYS: [Way; 2] = [Way::Exec, Way::Script];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Script => "script",
        }
    }

    fn series(self) -> (&'static str, &'static str) {
        match self {
            Self::Exec => ("start, exec", "end, exec"),
            Self::Script => ("start, script", "end, script"),
        }
    }
}

/// Measures both ways, interleaved; the first round, which fills the page cache, does not count.
///
/// # Errors
/// When a machine cannot be made or the command does not run.
pub async fn measure(scene: &Scene, runs: usize) -> Result<Sheet> {
    let mut sheet = Sheet::new("exec", "s");
    for round in 0..=runs {
        for turn in 0..WAYS.len() {
            let way = WAYS[(round + turn) % WAYS.len()];
            let name = format!("{}-{round}", way.name());
            let (start, end) = run(scene, way, &name).await.with_context(|| format!("failed to measure {name}"))?;
            eprintln!("{name}: {:.3} s to start, {:.3} s to end", start.as_secs_f64(), end.as_secs_f64());
            if round > 0 {
                let (starts, ends) = way.series();
                sheet.add(starts, start.as_secs_f64());
                sheet.add(ends, end.as_secs_f64());
            }
        }
    }
    for (phase, limit) in [("start", START_MAX), ("end", END_MAX)] {
        let (name, ratio) = sheet.ratio(&format!("{phase}, exec"), &format!("{phase}, script"));
        sheet.budget(name, ratio, limit);
    }
    sheet.note("start: from the first process to the command's first word, with token, exchange and mint on both sides; end: from the command's end to exit");
    sheet.note(
        "the API has a key ready for both, as a real one does not need 75-150 ms of this machine's bcrypt for it",
    );
    Ok(sheet)
}

async fn run(scene: &Scene, way: Way, name: &str) -> Result<(Duration, Duration)> {
    let machine = scene.machine(name)?;
    let instance = provision(scene, &machine);
    scene.platform.prepare_key(&TAGS[..1], true).await?;
    let mut gates = Gates::make(&machine)?;
    let process = machine.spawn(command(scene, way, &machine)?)?;
    let running = tokio::time::timeout(LIMIT, gates.running()).await;
    let running = running.map_err(anyhow::Error::from).and_then(|running| running);
    let running = running.with_context(|| process.log().unwrap_or_default())?;
    let ended = gates.let_go().await?;
    let status = process.wait().await?;
    let gone = Instant::now();
    ensure!(status.success(), "{name} ended with {status}: {}", process.log()?);
    drop(machine);
    forget(scene, &instance).await?;
    Ok((running - process.started(), gone - ended))
}

/// Two pipes with names, between the bench and the command.
struct Gates {
    running: pipe::Receiver,
    go: pipe::Sender,
}

impl Gates {
    fn make(machine: &Machine) -> Result<Self> {
        let directory = machine.root().path("/run/bench");
        fs::create_dir_all(&directory)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
        let [running, go] = ["running", "go"].map(|name| directory.join(name));
        for gate in [&running, &go] {
            mkfifo(gate, Mode::from_bits_truncate(0o666))?;
            // mkfifo heeds the umask.
            fs::set_permissions(gate, fs::Permissions::from_mode(0o666))?;
        }
        // For both directions, so that neither waits for the command to open the other end.
        let mut open = pipe::OpenOptions::new();
        open.read_write(true);
        Ok(Self { running: open.open_receiver(running)?, go: open.open_sender(go)? })
    }

    /// When the command said its first word.
    async fn running(&mut self) -> Result<Instant> {
        self.running.read_u8().await?;
        Ok(Instant::now())
    }

    /// Lets the command end; when that was.
    async fn let_go(&mut self) -> Result<Instant> {
        let now = Instant::now();
        self.go.write_all(b"go\n").await?;
        Ok(now)
    }
}

fn command(scene: &Scene, way: Way, machine: &Machine) -> Result<Command> {
    match way {
        Way::Exec => {
            let mut command = machine.ordinary("devbox-agent");
            command.args(["exec", "--quiet", "--", "sh", "-c", COMMAND]);
            Ok(command)
        }
        Way::Script => {
            machine.root().write("/run/script", script(scene))?;
            let mut command = machine.ordinary("sh");
            command.arg("/run/script");
            Ok(command)
        }
    }
}

/// What a CI job does by hand, without waiting where it need not. The lab's platform is at the gateway, which pasta would take for the host.
fn script(scene: &Scene) -> String {
    let (metadata, api, control) =
        (scene.platform.metadata_url(), scene.platform.api_url(), scene.platform.control_url());
    let tag = TAGS[0];
    format!(
        r#"set -e
value() {{ sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p"; }}
jwt=$(curl -sf --http1.1 -H 'Metadata-Flavor: Devbox' "{metadata}/devbox/v1/token?audience=api.tailscale.com/{CLIENT}" | value token)
access=$(curl -sf --http1.1 -d client_id={CLIENT} -d jwt="$jwt" {api}/api/v2/oauth/token-exchange | value access_token)
key=$(curl -sf --http1.1 -u "$access:" -H 'Content-Type: application/json' -d '{{"capabilities":{{"devices":{{"create":{{"reusable":false,"ephemeral":true,"preauthorized":true,"tags":["{tag}"]}}}}}},"expirySeconds":300}}' {api}/api/v2/tailnet/-/keys | value key)
[ -n "$key" ]
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export key dir HOME="$dir"
pasta --config-net --no-map-gw -q -- sh -c '
tailscaled --tun=tailscale0 --state=mem: --statedir="$dir" --socket="$dir/s" >"$dir/log" 2>&1 &
until [ -S "$dir/s" ]; do sleep 0.01; done
tailscale --socket="$dir/s" up --auth-key="$key" --login-server={control}
{COMMAND}
kill $!
wait'
"#
    )
}
