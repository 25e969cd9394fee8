//! `exec`: one command on a tailnet node of its own, without root, gone when the command ends.
//!
//! Two processes share the work. The session stays where it was called, holds the credentials, and speaks HTTP and LocalAPI. The sandbox is
//! PID 1 of namespaces of its own, fetches no credential, and starts what lives in them: pasta, tailscaled, and the command. The kernel ends
//! the sandbox with the session, and everything else with the sandbox.

mod auth_key;
mod control;
mod failure;
mod firewall;
mod host;
mod preflight;
mod routes;
mod sandbox;
mod session;
mod streams;

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::tcgetpgrp;

pub use self::auth_key::AuthKeyFile;
pub use self::failure::FAILED;
use self::failure::Failure;
use self::firewall::Rules;
use self::host::Host;
pub use self::sandbox::Target;
use self::sandbox::{Inherited, Output, Plan};
use self::session::Given;
use self::session::signals::{self, Blocked};
use crate::clock::{Clock, Now};
use crate::config::Settings;
use crate::federation::Federation;
use crate::metadata::Metadata;
use crate::sys::children;

/// What is asked for.
pub struct Request {
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// The command's environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Descriptors of the caller's that hold a credential; the session alone keeps them.
    pub withheld: Vec<RawFd>,
    /// `--auth-key` gave the key.
    pub auth_key: bool,
    /// tailscaled's, besides what it is always given.
    pub daemon_environment: Vec<(OsString, OsString)>,
    /// Everything that configuration decides.
    pub settings: Settings,
    /// Only see whether it would work.
    pub check: bool,
    /// Nothing but the tailnet is reached.
    pub tailnet_only: bool,
    /// Ports of the command that peers may open.
    pub publish: Vec<u16>,
    /// The name or address of the node through which the ordinary network is reached.
    pub exit_node: Option<String>,
    /// What must answer before the command starts.
    pub wait_for: Option<Target>,
    /// How long until the command runs.
    pub join_timeout: Duration,
    /// How long the command may run.
    pub timeout: Option<Duration>,
    /// The file that a record of the run is appended to, one JSON object a line.
    pub record: Option<PathBuf>,
    /// No line of progress.
    pub quiet: bool,
    /// Whether the command shares the caller's process group, and so the terminal's signals.
    pub shared_group: bool,
    /// When the run began.
    pub began: Now,
}

/// What the session speaks to; made after the sandbox, so that the sandbox has nothing of it.
pub struct Services {
    /// Where spec and token come from.
    pub metadata: Arc<dyn Metadata>,
    /// Tokens traded for keys.
    pub federation: Arc<dyn Federation>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Whether a command should share the caller's process group: where there is a terminal, job control then needs no help.
pub fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(&terminal).is_ok())
}

/// Runs the command; gives its exit code, or 125 when exec itself failed. To be called while this process has one thread.
pub fn run(request: &Request, services: impl AsyncFnOnce() -> anyhow::Result<Services>) -> u8 {
    match try_run(request, services) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{}", failure.line());
            failure.code()
        }
    }
}

fn try_run(request: &Request, services: impl AsyncFnOnce() -> anyhow::Result<Services>) -> Result<u8, Failure> {
    let forgets_children = children::keep().map_err(Failure::own("have ended children kept"))?;
    let Blocked { set, before } = signals::block(request.shared_group).map_err(Failure::own("block signals"))?;
    let pipe = || std::io::pipe().map_err(Failure::own("make a pipe"));
    let ((tailscaled, to_tailscaled), (others, to_others)) = (pipe()?, pipe()?);
    let output = Output { tailscaled: to_tailscaled.into(), others: to_others.into() };
    let plan = plan(request, output, Inherited { mask: before, forgets_children })?;
    let programs = plan.programs.clone();
    let handle = sandbox::start(plan).map_err(Failure::fork)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::own("start the event loop"))?;
    let given = Given { handle, signals: set, programs, outputs: [tailscaled, others] };
    let result = runtime.block_on(session::run(request, given, services));
    // A thread may still wait for a file or a name; the run is over all the same.
    runtime.shutdown_background();
    result
}

fn plan(request: &Request, output: Output, inherited: Inherited) -> Result<Plan, Failure> {
    let daemon = &request.settings.daemon;
    let host = Host::read().map_err(Failure::own("read the host's addresses"))?;
    if let Some(lack) = host::lack_of_resolver("/etc/resolv.conf".as_ref()) {
        return Err(Failure::Resolver(lack));
    }
    // Where nothing but the tailnet is reached, and tailscaled's sockets are made for it, there is nothing for pasta to do.
    let pasta = !(request.tailnet_only && sandbox::has_broker());
    let rules = Rules {
        tun: daemon.tun.clone(),
        host: host.addresses.iter().copied().chain(request.settings.metadata.provider.address()).collect(),
        own_tailnets: routes::to_own_tailnets().map_err(Failure::own("read the host's routes"))?,
        tailnet_only: request.tailnet_only,
        publish: request.publish.clone(),
    };
    let mut daemon_environment = request.daemon_environment.clone();
    if !daemon.port_mapping {
        daemon_environment.push(("TS_DISABLE_PORTMAPPER".into(), "1".into()));
    }
    Ok(Plan {
        programs: preflight::programs(&daemon.binary, std::env::var_os("PATH").as_deref(), pasta)?,
        host,
        rules,
        daemon_environment,
        command: request.command.clone(),
        environment: request.environment.clone(),
        wait_for: request.wait_for.clone(),
        shared_group: request.shared_group,
        inherited,
        withheld: request.withheld.clone(),
        output,
    })
}
