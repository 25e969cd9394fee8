//! What keeps a run from beginning: one line says what, and what to do, before anybody is asked for anything.

use anyhow::{Result, ensure};
use devbox_lab::machine::{eventually, story};
use devbox_lab::scene::Scene;
use nix::sys::signal::Signal;

use crate::job::{Job, LIMIT, code_of, program};
use crate::peer::{PAGE, Peer};
use crate::tree::is_called;

/// Nobody was asked for anything.
fn nobody_was_asked(scene: &Scene) -> Result<()> {
    let (metadata, api) = (&scene.platform.metadata.server.log, &scene.platform.api.server.log);
    let asked = metadata.all().len() + api.all().len();
    ensure!(asked == 0, "{asked} requests were made for a run that could not begin");
    Ok(())
}

#[test]
fn a_kernel_without_namespaces_is_named_with_its_remedy() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        for kind in ["user", "pid", "mnt", "net"] {
            let forbid = format!("echo 0 >/proc/sys/user/max_{kind}_namespaces");
            let words = [&format!("user.max_{kind}_namespaces is 0")[..], "sysctl -w"];
            job.fails_after(&forbid, &[], &words).await?;
        }
        nobody_was_asked(&scene)?;
        job.close().await
    });
}

#[test]
fn a_tun_device_that_is_not_there_or_not_open_is_named() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        job.fails_after("mount -t tmpfs none /dev/net", &[], &["/dev/net/tun", "ENOENT", "module tun"]).await?;
        let closed = "mount --bind /dev/net/tun /dev/net/tun; mount -o remount,bind,nodev /dev/net/tun";
        job.fails_after(closed, &[], &["/dev/net/tun", "EACCES", "chmod 666"]).await?;
        nobody_was_asked(&scene)?;
        job.close().await
    });
}

#[test]
fn a_resolver_configuration_that_is_not_there_is_named() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let etc = "mkdir -p /tmp/etc; mount -t tmpfs none /tmp/etc; cp -a /etc/. /tmp/etc; rm -f /tmp/etc/resolv.conf";
        for (make, words) in [("", "is not there"), ("ln -s /nowhere /tmp/etc/resolv.conf; ", "is a link to nothing")] {
            let script = format!("{etc}; {make}mount --bind /tmp/etc /etc");
            job.fails_after(&script, &[], &["/etc/resolv.conf", words, "make it"]).await?;
            job.check_fails_after(&script, &["/etc/resolv.conf", words]).await?;
        }
        nobody_was_asked(&scene)?;
        job.close().await
    });
}

#[test]
fn a_program_that_is_missing_is_named_with_its_package() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let text = job.write("text", "no program\n")?;
        for (name, package) in [("pasta", "passt"), ("nft", "nftables")] {
            let covered = format!("mount --bind {text} $(readlink -f {})", program(&job.machine, name));
            job.fails_after(&covered, &[], &[&format!("{name} is not installed"), package]).await?;
        }
        let options = ["--set", "daemon.binary=\"no-such-tailscaled\""];
        job.fails(&options, &["no-such-tailscaled is not installed", "install tailscale"]).await?;
        nobody_was_asked(&scene)?;
        job.close().await
    });
}

/// Lets programs of the story's be found.
const STAND_INS: &str = "export PATH=/var/lib/story/bin:$PATH";

#[test]
fn a_program_that_fails_is_named_with_its_words() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        for name in ["pasta", "nft", "tailscaled"] {
            let path = job.program(name, "echo these are its words >&2; exit 3")?;
            job.fails_after(STAND_INS, &[], &[name, "exited with status 3", "these are its words"]).await?;
            std::fs::remove_file(path)?;
        }
        job.close().await
    });
}

#[test]
fn check_names_what_would_not_do() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        job.check_fails_after("echo 0 >/proc/sys/user/max_user_namespaces", &["user.max_user_namespaces is 0"]).await?;
        for (name, script, words) in [
            ("pasta", "echo 'Usage: pasta [OPTION]'", "has no --no-map-gw"),
            ("tailscaled", "echo 1.60.1", "is version 1.60.1"),
        ] {
            let path = job.program(name, script)?;
            job.check_fails_after(STAND_INS, &[name, words]).await?;
            std::fs::remove_file(path)?;
        }
        let path = job.program("pasta", "exec sleep 1000")?;
        job.check_fails_after(STAND_INS, &["did not say what they are within 5s"]).await?;
        let mut shell = job.command("bash");
        shell.args(["-c", &format!("{STAND_INS}; exec \"$0\" exec --check"), &program(&job.machine, "devbox-agent")]);
        let run = job.machine.spawn(shell)?;
        let asked =
            || async { Ok(job.machine.processes()?.into_iter().any(|pid| is_called(pid, "sleep")).then_some(())) };
        eventually("pasta being asked", LIMIT, asked).await?;
        run.signal(Signal::SIGTERM)?;
        assert_eq!(code_of(&run).await?, 143);
        std::fs::remove_file(path)?;
        // These two show it only when they do their work.
        for name in ["pasta", "nft"] {
            let line = "case $1 in --help) echo --no-map-gw ;; *) echo these are its words >&2; exit 3 ;; esac";
            let path = job.program(name, line)?;
            job.check_fails_after(STAND_INS, &[name, "exited with status 3", "these are its words"]).await?;
            std::fs::remove_file(path)?;
        }
        nobody_was_asked(&scene)?;
        job.close().await
    });
}

#[test]
fn a_machine_whose_own_node_has_no_interface_runs_commands_all_the_same() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        let options = ["--set", "daemon.tun=\"userspace-networking\""];
        assert_eq!(job.script(&options, "echo over", 0).await?, "over\n");
        job.close().await
    });
}

#[test]
fn a_container_whose_proc_is_masked_runs_commands_all_the_same() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (job, peer) = (Job::in_container(&scene, "ci").await?, Peer::join(&scene).await?);
        let script = format!("curl -fsS --max-time 20 http://peer/ && ping -c 1 -W 20 {} >/dev/null && echo", peer.v4);
        let page = job.script(&["--wait-for", "peer:80"], &script, 0).await?;
        ensure!(page.ends_with(&format!("{PAGE}\n")), "{page}");
        job.close().await
    });
}
