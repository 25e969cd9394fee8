//! A job of CI, without root, that migrates a private database with `exec`.

use std::net::IpAddr;
use std::process::{Command, ExitCode, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::teller::Teller;
use super::{LIMIT, conclude, secrets};
use crate::database::Database;
use crate::devbox::Devbox;
use crate::machine::{Lab, Machine, eventually};
use crate::platform::github::{Job, TokenService};
use crate::scene::Scene;

/// What an image builder writes into the image, or a repository's administrator into the workflow. That the token is GitHub's, the job tells.
const CONFIGURATION: &str = "[tailnet]\nclient_id = \"lab-client\"\n";
/// What the job brings along.
const MIGRATION: &str = "create table accounts (id int primary key, name text not null);\n\
                         insert into accounts select n, 'account ' || n from generate_series(1, 1000) n;\n";
const RECORD: &str = "/run/record";

/// Plays all acts; succeeds when each saw what it should.
///
/// # Errors
/// When the logs of a failed play cannot be kept.
pub async fn play(lab: Lab) -> Result<ExitCode> {
    let (mut teller, logs, start) = (Teller::new(), lab.layout().logs.clone(), Instant::now());
    let played = acts(&mut teller, lab).await;
    conclude(&teller, played, &logs, start)
}

async fn acts(teller: &mut Teller, lab: Lab) -> Result<()> {
    teller.act("A PostgreSQL listens on the tailnet, and nowhere else");
    let start = Instant::now();
    let scene = Scene::start(lab).await?;
    let (database, _server) = database(&scene).await?;
    teller.took("PostgreSQL serves on the address of its machine's node", start.elapsed());
    let stage = Stage::set(&scene, &database).await?;
    stage.cannot_reach(teller).await?;
    teller.act("A job of GitHub Actions migrates it");
    stage.migrate(teller).await?;
    teller.act("The job reaches the tailnet and the ordinary network, and nothing of its own machine");
    stage.looks_around(teller).await?;
    teller.act("Nothing is left");
    stage.is_clean(teller).await
}

async fn database(scene: &Scene) -> Result<(Machine, Database)> {
    let machine = scene.machine("db")?;
    scene.join_by_hand(&machine, &scene.platform.user_key("ada").await?).await?;
    let node = scene.platform.nodes().await?.into_iter().find(|node| node.given_name == "db");
    let node = node.context("expected the node db, saw none")?;
    let v4 = node.ip_addresses.iter().find(|address| address.parse().is_ok_and(|address: IpAddr| address.is_ipv4()));
    let server = Database::open(&machine, v4.context("expected an IPv4 address of db, saw none")?).await?;
    Ok((machine, server))
}

/// The runner's machine, and the job on it.
struct Stage<'a> {
    scene: &'a Scene,
    runner: Devbox<'a>,
    job: Job,
    service: TokenService,
    environment: Vec<(String, String)>,
    database: IpAddr,
}

impl<'a> Stage<'a> {
    async fn set(scene: &'a Scene, database: &Machine) -> Result<Self> {
        let service = scene.platform.github().await?;
        let job = Job::new("acme/shop", "runner-7");
        let runner = Devbox::elsewhere(scene, "runner", &job.subject(), CONFIGURATION)?;
        runner.machine.root().write("/run/migration.sql", MIGRATION)?;
        let environment = service.begin(&job)?;
        Ok(Self { scene, runner, job, service, environment, database: IpAddr::V4(database.address()) })
    }

    /// The job's own machine is on no tailnet.
    async fn cannot_reach(&self, teller: &Teller) -> Result<()> {
        let mut psql = self.command("psql");
        psql.args(["-h", &self.database.to_string(), "-U", "app", "-c", "select 1", "postgres"]);
        let output = self.runner.machine.exec(psql).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(said.contains("Connection refused"), "expected the runner to be refused, saw {said:?}");
        teller.seen("psql from the runner, on the network they share: connection refused");
        Ok(())
    }

