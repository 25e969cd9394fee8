//! A real PostgreSQL in a machine: the private service that people keep on a tailnet.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::machine::{Machine, Process, eventually};

/// Where Debian keeps the server's programs, by version.
const PROGRAMS: &str = "/usr/lib/postgresql";
/// Where the cluster is, on the machine's own tmpfs.
const CLUSTER: &str = "/run/database";
/// The user that PostgreSQL thinks it is: it refuses to be root.
const OWNER: &str = "1000";
/// The words with which it begins to serve.
const READY: &str = "database system is ready to accept connections";
/// How long it may take to make a cluster and begin; two seconds, on a loaded machine far more.
const LIMIT: Duration = Duration::from_secs(60);

/// A server; the end of the machine ends it.
#[derive(Debug)]
pub struct Database {
    _server: Process,
}

impl Database {
    /// Makes a cluster with the superuser `app`, and listens on one address of the machine and nothing else.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, or does not begin to serve; with what it said.
    pub async fn open(machine: &Machine, address: &str) -> Result<Self> {
        let mut initdb = owned(machine, "initdb")?;
        initdb.args(["-D", CLUSTER, "-U", "app", "-A", "trust", "--locale=C.UTF-8", "--no-sync"]);
        let made = machine.exec(initdb).await?;
        ensure!(made.status.success(), "failed to make a cluster: {}", String::from_utf8_lossy(&made.stderr));
        machine.root().write(format!("{CLUSTER}/pg_hba.conf"), "host all all 100.64.0.0/10 trust\n")?;
        let mut server = owned(machine, "postgres")?;
        server.args(["-D", CLUSTER, "-c", &format!("listen_addresses={address}"), "-c", "unix_socket_directories="]);
        server.args(["-c", "fsync=off", "-c", "dynamic_shared_memory_type=mmap"]);
        let server = machine.spawn(server)?;
        let serves = async || Ok(server.log()?.contains(READY).then_some(()));
        let served = eventually("PostgreSQL to serve", LIMIT, serves).await;
        served.with_context(|| server.log().unwrap_or_default())?;
        Ok(Self { _server: server })
    }
}

/// A program of the server's, as somebody who is not root.
fn owned(machine: &Machine, name: &str) -> Result<Command> {
    let mut command = machine.command("unshare");
    command.args(["--user", "--map-user", OWNER, "--map-group", OWNER, "--"]).arg(program(name)?);
    Ok(command)
}

fn program(name: &str) -> Result<PathBuf> {
    let versions = fs::read_dir(PROGRAMS).with_context(|| format!("failed to look for PostgreSQL in {PROGRAMS}"))?;
    let programs = versions.filter_map(Result::ok).map(|version| version.path().join("bin").join(name));
    programs
        .filter(|program| program.is_file())
        .max()
        .with_context(|| format!("failed to find {name} below {PROGRAMS}"))
}
