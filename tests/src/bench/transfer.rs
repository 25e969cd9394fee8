//! What a command's traffic loses by the sandbox: the same transfers to the same peer, from a node of `exec` and from a bare tailscaled with a TUN.

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
/// How many small requests follow each other on one connection.
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

const WORKS: [(Work, &str, &str); 3] = [
    (Work::Down, "down, exec", "down, bare"),
    (Work::Up, "up, exec", "up, bare"),
    (Work::Answers, "answers, exec", "answers, bare"),
];

/// Measures all three both ways, alternating; the first round does not count.
///
/// # Errors
/// When a machine cannot be made, or a transfer fails.
pub async fn measure(scene: &Scene, runs: usize) -> Result<Sheet> {
    let mut sheet = Sheet::new("exec-transfer", "s");
    let (peer, bare) = (joined(scene, "peer").await?, joined(scene, "bare").await?);
    let _server = serve(&peer)?;
    let runner = scene.machine("runner")?;
    provision(scene, &runner);
    for machine in [&bare, &runner] {
        File::create(machine.root().path(FILE))?.set_len(SIZE as u64)?;
    }
    for round in 0..=runs {
        for (work, through_exec, by_itself) in WORKS {
            for turn in 0..2 {
                let exec = (round + turn) % 2 == 0;
                let machine = if exec { &runner } else { &bare };
                let took = run(machine, exec, work).await.with_context(|| format!("failed to measure {work:?}"))?;
                eprintln!("{work:?} {}: {took:.4} s", if exec { "exec" } else { "bare" });
                if round > 0 {
                    sheet.add(if exec { through_exec } else { by_itself }, took);
                }
            }
        }
    }
    for (_, through_exec, by_itself) in WORKS {
        let (name, ratio) = sheet.ratio(through_exec, by_itself);
        sheet.budget(name, ratio, TIME_MAX);
    }
    sheet.note("256 MiB by curl from and to a web server on a peer; answers: 50 small requests after each other on one connection; paths are direct by then");
    Ok(sheet)
}

async fn joined(scene: &Scene, name: &str) -> Result<Machine> {
    let machine = scene.machine(name)?;
    scene.join_by_hand(&machine, &scene.platform.user_key(name).await?).await?;
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
async fn run(machine: &Machine, exec: bool, work: Work) -> Result<f64> {
    let page = |path: &str| format!("http://peer:{PORT}/{path}");
    let mut curl: Vec<String> =
        ["curl", "--silent", "--show-error", "--fail", "--retry", "5", "--retry-connrefused"].map(str::to_owned).into();
    curl.extend(["--write-out", "%{time_total} %{time_namelookup}\n"].map(str::to_owned));
    match work {
        Work::Down => curl.extend(["--output".to_owned(), "/dev/null".to_owned(), page("down")]),
        Work::Up => curl.extend(["--upload-file".to_owned(), FILE.to_owned(), page("up")]),
        Work::Answers => {
            for _ in 0..REQUESTS {
                curl.extend(["--output".to_owned(), "/dev/null".to_owned(), page("answer")]);
            }
        }
    }
    let mut command = if exec { machine.ordinary("devbox-agent") } else { machine.command("curl") };
    if exec {
        let wait_for = format!("peer:{PORT}");
        command
            .args(["exec", "--quiet", "--wait-for", &wait_for, "--", "sh", "-c", "sleep $0; exec \"$@\"", SETTLED])
            .args(&curl);
    } else {
        command.args(&curl[1..]);
    }
    seconds(&output(machine, command).await?)
}

async fn output(machine: &Machine, command: Command) -> Result<Output> {
    let output = machine.exec(command).await?;
    ensure!(output.status.success(), "curl ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

/// The sum over all requests of the time after the look-up.
fn seconds(output: &Output) -> Result<f64> {
    let said = String::from_utf8_lossy(&output.stdout);
    let lines = said.lines().map(|line| {
        let (total, name) = line.split_once(' ').context("curl said something else")?;
        anyhow::Ok(total.parse::<f64>()? - name.parse::<f64>()?)
    });
    lines.sum()
}
