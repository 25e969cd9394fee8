//! The side of exec that stays outside: it gets the credential, has the node join, passes signals on, and gives the exit code.

mod edges;
mod link;
mod resolver;
mod run;
pub(super) mod signals;
mod supervisor;
mod voice;

use std::os::fd::OwnedFd;

use nix::sys::signal::SigSet;
use tokio::net::unix::pipe;

use self::link::Link;
use self::run::Run;
use self::voice::Voice;
use super::control::News;
use super::failure::Failure;
use super::preflight;
use super::sandbox::{Handle, Programs};
use super::{Request, Services};
use crate::sys::dumpable;
use crate::tailscaled::child::tail::{Tail, told};

/// What the session is given besides the request.
pub(super) struct Given {
    pub handle: Handle,
    pub signals: SigSet,
    pub programs: Programs,
    /// The reading ends of the pipes that tailscaled, and pasta and nft, write to.
    pub outputs: [std::io::PipeReader; 2],
}

/// Runs until the command has ended and its node is gone; gives the exit code.
pub(super) async fn run(
    request: &Request,
    given: Given,
    services: impl FnOnce() -> anyhow::Result<Services>,
) -> Result<u8, Failure> {
    let own = Failure::own("watch the sandbox");
    let link = Link::new(given.handle.control).map_err(&own)?;
    let signals = signals::Signals::of(&given.signals).map_err(&own)?;
    let room = built(&link).await?;
    if request.check {
        preflight::fit(&given.programs, request.settings.daemon.min_version)?;
        eprintln!("devbox-agent exec: it would work here");
        return Ok(0);
    }
    // The sandbox is a process of its own by now, and has its maps; from here on this one holds credentials.
    dumpable::forbid().map_err(Failure::own("forbid core dumps"))?;
    let services = services().map_err(|error| Failure::Services(format!("{error:#}")))?;
    let [tailscaled, others] = given.outputs;
    let outputs = [output(tailscaled)?, output(others)?];
    let voice = Voice::new(request, services.clock.clone()).map_err(Failure::own("open what --json names"))?;
    Run::new(request, link, edges::Room::new(room), signals, outputs, voice).until_done(services).await
}

/// The sandbox's directory: the namespaces stand.
async fn built(link: &Link) -> Result<OwnedFd, Failure> {
    match link.next().await.map_err(Failure::own("hear of the sandbox"))? {
        Some((News::Built, packet)) => packet.descriptor.ok_or(Failure::Silent),
        Some((News::Unbuilt { step, errno }, _)) => Err(Failure::sandbox(step, errno)),
        _ => Err(Failure::Silent),
    }
}

/// The last lines that a program of the sandbox wrote.
struct Lines {
    tail: Tail,
    pipe: pipe::Receiver,
}

fn output(pipe: std::io::PipeReader) -> Result<Lines, Failure> {
    let pipe =
        pipe::Receiver::from_owned_fd(pipe.into()).map_err(Failure::own("read what the sandbox's programs say"))?;
    Ok(Lines { tail: Tail::default(), pipe })
}

impl Lines {
    /// Takes in what is written; returns when nobody can write any more.
    async fn follow(&mut self) {
        self.tail.follow(&mut self.pipe).await;
    }

    /// What was written last, as part of a sentence.
    async fn told(&mut self) -> String {
        // What an ended program wrote is in the pipe already; that the sandbox has it open too keeps the end of it away.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(10), self.follow()).await;
        told(&std::mem::take(&mut self.tail).into_lines())
    }
}
