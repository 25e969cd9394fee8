//! The interfaces as their manuals declare them (org.freedesktop.systemd1(5), login1(5), hostname1(5)); only what is used.

use zbus::proxy;
use zbus::{ObjectPath, OwnedObjectPath};

/// PID 1.
#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
pub trait Manager {
    /// Asks for the signals below.
    fn subscribe(&self) -> zbus::Result<()>;
    /// The unit's object; loads it when it is not in memory, also when there is no such unit.
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    /// The unit that a process belongs to.
    #[zbus(name = "GetUnitByPID")]
    fn get_unit_by_pid(&self, pid: u32) -> zbus::Result<OwnedObjectPath>;
    /// Queues a start and returns its job.
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    /// Queues a stop and returns its job.
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    /// Forgets a failure, and how often the unit was started.
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    /// `initializing`, `starting`, `running`, `degraded`, `maintenance` or `stopping`.
    #[zbus(property(emits_changed_signal = "false"))]
    fn system_state(&self) -> zbus::Result<String>;
    /// A job is over: `done`, `canceled`, `timeout`, `failed`, `dependency` or `skipped`.
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: ObjectPath<'_>, unit: String, result: String) -> zbus::Result<()>;
    /// Unit files were enabled, disabled, masked or unmasked.
    #[zbus(signal)]
    fn unit_files_changed(&self) -> zbus::Result<()>;
    /// Unit files are read again (true), or were (false).
    #[zbus(signal)]
    fn reloading(&self, active: bool) -> zbus::Result<()>;
}

/// Any unit.
#[proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
pub trait Unit {
    /// `loaded`, `not-found`, `masked`, `bad-setting` or `error`.
    #[zbus(property)]
    fn load_state(&self) -> zbus::Result<String>;
    /// `active`, `reloading`, `inactive`, `failed`, `activating` or `deactivating`.
    #[zbus(property)]
    fn active_state(&self) -> zbus::Result<String>;
    /// The state in the words of the unit's type, such as `auto-restart`.
    #[zbus(property)]
    fn sub_state(&self) -> zbus::Result<String>;
    /// `enabled`, `disabled`, `static`, `masked`, …
    #[zbus(property(emits_changed_signal = "false"))]
    fn unit_file_state(&self) -> zbus::Result<String>;
    /// The job that waits or runs, and its object; 0 when there is none.
    #[zbus(property)]
    fn job(&self) -> zbus::Result<(u32, OwnedObjectPath)>;
    /// Tells one run of the unit from every other; empty when it was never started.
    #[zbus(property, name = "InvocationID")]
    fn invocation_id(&self) -> zbus::Result<Vec<u8>>;
    /// Whether the conditions held when the unit was last started.
    #[zbus(property)]
    fn condition_result(&self) -> zbus::Result<bool>;
}

/// A service unit.
#[proxy(interface = "org.freedesktop.systemd1.Service", default_service = "org.freedesktop.systemd1")]
pub trait Service {
    /// `success`, or how it failed: `exit-code`, `signal`, `timeout`, `start-limit-hit`, …
    #[zbus(property)]
    fn result(&self) -> zbus::Result<String>;
    /// The main process; 0 when there is none.
    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> zbus::Result<u32>;
    /// The last main process, also when it is gone; 0 when there was none.
    #[zbus(property, name = "ExecMainPID")]
    fn exec_main_pid(&self) -> zbus::Result<u32>;
    /// The exit status or signal of the last main process.
    #[zbus(property)]
    fn exec_main_status(&self) -> zbus::Result<i32>;
}

/// A job of PID 1.
#[proxy(interface = "org.freedesktop.systemd1.Job", default_service = "org.freedesktop.systemd1")]
pub trait Job {
    /// `start`, `stop`, `restart`, …
    #[zbus(property, name = "JobType")]
    fn job_type(&self) -> zbus::Result<String>;
}

/// logind.
#[proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
pub trait Login {
    /// The machine is about to shut down (true), or that was taken back (false).
    #[zbus(signal)]
    fn prepare_for_shutdown(&self, start: bool) -> zbus::Result<()>;
    /// The machine is about to sleep (true), or was woken (false).
    #[zbus(signal)]
    fn prepare_for_sleep(&self, start: bool) -> zbus::Result<()>;
}

/// hostnamed.
#[proxy(
    interface = "org.freedesktop.hostname1",
    default_service = "org.freedesktop.hostname1",
    default_path = "/org/freedesktop/hostname1"
)]
pub trait Hostname {
    /// Writes the static name; `interactive` would let polkit ask a person.
    fn set_static_hostname(&self, name: &str, interactive: bool) -> zbus::Result<()>;
}
