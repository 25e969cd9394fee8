//! What a command's traffic loses by the sandbox: the same transfers to the same peer, from a node of `exec`, from a bare tailscaled with a TUN, and
//! through the SOCKS5 server of one without, which is what containers use for want of a TUN.

use std::fs::File;
use std::io;
use std::net::Ipv6Addr;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, put};
use futures_util::StreamExt;
use tokio::net::TcpListener;

use super::online::provision;
use super::sheet::Sheet;
use crate::machine::{Machine, Visit};
use crate::scene::Scene;

/// Long enough for the path to be direct, and TCP to be at its speed, for most of it.
const SIZE: usize = 256 << 20;
const PORT: u16 = 8000;
/// What is sent, as a sparse file of each machine.
const FILE: &str = "/run/bench-file";
/// How many small requests follow a first one, on one connection. That one is not counted: a new node's takes 3 ms more, which a node that was at work
/// just before has behind it.
const REQUESTS: usize = 50;
/// 0.95 of the speed of a bare tailscaled, as a ratio of times.
const TIME_MAX: f64 = 1.053;
/// How long a new node's path to its peer takes to become a direct one, generously; until then its packets go by the relay, whoever made the node.
const SETTLED: &str = "2";

/// What is moved.
#[derive(Clone, Copy, Debug)]
enum Work {
    Down,
    Up,
    Answers,
}

/// By which way.
#[derive(Clone, Copy, Debug)]
enum Way {
    Exec,
    Bare,
    Socks,
}

const WAYS: [Way; 3] = [Way::Exec, Way::Bare, Way::Socks];

/// The name of each way's series.
const WORKS: [(Work, [&str; 3]); 3] = [
    (Work::Down, ["down, exec", "down, bare", "down, socks5"]),
    (Work::Up, ["up, exec", "up, bare", "up, socks5"]),
    (Work::Answers, ["answers, exec", "answers, bare", "answers, socks5"]),
];

/// Where the SOCKS5 server listens.
const PROXY: &str = "localhost:1055";

/// Measures all three by each way, in turn; the first round does not count.
///
/// # Errors
/// When a machine cannot be made, or a transfer fails.
pub async fn measure(scene: &Scene, runs: usize) -> Result<Sheet> {
    let mut sheet = Sheet::new("exec-transfer", "s");
    let (peer, bare) = (joined(scene, "peer", &[]).await?, joined(scene, "bare", &[]).await?);
    let proxy = format!("--socks5-server={PROXY}");
    let socks = joined(scene, "socks", &["--tun=userspace-networking", &proxy]).await?;
    let _server = serve(&peer)?;
    let runner = scene.machine("runner")?;
    provision(scene, &runner);
    let machines = [&runner, &bare, &socks];
    for machine in machines {
        File::create(machine.root().path(FILE))?.set_len(SIZE as u64)?;
    }
    for round in 0..=runs {
        for (work, series) in WORKS {
            for turn in 0..WAYS.len() {
                let index = (round + turn) % WAYS.len();
                let took = run(machines[index], WAYS[index], work).await;
                let took = took.with_context(|| format!("failed to measure {}", series[index]))?;
                eprintln!("{}: {took:.4} s", series[index]);
                if round > 0 {
                    sheet.add(series[index], took);
                }
            }
        }
    }
    for (_, [exec, bare, socks]) in WORKS {
        let (name, ratio) = sheet.ratio(exec, bare);
        sheet.budget(name, ratio, TIME_MAX);
        sheet.ratio(exec, socks);
    }
    sheet.note("256 MiB by curl from and to a web server on a peer; answers: 50 small requests after a first one on one connection; paths are direct by then");
    Ok(sheet)
}

async fn joined(scene: &Scene, name: &str, options: &[&str]) -> Result<Machine> {
    let machine = scene.machine(name)?;
    scene.join_by_hand_with(&machine, &scene.platform.user_key(name).await?, options).await?;
    Ok(machine)
}

fn serve(machine: &Machine) -> Result<Visit<io::Result<()>>> {
    let page = Bytes::from(vec![0_u8; SIZE]);
    let router = Router::new()
        .route("/down", get(move || async move { page }))
        .route("/answer", get(async || "."))
        .route("/up", put(swallow))
        .layer(DefaultBodyLimit::disable());
    Ok(machine.visit(move || async move {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).await?;
        axum::serve(listener, router).await
    })?)
}

async fn swallow(body: Body) {
    let mut chunks = body.into_data_stream();
    while let Some(Ok(_)) = chunks.next().await {}
}

/// How long curl needed, in seconds, without looking up the name.
async fn run(machine: &Machine, way: Way, work: Work) -> Result<f64> {
    let page = |path: &str| format!("http://peer:{PORT}/{path}");
    let mut curl: Vec<String> =
        ["curl", "--silent", "--show-error", "--fail", "--retry", "5", "--retry-connrefused"].map(str::to_owned).into();
    curl.extend(["--write-out", "%{time_total} %{time_namelookup}\n"].map(str::to_owned));
    match work {
        Work::Down => curl.extend(["--output".to_owned(), "/dev/null".to_owned(), page("down")]),
        Work::Up => curl.extend(["--upload-file".to_owned(), FILE.to_owned(), page("up")]),
        Work::Answers => {
            for _ in 0..=REQUESTS {
                curl.extend(["--output".to_owned(), "/dev/null".to_owned(), page("answer")]);
            }
        }
    }
    let first = usize::from(matches!(work, Work::Answers));
    seconds(&output(machine, by(machine, way, &curl)).await?, first)
}

fn by(machine: &Machine, way: Way, curl: &[String]) -> Command {
    if let Way::Exec = way {
        let mut exec = machine.ordinary("devbox-agent");
        let wait_for = format!("peer:{PORT}");
        exec.args(["exec", "--quiet", "--wait-for", &wait_for, "--", "sh", "-c", "sleep $0; exec \"$@\"", SETTLED]);
        exec.args(curl);
        return exec;
    }
    let mut command = machine.command(&curl[0]);
    if let Way::Socks = way {
        command.args(["--socks5-hostname", PROXY]);
    }
    command.args(&curl[1..]);
    command
}

async fn output(machine: &Machine, command: Command) -> Result<Output> {
    let output = machine.exec(command).await?;
    ensure!(output.status.success(), "curl ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

/// The sum over all requests but the first few of the time after the look-up.
fn seconds(output: &Output, but: usize) -> Result<f64> {
    let said = String::from_utf8_lossy(&output.stdout);
    let lines = said.lines().skip(but).map(|line| {
        let (total, name) = line.split_once(' ').context("curl said something else")?;
        anyhow::Ok(total.parse::<f64>()? - name.parse::<f64>()?)
    });
    lines.sum()
}
