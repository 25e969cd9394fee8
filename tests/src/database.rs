//! A real PostgreSQL in a machine: the private service that people keep on a tailnet.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::machine::{Machine, Process, eventually};

/// Where the cluster is, on the machine's own tmpfs.
const CLUSTER: &str = "/run/database";
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
        // It refuses to be root.
        let mut initdb = machine.ordinary("initdb");
        initdb.args(["-D", CLUSTER, "-U", "app", "-A", "trust", "--locale=C.UTF-8", "--no-sync"]);
        let made = machine.exec(initdb).await?;
        ensure!(made.status.success(), "failed to make a cluster: {}", String::from_utf8_lossy(&made.stderr));
        machine.root().write(format!("{CLUSTER}/pg_hba.conf"), "host all all 100.64.0.0/10 trust\n")?;
        let mut server = machine.ordinary("postgres");
        server.args(["-D", CLUSTER, "-c", &format!("listen_addresses={address}"), "-c", "unix_socket_directories="]);
        server.args(["-c", "fsync=off", "-c", "dynamic_shared_memory_type=mmap"]);
        let server = machine.spawn(server)?;
        let serves = async || Ok(server.log()?.contains(READY).then_some(()));
        let served = eventually("PostgreSQL to serve", LIMIT, serves).await;
        served.with_context(|| server.log().unwrap_or_default())?;
        Ok(Self { _server: server })
    }
}
