//! What a booted machine's PID 1 says of itself and its units.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Booted;
use crate::machine::lab::eventually;

/// Between two looks at a machine that has begun to boot; until PID 1 listens there is nothing to wait on.
const GLANCE: Duration = Duration::from_millis(10);
/// How long a boot may take, until `systemctl is-system-running` answers; some 1.3 s, and more on a machine that boots others.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

impl Booted {
    /// Waits until the boot has finished, without a failed unit.
    ///
    /// # Errors
    /// When it does not finish, or a unit has failed; with what that unit said.
    pub async fn settle(&self) -> Result<()> {
        let state = tokio::time::timeout(BOOT_LIMIT, self.booted_state()).await;
        let state = state.with_context(|| format!("{} did not finish its boot in time", self.name()))??;
        if state == "running" {
            return Ok(());
        }
        let failed = self.failed_units().await?;
        let names: Vec<&str> = failed.iter().map(String::as_str).collect();
        let said =
            self.exec_lossy("systemctl", &[&["status", "--no-pager", "--full"], names.as_slice()].concat()).await?;
        bail!("{} is {state}, with failed units {failed:?}:\n{said}", self.name())
    }

    /// The state that `systemctl is-system-running --wait` ends with. Before PID 1 listens there is none, and systemctl fails.
    async fn booted_state(&self) -> Result<String> {
        loop {
            let state = self.exec_lossy("systemctl", &["is-system-running", "--wait"]).await?;
            if matches!(state.trim(), "running" | "degraded" | "maintenance" | "stopping") {
                return Ok(state.trim().to_owned());
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Enables or disables a unit of a machine that is off.
    ///
    /// # Errors
    /// When it is on, or systemctl fails.
    pub fn enable(&self, unit: &str, enabled: bool) -> Result<()> {
        ensure!(self.power.is_none(), "failed to change {unit}: {} is on", self.name());
        let verb = if enabled { "enable" } else { "disable" };
        let mut systemctl = Command::new("systemctl");
        systemctl.arg(format!("--root={}", self.disk.root().display())).args(["--quiet", verb, unit]);
        let output = systemctl.stdin(Stdio::null()).output().context("failed to run systemctl")?;
        ensure!(output.status.success(), "failed to {verb} {unit}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// The units that have failed.
    ///
    /// # Errors
    /// When systemctl fails.
    pub async fn failed_units(&self) -> Result<Vec<String>> {
        let list = self.run("systemctl", &["list-units", "--failed", "--plain", "--no-legend"]).await?;
        Ok(list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// A property of a unit, or of PID 1 itself for the unit "".
    ///
    /// # Errors
    /// When systemctl fails or there is no such property.
    pub async fn show(&self, unit: &str, property: &str) -> Result<String> {
        let mut all = self.show_all(unit, &[property]).await?;
        all.remove(property).with_context(|| format!("failed to find the property {property} of {unit:?}"))
    }

    /// Properties of a unit, or of PID 1 itself for the unit "", as `systemctl show` names and writes them.
    ///
    /// # Errors
    /// When systemctl fails.
    pub async fn show_all(&self, unit: &str, properties: &[&str]) -> Result<BTreeMap<String, String>> {
        let wanted = format!("--property={}", properties.join(","));
        let asked = ["show", wanted.as_str(), "--", unit];
        let shown = self.run("systemctl", if unit.is_empty() { &asked[..2] } else { &asked }).await?;
        let pairs = shown.lines().filter_map(|line| line.split_once('='));
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// A moment in the life of a unit, or of PID 1 itself for the unit "", such as `ActiveEnterTimestamp`; none when it has not come. By
    /// CLOCK_MONOTONIC, which all machines share with their host.
    ///
    /// # Errors
    /// When systemctl fails or there is no such property.
    pub async fn moment(&self, unit: &str, property: &str) -> Result<Option<Duration>> {
        let text = self.show(unit, &format!("{property}Monotonic")).await?;
        let micros: u64 = text.parse().with_context(|| format!("failed to read {property} of {unit:?}: {text:?}"))?;
        Ok((micros > 0).then(|| Duration::from_micros(micros)))
    }

    /// When PID 1 began, by the same clock.
    ///
    /// # Errors
    /// When systemctl fails.
    pub async fn started(&self) -> Result<Duration> {
        self.moment("", "UserspaceTimestamp").await?.context("PID 1 does not know when it began")
    }

    /// Waits until a unit is in a state, such as `active` or `failed`.
    ///
    /// # Errors
    /// When it does not get there within `limit`; with what it says.
    pub async fn until_unit(&self, unit: &str, state: &str, limit: Duration) -> Result<()> {
        // While PID 1 does not listen yet, systemctl has only an error to tell.
        let ask = ["show", "--property=ActiveState", "--value", "--", unit];
        let look = || async { Ok((self.exec_lossy("systemctl", &ask).await?.trim() == state).then_some(())) };
        match eventually(&format!("{unit} to be {state}"), limit, look).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let said = self.exec_lossy("systemctl", &["status", "--no-pager", "--full", "--", unit]).await?;
                Err(error.context(said))
            }
        }
    }

    /// What a program wrote to both outputs, whatever it ended with.
    async fn exec_lossy(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(program);
        command.args(arguments);
        let output = self.exec(command).await?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }
}
