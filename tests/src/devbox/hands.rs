//! What an administrator does to a booted machine by hand: units, packages and commands.

use std::fs;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_agent::socket::document::Document;

use super::{Installed, LIMIT, Said};
use crate::machine::eventually;
use crate::machine::sandbox::exit_code;
use crate::platform::headscale::api::Node;

/// A package that a story installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Package {
    /// Tailscale's.
    Tailscale,
    /// The agent's.
    Agent,
}

impl Installed<'_> {
    /// Runs systemctl, which must succeed.
    ///
    /// # Errors
    /// When it does not; with what it said.
    pub async fn systemctl(&self, arguments: &[&str]) -> Result<()> {
        self.machine.run("systemctl", arguments).await.map(drop)
    }

    /// Sends the main process of a unit a signal, such as `KILL`.
    ///
    /// # Errors
    /// When it has none.
    pub async fn signal(&self, unit: &str, signal: &str) -> Result<()> {
        self.systemctl(&["kill", "--kill-whom=main", &format!("--signal={signal}"), unit]).await
    }

    /// The main process of a unit, by its number in the machine; 0 when it has none.
    ///
    /// # Errors
    /// When systemctl fails.
    pub async fn main_pid(&self, unit: &str) -> Result<u32> {
        self.machine.show(unit, "MainPID").await?.parse().context("systemd told no number")
    }

    /// Writes a drop-in of a unit, which PID 1 reads when it boots or reloads.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn drop_in(&self, unit: &str, text: &str) -> Result<()> {
        self.machine.write(drop_in(unit), text)
    }

    /// Removes the drop-in that [`Self::drop_in`] wrote.
    ///
    /// # Errors
    /// When there is none.
    pub fn without_drop_in(&self, unit: &str) -> Result<()> {
        fs::remove_file(self.machine.path(drop_in(unit))).context("failed to remove a drop-in")
    }

    /// Installs a package with dpkg, or installs it once more: an upgrade, as its scripts see it.
    ///
    /// # Errors
    /// When dpkg fails; with what it said.
    pub async fn install(&self, package: Package) -> Result<()> {
        let images = self.scene.lab.layout().images.as_ref().context("there are no packages")?;
        let file = match package {
            Package::Tailscale => &images.tailscale,
            Package::Agent => &images.agent,
        };
        fs::copy(file, self.machine.path("/root/package.deb")).context("failed to hand a package over")?;
        self.machine.run("dpkg", &["--install", "/root/package.deb"]).await.map(drop)
    }

    /// Runs `devbox-agent` with arguments.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn ask(&self, arguments: &[&str]) -> Result<Said> {
        let mut command = self.machine.command("devbox-agent");
        command.args(arguments);
        let Output { status, stdout, stderr } = self.machine.exec(command).await?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Said { code: exit_code(status), answer: text(stdout), talk: text(stderr) })
    }

    /// Runs `devbox-agent` with arguments, which must end with `code`.
    ///
    /// # Errors
    /// When it ends otherwise.
    pub async fn expect(&self, arguments: &[&str], code: u8) -> Result<Said> {
        let said = self.ask(arguments).await?;
        ensure!(said.code == code, "devbox-agent {} did not end with {code}: {said:?}", arguments.join(" "));
        Ok(said)
    }

    /// The machine's static name, as it is kept (hostname(5)).
    ///
    /// # Errors
    /// When there is none.
    pub async fn kept_name(&self) -> Result<String> {
        Ok(self.machine.run("cat", &["/etc/hostname"]).await?.trim().to_owned())
    }

    /// Waits until the machine has a static name.
    ///
    /// # Errors
    /// When it does not get it.
    pub async fn named(&self, name: &str) -> Result<()> {
        let look = || async { Ok((self.kept_name().await? == name).then_some(())) };
        eventually(&format!("the machine to be called {name}"), LIMIT, look).await
    }

    /// Waits until control has the node as wanted; it hears of a change a moment after the agent has made it.
    ///
    /// # Errors
    /// When it does not.
    pub async fn until_node(&self, what: &str, wanted: impl Fn(&Node) -> bool) -> Result<Node> {
        eventually(what, LIMIT, || async { Ok(self.nodes().await?.into_iter().find(&wanted)) }).await
    }

    /// Waits until the node is online and the agent's notices are these.
    ///
    /// # Errors
    /// When that does not come.
    pub async fn online_with(&self, notices: &[Code]) -> Result<Document> {
        let told = |it: &Document| it.notices.iter().map(|notice| notice.code).eq(notices.iter().copied());
        self.until(&format!("online with {notices:?}"), |it| it.phase == Phase::Online && told(it)).await
    }

    /// Waits until the node is online by a tailscaled that was started since this agent saw the first.
    ///
    /// # Errors
    /// When that does not come.
    pub async fn online_after_restarts(&self, restarts: u32) -> Result<Document> {
        let again = |it: &Document| it.phase == Phase::Online && it.daemon.restarts >= restarts;
        self.until("online by another tailscaled", again).await
    }
}

fn drop_in(unit: &str) -> String {
    format!("/etc/systemd/system/{unit}.d/90-story.conf")
}
