//! What must fail for everybody on the machine but root, and what the agent itself may not do: the threat table, from a shell.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devbox_lab::devbox::{AGENT, Installed, LIMIT};
use devbox_lab::machine::{Process, eventually, story};
use devbox_lab::runner::units::EXPOSURE;
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;

const HELPER: &str = "devbox-agent-helper.service";
const API: &str = "/run/devbox-agent/api/agent.sock";
const LOCAL_API: &str = "/run/tailscale/tailscaled.sock";
/// Whoever is on the machine, and the agent itself: code that runs in it has no more than this user.
const USERS: [&str; 2] = ["nobody", "devbox-agent"];
/// What PID 1 and hostnamed say to a user who may not, without polkit and with it.
const DENIED: [&str; 4] =
    ["Access denied", "Permission denied", "nteractive authentication", "Operation not permitted"];

#[test]
fn what_is_root_s_stays_root_s() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Installed::joined(&scene, "web").await?;
        for user in USERS {
            units_and_names_are_denied(&devbox, user).await?;
            files_are_denied(&devbox, user).await?;
            writing_to_tailscaled_is_denied(&devbox, user).await?;
        }
        let own = ["cat", "/var/lib/devbox-agent/state.json"];
        devbox.refuses("nobody", &own, &DENIED).await?;
        assert_eq!(devbox.as_user("devbox-agent", &own).await?.code, 0);
        assert_eq!(devbox.online().await?.daemon.restarts, 0);
        assert_eq!(devbox.machine.run("hostnamectl", &["--static"]).await?, "web\n");
        devbox.close(Left::OneNode).await
    });
}

async fn units_and_names_are_denied(devbox: &Installed<'_>, user: &str) -> Result<()> {
    for command in [
        ["systemctl", "--no-ask-password", "restart", "tailscaled.service"],
        ["systemctl", "--no-ask-password", "stop", "devbox-agent.service"],
        ["systemctl", "--no-ask-password", "mask", "tailscaled.service"],
        ["systemctl", "--no-ask-password", "disable", "devbox-agent.service"],
        ["systemd-run", "--no-ask-password", "touch", "/etc/transient"],
        ["hostnamectl", "--no-ask-password", "set-hostname", "evil"],
    ] {
        devbox.refuses(user, &command, &DENIED).await?;
    }
    let private = "use IO::Socket::UNIX; IO::Socket::UNIX->new(Peer => '/run/systemd/private') or die \"$!\\n\"";
    devbox.refuses(user, &["perl", "-e", private], &DENIED).await?;
    ensure!(!devbox.machine.path("/etc/transient").exists(), "a transient unit ran as root");
    Ok(())
}

async fn files_are_denied(devbox: &Installed<'_>, user: &str) -> Result<()> {
    for command in [
        ["cat", "/etc/shadow"],
        ["cat", "/var/lib/tailscale/tailscaled.state"],
        ["touch", "/run/devbox-agent-gate/closed"],
        ["touch", "/run/devbox-agent/config.d/99-evil.toml"],
        ["touch", "/etc/devbox-agent/config.d/99-evil.toml"],
        ["rm", "/run/devbox-agent/helper.sock"],
    ] {
        devbox.refuses(user, &command, &DENIED).await?;
    }
    // What the agent holds in memory is not even for its own user.
    let environment = format!("/proc/{}/environ", devbox.machine.show(AGENT, "MainPID").await?);
    devbox.refuses(user, &["cat", &environment], &[DENIED.as_slice(), &["No such file"]].concat()).await
}

async fn writing_to_tailscaled_is_denied(devbox: &Installed<'_>, user: &str) -> Result<()> {
    for (method, path) in [
        ("POST", "logout"),
        ("POST", "start"),
        ("POST", "login-interactive"),
        ("POST", "reload-config"),
        ("PATCH", "prefs"),
        ("POST", "set-use-exit-node-enabled?enabled=true"),
        ("PUT", "profiles/"),
    ] {
        let url = format!("http://local-tailscaled.sock/localapi/v0/{path}");
        let (code, said) = devbox.call(user, LOCAL_API, method, &url, "{}").await?;
        ensure!(code == "403", "{user} gets {code} for {method} {path}: {said}");
    }
    Ok(())
}

