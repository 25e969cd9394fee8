//! Machines themselves: that they are apart, reach each other, and leave nothing behind.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use anyhow::{Context, ensure};
use devbox_lab::machine::{Link, METADATA, Machine, PLATFORM, eventually, sandbox, story};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Far more than any step here takes.
const LIMIT: Duration = Duration::from_secs(10);

/// Runs a shell script in the machine and returns what it wrote.
async fn shell(machine: &Machine, script: &str) -> anyhow::Result<String> {
    let mut command = machine.command("sh");
    command.args(["-c", script]);
    let output = machine.exec(command).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{script}` failed: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Greets the first caller.
async fn greet(listener: TcpListener) -> io::Result<SocketAddr> {
    let (mut caller, from) = listener.accept().await?;
    caller.write_all(b"hello").await?;
    Ok(from)
}

/// Calls from within `machine` and returns the greeting.
async fn call(machine: &Machine, to: (Ipv4Addr, u16)) -> anyhow::Result<io::Result<String>> {
    let visit = machine.visit(move || async move {
        let mut greeting = String::new();
        TcpStream::connect(to).await?.read_to_string(&mut greeting).await?;
        Ok(greeting)
    })?;
    Ok(visit.join().await?)
}

/// The state letter of a process.
fn state(pid: Pid) -> anyhow::Result<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("a stat line has a name")?;
    rest.chars().next().context("a stat line has a state")
}

#[test]
fn machines_reach_each_other_and_the_platform() {
    story(|lab| async move {
        let (left, right) = (lab.machine("left")?, lab.machine("right")?);
        let address = right.address();
        let (tell, told) = tokio::sync::oneshot::channel();
        let served = right.visit(move || async move {
            let listener = TcpListener::bind((address, 80)).await?;
            tell.send(()).map_err(|()| ErrorKind::BrokenPipe)?;
            greet(listener).await
        })?;
        told.await.context("the server did not listen")?;
        assert_eq!(call(&left, (address, 80)).await??, "hello");
        assert_eq!(served.join().await??.ip(), left.address());

        for platform in [PLATFORM, METADATA] {
            let served = tokio::spawn(greet(TcpListener::bind((platform, 80)).await?));
            assert_eq!(call(&left, (platform, 80)).await??, "hello");
            assert_eq!(served.await??.ip(), left.address(), "the platform knows a machine by its address");
        }
        Ok(())
    });
}

#[test]
fn a_machine_is_somebody_of_its_own() {
    story(|lab| async move {
        let (left, right) = (lab.machine("left")?, lab.machine("right")?);
        assert_eq!(shell(&left, "uname -n; cat /etc/hostname").await?, "left\nleft");
        for file in ["/etc/machine-id", "/proc/sys/kernel/random/boot_id"] {
            let read = format!("cat {file}");
            assert_ne!(shell(&left, &read).await?, shell(&right, &read).await?, "{file}");
        }
        shell(&left, "echo ours > /etc/resolv.conf; echo ours > /run/mark").await?;
        assert_ne!(shell(&right, "cat /etc/resolv.conf").await?, "ours");
        assert_eq!(shell(&right, "ls /run/mark || echo none").await?, "none");
        assert_eq!(fs::read_to_string(left.root().path("/run/mark"))?, "ours\n", "the story sees the machine's files");
        assert_eq!(shell(&left, "ip -6 -br addr show lo | grep -c ::1").await?, "1");
        Ok(())
    });
}

#[test]
fn a_reboot_keeps_the_disk_and_nothing_else() {
    story(|lab| async move {
        let mut machine = lab.machine("devbox")?;
        let identity =
            "cat /etc/machine-id /sys/class/net/eth0/address; ip -o -4 addr show eth0 | grep -o 'inet [^ ]*'";
        let before = shell(&machine, identity).await?;
        let boot = shell(&machine, "cat /proc/sys/kernel/random/boot_id").await?;
        shell(&machine, "echo kept > /var/lib/kept; echo lost > /run/lost").await?;
        let mut sleep = machine.command("sleep");
        sleep.arg("1000");
        let process = machine.spawn(sleep)?;

        machine.reboot()?;

        assert_eq!(process.wait().await?.signal(), Some(Signal::SIGKILL as i32));
        assert_eq!(shell(&machine, identity).await?, before);
        assert_ne!(shell(&machine, "cat /proc/sys/kernel/random/boot_id").await?, boot);
        assert_eq!(shell(&machine, "cat /var/lib/kept; ls /run/lost || echo gone").await?, "kept\ngone");
        Ok(())
    });
}

#[test]
fn a_network_that_comes_up_late_refuses_at_once_until_then() {
    story(|lab| async move {
        let machine = lab.machine_with("late", Link::Down)?;
        let refused =
            |answer: io::Result<String>| answer.is_err_and(|error| error.kind() == ErrorKind::NetworkUnreachable);
        assert!(refused(call(&machine, (METADATA, 80)).await?), "without a network there is no route");

        let served = tokio::spawn(greet(TcpListener::bind((METADATA, 80)).await?));
        machine.link_up()?;
        assert_eq!(call(&machine, (METADATA, 80)).await??, "hello");
        served.await??;

        machine.link_down()?;
        assert!(refused(call(&machine, (METADATA, 80)).await?), "the route went with the link");
        Ok(())
    });
}

#[test]
fn a_frozen_machine_does_nothing_and_then_goes_on() {
    story(|lab| async move {
        let machine = lab.machine("devbox")?;
        let mut parent = machine.command("sh");
        parent.args(["-c", "sleep 1000 & sleep 1000 & echo ready; wait"]);
        let parent = machine.spawn(parent)?;
        let all_there = || async { Ok((machine.processes()?.len() == 3 && !parent.log()?.is_empty()).then_some(())) };
        eventually("the children", LIMIT, all_there).await?;

        machine.freeze()?;
        for pid in machine.processes()? {
            assert_eq!(state(pid)?, 'T');
        }
        parent.signal(Signal::SIGTERM)?;
        assert_eq!(parent.exit_status(), None, "a stopped process does not even die");
        machine.thaw()?;
        assert_eq!(parent.wait().await?.signal(), Some(Signal::SIGTERM as i32));
        assert_eq!(parent.log()?, "ready\n");
        assert_eq!(machine.processes()?.len(), 2, "the children outlive their parent");

        machine.kill_all()?;
        assert_eq!(machine.processes()?, []);
        Ok(())
    });
}

#[test]
fn a_killed_sandbox_leaves_no_process() {
    story(|lab| async move {
        let own = fs::read_link("/proc/self/ns/pid")?;
        // Processes in another PID namespace, each with that namespace.
        let strangers = || -> anyhow::Result<Vec<String>> {
            let all = fs::read_dir("/proc")?.filter_map(|entry| fs::read_link(entry.ok()?.path().join("ns/pid")).ok());
            Ok(all.filter(|space| *space != own).map(|space| space.display().to_string()).collect())
        };
        assert_eq!(strangers()?, Vec::<String>::new());
        let script = "setsid sleep 1000 & setsid sleep 1000 & wait";
        let mut outer =
            tokio::process::Command::from(sandbox::command(&lab.layout().lab, "sh")).args(["-c", script]).spawn()?;
        // PID 1, the shell, and its two children in sessions of their own.
        eventually("a sandbox in the sandbox", LIMIT, || async { Ok((strangers()?.len() == 4).then_some(())) }).await?;

        outer.kill().await?;

        eventually("the end of all within", LIMIT, || async { Ok(strangers()?.is_empty().then_some(())) }).await
    });
}
