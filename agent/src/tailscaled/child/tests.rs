//! The supervisor with small programs in place of tailscaled.

use std::os::unix::net::UnixListener;

use super::*;
use crate::config::settings::SupervisorKind;
use crate::core::reason::Code;

/// A place for one tailscaled.
struct Box {
    directory: tempfile::TempDir,
    environment: Vec<(OsString, OsString)>,
}

/// This test program, started by a script in the role of a tailscaled that listens and then does what `then` says.
fn listens(then: &str) -> String {
    let this = std::env::current_exe().expect("this test");
    let role = "tailscaled::child::tests::role_of_tailscaled --exact --include-ignored --nocapture";
    let after = if then == "ends" { "; echo 'the second thought' >&2; exit 7" } else { "; exit 0" };
    let exec = if then == "ends" { "" } else { "exec " };
    format!("export DEVBOX_AGENT_TEST_THEN={then}; {exec}{} {role} -- \"$@\"{after}", this.display())
}

#[test]
#[ignore = "run by the other tests in the role of tailscaled"]
fn role_of_tailscaled() {
    let variable = |name: &str| std::env::var(name).expect("set by the supervisor");
    let then = variable("DEVBOX_AGENT_TEST_THEN");
    let environment: String = std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect();
    std::fs::write(format!("{}/environment", variable("DEVBOX_AGENT_TEST_DIRECTORY")), environment).expect("written");
    let life = std::fs::File::open(format!("/proc/self/fd/{}", variable("TS_PARENT_DEATH_FD"))).expect("inherited");
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).expect("told");
    if then == "ends" {
        return;
    }
    let ended = io::Read::read(&mut &life, &mut [0]).expect("read");
    assert_eq!(ended, 0, "its parent is gone");
}

impl Box {
    fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut environment: Vec<_> = std::env::vars_os().collect();
        environment.push(("DEVBOX_AGENT_TEST_DIRECTORY".into(), directory.path().into()));
        let this = Self { directory, environment };
        this.write(script);
        this
    }

    /// Written by a process of its own: held open here, the file could not be run while another test's fork holds a copy (ETXTBSY).
    fn write(&self, script: &str) {
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\"; chmod 755 \"$0\"";
        let written =
            std::process::Command::new("sh").args(["-c", write]).arg(self.path("tailscaled")).arg(script).status();
        assert!(written.expect("sh").success());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn supervisor(&self) -> ChildSupervisor {
        let daemon = DaemonSettings {
            supervisor: SupervisorKind::Child,
            unit: "tailscaled.service".into(),
            socket: self.path("tailscaled.sock"),
            binary: self.path("tailscaled"),
            state: self.path("state"),
            tun: "userspace-networking".into(),
            port: 0,
            min_version: (1, 80),
            port_mapping: false,
        };
        let patience = Patience { ready: READY, grace: Duration::from_millis(200) };
        ChildSupervisor { patience, ..ChildSupervisor::new(daemon, self.path("run"), self.environment.clone()) }
    }

    /// The process id in the pid file.
    fn pid(&self) -> u32 {
        let record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(self.path("run/tailscaled.pid")).expect("a pid file")).expect("JSON");
        u32::try_from(record["pid"].as_u64().expect("a number")).expect("a pid")
    }
}

/// Waits for the end of a process that is no longer supervised.
async fn gone(process: Option<crate::sys::pidfd::PidFd>) {
    let process = process.expect("it was there");
    tokio::time::timeout(Duration::from_secs(10), process.ended()).await.expect("in time").expect("ended");
}

fn open(pid: u32) -> Option<crate::sys::pidfd::PidFd> {
    crate::sys::pidfd::PidFd::open(pid).expect("pidfd")
}

#[tokio::test]
async fn it_starts_is_ready_and_stops() {
    let home = Box::new(&listens("waits"));
    let supervisor = home.supervisor();
    supervisor.start().await.expect("ready");
    let process = open(home.pid());
    supervisor.stop().await.expect("stopped");
    gone(process).await;
    assert_eq!(std::fs::read_dir(home.path("run")).expect("the runtime directory").count(), 0, "nothing is left there");
    supervisor.stop().await.expect("nothing to stop is no error");
}

