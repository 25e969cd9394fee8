//! The side of exec that stays outside: it gets the credential, has the node join, passes signals on, and gives the exit code.

mod check;
mod directory;
mod edges;
mod lines;
mod link;
mod progress;
mod record;
mod resolver;
mod run;
pub(super) mod signals;
mod supervisor;

use std::io::PipeReader;
use std::os::fd::OwnedFd;

use nix::sys::signal::SigSet;
use tokio::time::Instant;

use self::directory::Directory;
use self::lines::Lines;
use self::link::Link;
use self::record::Record;
use self::run::Run;
use self::signals::Signals;
use super::control::News;
use super::failure::Failure;
use super::sandbox::{Handle, Programs};
use super::{Request, Services};
use crate::sys::dumpable;

/// What the session is given besides the request.
pub(super) struct Given {
    pub handle: Handle,
    pub signals: SigSet,
    pub programs: Programs,
    /// The reading ends of the pipes that tailscaled, and pasta and nft, write to.
    pub outputs: [PipeReader; 2],
}

/// Runs until the command has ended and its node is gone; gives the exit code.
pub(super) async fn run(
    request: &Request,
    given: Given,
    services: impl AsyncFnOnce() -> anyhow::Result<Services>,
) -> Result<u8, Failure> {
    let own = Failure::own("watch the sandbox");
    let link = Link::new(given.handle.control).map_err(&own)?;
    let mut signals = Signals::of(&given.signals).map_err(&own)?;
    let [tailscaled, others] = given.outputs;
    let outputs = [Lines::of(tailscaled)?, Lines::of(others)?];
    let deadline = Instant::now() + request.join_timeout;
    let late = |what| Failure::late(what, request);
    let built = tokio::time::timeout_at(deadline, built(&link));
    let built = unless_ended(&mut signals, built).await?;
    let directory = Directory::new(built.map_err(|_| late("the sandbox did not stand"))??);
    if request.check {
        return unless_ended(&mut signals, check::run(request, &link, outputs, &given.programs)).await?;
    }
    // The sandbox is a process of its own by now, and has its maps; from here on this one holds credentials.
    dumpable::forbid().map_err(Failure::own("forbid core dumps"))?;
    let services = unless_ended(&mut signals, tokio::time::timeout_at(deadline, services())).await?;
    let services = services.map_err(|_| late("there was no credential"))?;
    let services = services.map_err(|error| Failure::Services(format!("{error:#}")))?;
    let record = Record::open(request, services.clock.clone()).map_err(Failure::own("open what --json names"))?;
    Run::new(request, link, directory, signals, outputs, record, deadline).until_done(services).await
}

/// The sandbox's directory: the namespaces stand.
async fn built(link: &Link) -> Result<OwnedFd, Failure> {
    match link.next().await? {
        (News::Built, packet) => packet.descriptor.ok_or(Failure::Silent),
        _ => Err(Failure::Silent),
    }
}

/// Does some work that comes before the command, unless somebody ends the run meanwhile.
async fn unless_ended<T>(signals: &mut Signals, work: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::select! {
        done = work => Ok(done),
        ended = ended_before(signals) => Err(ended),
    }
}

/// Waits until somebody ends the run.
async fn ended_before(signals: &mut Signals) -> Failure {
    loop {
        match signals.next().await {
            Ok(arrived) if arrived.ends() => return Failure::Interrupted { signal: arrived.signal, reason: None },
            Ok(_) => {}
            Err(source) => return Failure::own("read signals")(source),
        }
    }
}