#[test]
fn the_helper_serves_the_agent_alone_and_refuses_what_is_not_on_its_list() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Installed::joined(&scene, "web").await?;
        let stranger = devbox.ask_helper("nobody", r#"{"verb":"inspect"}"#).await?;
        ensure!(stranger.code != 0 && stranger.talk.contains("Permission denied"), "{stranger:?}");
        let before = refused(&devbox).await?;

        let oversize = format!(r#"{{"verb":"up"{}}}"#, " ".repeat(4096));
        let preferences = r#""hostname":"web","accept_dns":true,"accept_routes":false"#;
        let requests = [
            "".to_owned(),
            r#"{"verb":"exec","argv":["/bin/sh"]}"#.to_owned(),
            r#"{"verb":"mask"}"#.to_owned(),
            r#"{"verb":"stop","unit":"ssh.service"}"#.to_owned(),
            r#"{"verb":"hostname","name":"-evil-"}"#.to_owned(),
            r#"{"verb":"inspect","path":"/etc/shadow"}"#.to_owned(),
            format!(r#"{{"verb":"apply","preferences":{{{preferences},"ssh":true}}}}"#),
            format!(
                r#"{{"verb":"apply","preferences":{{{preferences},"ssh":false,"control_url":"http://192.0.2.1"}}}}"#
            ),
            format!(
                r#"{{"verb":"login","key":"k","control_url":"http://192.0.2.1","preferences":{{{preferences},"ssh":false}}}}"#
            ),
            oversize,
        ];
        for request in &requests {
            let said = devbox.ask_helper("devbox-agent", request).await?;
            ensure!(said.answer.contains(r#""code":"helper_denied""#), "the helper says {said:?} to {request:.80}");
        }
        let audited = || async { Ok((refused(&devbox).await? == before + requests.len()).then_some(())) };
        eventually("a line for each refusal", LIMIT, audited).await?;

        let inspected = devbox.ask_helper("devbox-agent", r#"{"verb":"inspect"}"#).await?;
        ensure!(inspected.answer.contains(r#""stored_node":true"#), "{inspected:?}");
        assert_eq!(devbox.node().await?.given_name, "web");
        devbox.close(Left::OneNode).await
    });
}

/// How many requests the helper's log says were refused.
async fn refused(devbox: &Installed<'_>) -> Result<usize> {
    let entries = devbox.machine.journal(&["-u", HELPER]).await?;
    Ok(entries.iter().filter(|entry| entry.field("OUTCOME") == Some("helper_denied")).count())
}

#[test]
fn anybody_reads_the_status_and_only_the_agent_s_group_changes_anything() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Installed::joined(&scene, "web").await?;
        devbox.machine.run("useradd", &["--groups", "devbox-agent", "ada"]).await?;
        for user in ["nobody", "ada"] {
            assert_eq!(devbox.as_user(user, &["devbox-agent", "status", "--check", "online"]).await?.code, 0);
        }
        for verb in ["refresh", "rejoin", "leave"] {
            assert_eq!(devbox.as_user("nobody", &["devbox-agent", verb]).await?.code, 77, "{verb}");
            let url = format!("http://localhost/v1/{verb}");
            assert_eq!(devbox.call("nobody", API, "POST", &url, "").await?.0, "403");
        }
        for user in ["ada", "root", "devbox-agent"] {
            assert_eq!(devbox.as_user(user, &["devbox-agent", "refresh"]).await?.code, 0, "{user}");
        }
        assert_eq!(devbox.minted(), 1);

        let resident = memory(&devbox).await?;
        let flood = flood(&devbox)?;
        // The loop goes on: it follows what the platform changes.
        devbox.change(|tailnet| tailnet.hostname = Some("renamed".to_owned()))?;
        let named = || async { Ok((devbox.node().await?.given_name == "renamed").then_some(())) };
        eventually("the new name", LIMIT, named).await?;
        // Some thousand requests more: what grows, grows with them.
        tokio::time::sleep(Duration::from_secs(1)).await;
        for client in flood {
            ensure!(client.exit_status().is_none(), "the flood ended by itself: {}", client.log()?);
            client.kill().await?;
        }
        let grown = memory(&devbox).await?.saturating_sub(resident);
        tracing::info!(grown, "KiB of memory more after a flood of requests");
        ensure!(grown < 8 * 1024, "a flood of requests costs {grown} KiB");
        devbox.close(Left::OneNode).await
    });
}

/// As many requests as clients can send, all from one user.
fn flood(devbox: &Installed<'_>) -> Result<Vec<Process>> {
    let client = || {
        let mut command = devbox.machine.command("runuser");
        command.args(["-u", "nobody", "--", "curl", "-s", "-o", "/dev/null", "--unix-socket", API]);
        devbox.machine.spawn({
            command.arg("http://localhost/v1/status?[1-10000000]");
            command
        })
    };
    (0..4).map(|_| client()).collect()
}

/// The agent's resident memory, in KiB.
async fn memory(devbox: &Installed<'_>) -> Result<u64> {
    let status = format!("/proc/{}/status", devbox.machine.show(AGENT, "MainPID").await?);
    let status = devbox.machine.run("cat", &[&status]).await?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")
}

#[test]
fn the_running_units_hold_no_privilege_and_are_as_closed_as_promised() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Installed::joined(&scene, "web").await?;
        let status = format!("/proc/{}/status", devbox.machine.show(AGENT, "MainPID").await?);
        let status = devbox.machine.run("cat", &[&status]).await?;
        for line in [
            "CapPrm:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            ensure!(status.contains(line), "not {line:?}: {status}");
        }
        // Tenths: the booted score, of which the offline one of the checks is a forecast.
        for (unit, limit) in EXPOSURE {
            let threshold = format!("--threshold={limit}");
            devbox.machine.run("systemd-analyze", &["security", "--no-pager", &threshold, unit]).await?;
        }
        let mut verify = devbox.machine.command("sh");
        verify.args(["-c", "systemd-analyze verify --man=no /usr/lib/systemd/system/devbox-agent* tailscaled.service"]);
        let verified = devbox.machine.exec(verify).await?;
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        ensure!(verified.status.success() && said.is_empty(), "systemd-analyze verify says: {said}");
        devbox.close(Left::OneNode).await
    });
}