#[tokio::test]
async fn it_is_called_with_its_settings_and_without_what_is_not_its_own() {
    let mut home = Box::new(&format!("echo \"$@\" > \"$DEVBOX_AGENT_TEST_DIRECTORY/arguments\"; {}", listens("waits")));
    let secrets = ["ACTIONS_ID_TOKEN_REQUEST_TOKEN", "TS_AUTHKEY", "LISTEN_FDS", "WATCHDOG_USEC", "STATE_DIRECTORY"];
    home.environment.extend(secrets.map(|name| (name.into(), "canary".into())));
    home.environment.extend([("NOTIFY_SOCKET".into(), "/canary".into()), ("TS_DEBUG_MTU".into(), "1400".into())]);
    let supervisor = home.supervisor();
    supervisor.start().await.expect("ready");
    let arguments = std::fs::read_to_string(home.path("arguments")).expect("told");
    let at = home.directory.path().display();
    let expected = format!("--statedir={at}/state --socket={at}/tailscaled.sock --tun=userspace-networking --port=0\n");
    assert_eq!(arguments, expected);
    let environment = std::fs::read_to_string(home.path("environment")).expect("told");
    assert!(!environment.contains("canary"), "{environment}");
    for line in ["TS_DEBUG_MTU=1400", "TS_DISABLE_PORTMAPPER=1", &format!("TS_LOGS_DIR={at}/state")] {
        assert!(environment.lines().any(|set| set == line), "{line} in {environment}");
    }
    assert!(environment.lines().any(|set| set.starts_with("GOMEMLIMIT=") && set.ends_with("MiB")), "{environment}");
    supervisor.stop().await.expect("stopped");
}

#[tokio::test]
async fn one_that_ignores_sigterm_is_killed() {
    let home = Box::new(&format!("trap '' TERM; {}", listens("waits")));
    let supervisor = home.supervisor();
    supervisor.start().await.expect("ready");
    let process = open(home.pid());
    supervisor.stop().await.expect("stopped");
    gone(process).await;
}

#[tokio::test]
async fn one_that_ends_before_it_is_ready_fails_the_start_with_its_last_words() {
    let home = Box::new("echo starting; echo 'flag provided but not defined' >&2; exit 3");
    let fault = home.supervisor().start().await.expect_err("it ended");
    assert_eq!(fault.code, Code::TailscaledStarting);
    assert!(fault.detail.starts_with("tailscaled ended with exit status 3, 0."), "{}", fault.detail);
    assert!(fault.detail.ends_with("starting | flag provided but not defined"), "{}", fault.detail);
}

#[tokio::test]
async fn without_a_tun_device_the_reason_says_so() {
    let home = Box::new("echo 'is CONFIG_TUN enabled in your kernel? open /dev/net/tun: no such file'; exit 1");
    assert_eq!(home.supervisor().start().await.expect_err("it ended").code, Code::NoTun);
}

#[tokio::test]
async fn without_the_program_the_reason_says_so_and_installing_it_heals() {
    let home = Box::new("");
    std::fs::remove_file(home.path("tailscaled")).expect("removed");
    let supervisor = home.supervisor();
    let fault = supervisor.start().await.expect_err("not there");
    assert_eq!(fault.code, Code::TailscaledMissing);
    assert!(fault.detail.contains("failed to run") && fault.detail.contains("No such file"), "{}", fault.detail);
    home.write(&listens("waits"));
    supervisor.start().await.expect("ready");
    supervisor.stop().await.expect("stopped");
}

#[tokio::test]
async fn one_that_never_says_it_is_ready_is_given_up_and_ended() {
    let home = Box::new("while :; do sleep 1; done");
    let supervisor = home.supervisor();
    let impatient = Patience { ready: Duration::from_millis(300), grace: Duration::from_millis(200) };
    let supervisor = ChildSupervisor { patience: impatient, ..supervisor };
    let fault = supervisor.start().await.expect_err("never ready");
    assert_eq!(fault.code, Code::TailscaledHung);
    gone_or_reaped(home.pid()).await;
}

