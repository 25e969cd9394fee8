//! A booted machine that the platform knows, with the agent in it from its package: what the stories of the suite `boot` are about.

use std::fs;
use std::ops::Deref;
use std::time::Duration;

use anyhow::{Context, Result};
use devbox_agent::clock::{BootTime, Clock, SystemClock};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_agent::socket::document::Document;

use super::{Instance, LIMIT, STATUS};
use crate::machine::{Booted, Link, eventually};
use crate::scene::Scene;

/// The agent's unit.
pub const AGENT: &str = "devbox-agent.service";
/// The unit that the agent supervises.
pub const TAILSCALED: &str = "tailscaled.service";

/// A machine that boots, with the agent installed and enabled, and its instance.
pub struct Installed<'a> {
    instance: Instance<'a>,
    /// The machine.
    pub machine: Booted,
}

/// It is an instance, with a machine to it.
impl<'a> Deref for Installed<'a> {
    type Target = Instance<'a>;

    fn deref(&self) -> &Instance<'a> {
        &self.instance
    }
}

impl<'a> Installed<'a> {
    /// Makes the devbox `name`, which the platform wants in the tailnet as `tag:devbox`; switched off.
    ///
    /// # Errors
    /// When the machine cannot be made.
    pub fn devbox(scene: &'a Scene, name: &str) -> Result<Self> {
        Self::of_kind(scene, name, "devbox", "tag:devbox")
    }

    /// Makes the runner `name`, which the platform wants in the tailnet as `tag:ci`; switched off.
    ///
    /// # Errors
    /// When the machine cannot be made.
    pub fn runner(scene: &'a Scene, name: &str) -> Result<Self> {
        Self::of_kind(scene, name, "runner", "tag:ci")
    }

    /// Makes a devbox, boots it and waits until it is on the tailnet.
    ///
    /// # Errors
    /// When it does not get there.
    pub async fn joined(scene: &'a Scene, name: &str) -> Result<Self> {
        let mut devbox = Self::devbox(scene, name)?;
        devbox.boot().await?;
        devbox.online().await?;
        Ok(devbox)
    }

    /// Makes a devbox on which nobody has installed the agent yet, only its configuration; switched off.
    ///
    /// # Errors
    /// When the machine cannot be made.
    pub fn bare(scene: &'a Scene, name: &str) -> Result<Self> {
        let machine = scene.bare(name)?;
        let instance = Instance::announce(scene, name, machine.address(), "devbox", "tag:devbox");
        Ok(Self { instance, machine })
    }

    fn of_kind(scene: &'a Scene, name: &str, kind: &str, tag: &str) -> Result<Self> {
        let machine = scene.baked(name)?;
        let instance = Instance::announce(scene, name, machine.address(), kind, tag);
        Ok(Self { instance, machine })
    }

    /// Switches the machine on and waits until its boot has finished, without a failed unit.
    ///
    /// # Errors
    /// When it does not, or a unit has failed.
    pub async fn boot(&mut self) -> Result<()> {
        self.boot_with(&[], Link::Up).await
    }

    /// The same with words on the kernel command line, and with a network that is there from the start or not.
    ///
    /// # Errors
    /// When it does not, or a unit has failed.
    pub async fn boot_with(&mut self, words: &[&str], link: Link) -> Result<()> {
        self.machine.boot_with(words, link).await?;
        self.machine.settle().await
    }

    /// Reboots the machine and waits until its boot has finished, without a failed unit.
    ///
    /// # Errors
    /// When it does not, or a unit has failed.
    pub async fn reboot(&mut self) -> Result<()> {
        self.machine.reboot().await?;
        self.machine.settle().await
    }

    /// The status document of the agent that runs now, if it has written one.
    ///
    /// # Errors
    /// When it is none.
    pub fn document(&self) -> Result<Option<Document>> {
        let Ok(text) = fs::read(self.machine.path(STATUS)) else { return Ok(None) };
        let document: Document = serde_json::from_slice(&text).context("failed to parse status.json")?;
        // The document outlives its agent.
        let process = self.machine.path(format!("/proc/{}/comm", document.agent.pid));
        Ok(process.exists().then_some(document))
    }

    /// Waits until the agent says something.
    ///
    /// # Errors
    /// When it does not; with what it says instead, and its journal.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Document) -> bool) -> Result<Document> {
        match eventually(what, LIMIT, || async { Ok(self.document()?.filter(&wanted)) }).await {
            Ok(document) => Ok(document),
            Err(error) => Err(error.context(self.tale().await?)),
        }
    }

    /// Waits until the agent is in a phase, for a reason.
    ///
    /// # Errors
    /// When it does not get there.
    pub async fn until_phase(&self, phase: Phase, reason: impl Into<Option<Code>>) -> Result<Document> {
        let reason = reason.into();
        let what = format!("{phase} {reason:?}");
        let is = |document: &Document| document.reason.as_ref().map(|reason| reason.code) == reason;
        self.until(&what, |document| document.phase == phase && is(document)).await
    }

    /// Waits until the node is online.
    ///
    /// # Errors
    /// When it does not get there.
    pub async fn online(&self) -> Result<Document> {
        self.until_phase(Phase::Online, None).await
    }

    /// Waits until a unit is in a state.
    ///
    /// # Errors
    /// When it does not get there; with what systemd and the agent say.
    pub async fn until_unit(&self, unit: &str, state: &str) -> Result<()> {
        match self.machine.until_unit(unit, state, LIMIT).await {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(self.tale().await?)),
        }
    }

    /// How long after PID 1 began a unit became active, if it did.
    ///
    /// # Errors
    /// When systemd does not say.
    pub async fn active_after(&self, unit: &str) -> Result<Option<Duration>> {
        let began = self.machine.started().await?;
        let active = self.machine.moment(unit, "ActiveEnterTimestamp").await?;
        Ok(active.map(|active| active.saturating_sub(began)))
    }

    /// How long after PID 1 began a moment of the agent's was; PID 1 tells its time by CLOCK_MONOTONIC.
    ///
    /// # Errors
    /// When systemd does not say.
    pub async fn after_start(&self, moment: BootTime) -> Result<Duration> {
        let (now, began) = (SystemClock.now(), self.machine.started().await?);
        let ago = now.boot.since(moment);
        Ok(now.monotonic.saturating_sub(ago).saturating_sub(began))
    }

    /// What the agent says of itself, and the end of the units' journal: for the failure of a story.
    async fn tale(&self) -> Result<String> {
        let status = fs::read_to_string(self.machine.path(STATUS)).unwrap_or_else(|error| error.to_string());
        let journal =
            self.machine.run("journalctl", &["-b", "--no-pager", "--lines=80", "--output=short-monotonic"]).await?;
        Ok(format!("the agent of {} says: {status}\nthe journal ends:\n{journal}", self.id))
    }
}