    async fn migrate(&self, teller: &Teller) -> Result<()> {
        let start = Instant::now();
        let psql =
            ["psql", "-v", "ON_ERROR_STOP=1", "-q", "-h", "db", "-U", "app", "-f", "/run/migration.sql", "postgres"];
        self.exec(&["--wait-for", "db:5432"], &psql).await?;
        teller.took("$ devbox-agent exec --tag tag:ci --wait-for db:5432 -- psql -h db …", start.elapsed());
        let asked = self.service.server.log.of(&TokenService::route(&self.job)).len();
        ensure!(asked == 1, "expected one token to be fetched, saw {asked}");
        let record = std::fs::read_to_string(self.runner.machine.root().path(RECORD))?;
        let lines: Vec<Value> = record.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let [started, ended] = lines.as_slice() else { anyhow::bail!("expected two lines of record, saw {record:?}") };
        teller.detail(format_args!(
            "as {}, {}",
            started["node"]["dns_name"].as_str().unwrap_or_default(),
            started["node"]["tags"]
        ));
        teller.took("  the command ran after", milliseconds(started)?);
        teller.took("  the run had ended after", milliseconds(ended)?);
        let count = self
            .exec(&[], &["psql", "-At", "-h", "db", "-U", "app", "-c", "select count(*) from accounts", "postgres"])
            .await?;
        ensure!(count.trim() == "1000", "expected 1000 accounts, saw {count:?}");
        teller.seen("another run counts 1000 accounts");
        Ok(())
    }

    async fn looks_around(&self, teller: &Teller) -> Result<()> {
        let platform = self.scene.platform.control_url();
        let host = self.runner.machine.address();
        let caller = self.exec(&[], &["id", "-u"]).await?;
        teller.seen(format_args!("the command is the caller: uid {}", caller.trim()));
        for (what, url) in [
            ("the metadata endpoint", "http://169.254.169.254/devbox/v1/token".to_owned()),
            ("the machine itself", format!("http://{host}:1/")),
        ] {
            let script = format!("curl -sS -m 3 {url} 2>&1; true");
            let said = self.exec(&[], &["sh", "-c", &script]).await?;
            ensure!(
                said.contains("Failed to connect") || said.contains("Couldn't connect"),
                "expected {what} refused, saw {said:?}"
            );
            teller.seen(format_args!("{what}: refused"));
        }
        let script = format!("curl -sS -m 3 -o /dev/null -w '%{{http_code}}' {platform}/health");
        let only = self
            .exec(
                &["--tailnet-only"],
                &["sh", "-c", &format!("{script} 2>/dev/null; pg_isready -q -h db && echo ' db'")],
            )
            .await?;
        ensure!(only.trim() == "000 db", "expected nothing but the tailnet, saw {only:?}");
        teller.seen("with --tailnet-only: the database, and nothing else");
        Ok(())
    }

    async fn is_clean(&self, teller: &Teller) -> Result<()> {
        eventually("Headscale to forget the job's nodes", LIMIT, || async {
            let nodes = self.scene.platform.nodes().await?;
            Ok(nodes.iter().all(|node| node.given_name == "db").then_some(()))
        })
        .await?;
        teller.seen("the tailnet has the database's node, and no other");
        let mut search = secrets::search(self.scene);
        for folder in secrets::FOLDERS {
            search.folder(&self.runner.machine.root().path(folder))?;
        }
        search.folder(&self.scene.lab.layout().logs)?;
        secrets::check(&search)?;
        teller.seen(format_args!("none of {} tokens and keys in {} files", search.secrets(), search.looked()));
        Ok(())
    }

    /// A program in the job's environment, as an ordinary user.
    fn command(&self, program: &str) -> Command {
        let mut command = self.runner.machine.ordinary(program);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command on a node of its own; gives what it printed.
    async fn exec(&self, options: &[&str], command: &[&str]) -> Result<String> {
        let mut exec = self.command("devbox-agent");
        exec.args(["exec", "--tag", "tag:ci", "--json", RECORD]).args(options).arg("--").args(command);
        let output: Output =
            tokio::time::timeout(LIMIT * 2, self.runner.machine.exec(exec)).await.context("expected exec to end")??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "expected exit code 0 of {command:?}, saw {}: {said}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn milliseconds(line: &Value) -> Result<Duration> {
    line["after_ms"].as_u64().map(Duration::from_millis).context("expected a time in the record, saw none")
}