/// As [`gone`], for a process that may have been waited for already.
async fn gone_or_reaped(pid: u32) {
    if let Some(process) = open(pid) {
        gone(Some(process)).await;
    }
}

#[tokio::test]
async fn an_end_by_itself_is_told_once_and_an_end_on_demand_not_at_all() {
    let home = Box::new(&listens("ends"));
    let supervisor = home.supervisor();
    // Readiness and the end may come in either order.
    let fault = match supervisor.start().await {
        Ok(()) => supervisor.exited().await,
        Err(fault) => fault,
    };
    assert_eq!(fault.code, Code::TailscaledStarting);
    assert!(fault.detail.ends_with("the second thought") && fault.detail.contains("exit status 7"), "{}", fault.detail);
    home.write(&listens("waits"));
    supervisor.start().await.expect("ready");
    let told = tokio::select! {
        biased;
        fault = supervisor.exited() => Some(fault),
        stopped = async { supervisor.stop().await.expect("stopped"); tokio::task::yield_now().await } => { let () = stopped; None },
    };
    assert_eq!(told, None);
}

#[tokio::test]
async fn a_killed_one_is_told_with_its_signal() {
    let home = Box::new(&listens("waits"));
    let supervisor = home.supervisor();
    supervisor.start().await.expect("ready");
    open(home.pid()).expect("it runs").signal(nix::sys::signal::Signal::SIGKILL).expect("killed");
    let fault = supervisor.exited().await;
    assert!(fault.detail.starts_with("tailscaled ended with SIGKILL"), "{}", fault.detail);
    supervisor.start().await.expect("it starts again");
    supervisor.stop().await.expect("stopped");
}

#[tokio::test]
async fn dropping_the_supervisor_ends_it() {
    let home = Box::new(&format!("trap '' TERM; {}", listens("waits")));
    let supervisor = home.supervisor();
    supervisor.start().await.expect("ready");
    let process = open(home.pid());
    drop(supervisor);
    gone(process).await;
}

#[tokio::test]
async fn a_second_start_replaces_the_first() {
    let home = Box::new(&listens("waits"));
    let supervisor = home.supervisor();
    supervisor.start().await.expect("ready");
    let first = home.pid();
    let process = open(first);
    supervisor.start().await.expect("ready");
    gone(process).await;
    assert_ne!(home.pid(), first);
    supervisor.stop().await.expect("stopped");
}

#[tokio::test]
async fn an_orphan_of_an_earlier_run_is_ended_before_the_start() {
    let home = Box::new(&listens("waits"));
    let (earlier, later) = (home.supervisor(), home.supervisor());
    earlier.start().await.expect("ready");
    let first = home.pid();
    later.start().await.expect("ready");
    let fault = earlier.exited().await;
    assert!(fault.detail.starts_with("tailscaled ended with SIGTERM"), "{}", fault.detail);
    assert_ne!(home.pid(), first);
    later.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_socket_that_another_process_serves_is_left_to_it() {
    let home = Box::new(&listens("waits"));
    let _other = UnixListener::bind(home.path("tailscaled.sock")).expect("bound");
    let fault = home.supervisor().start().await.expect_err("occupied");
    assert_eq!(fault.code, Code::LocalapiDenied);
    assert!(fault.detail.contains(&format!("process {} already listens", std::process::id())), "{}", fault.detail);
}

#[tokio::test]
async fn a_file_at_the_sockets_place_is_not_deleted() {
    let home = Box::new(&listens("waits"));
    std::fs::write(home.path("tailscaled.sock"), "somebody's notes").expect("written");
    let fault = home.supervisor().start().await.expect_err("no socket");
    assert_eq!(fault.code, Code::LocalapiDenied);
    assert_eq!(std::fs::read_to_string(home.path("tailscaled.sock")).expect("kept"), "somebody's notes");
}
