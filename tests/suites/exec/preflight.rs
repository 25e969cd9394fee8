//! What keeps a run from beginning: one line says what, and what to do, before anybody is asked for anything.

use anyhow::{Result, ensure};
use devbox_lab::machine::story;
use devbox_lab::scene::Scene;

use crate::job::{Job, OWN, program};

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

#[test]
fn a_program_that_fails_is_named_with_its_words() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        for name in ["pasta", "nft", "tailscaled"] {
            let script = job.write(&format!("bin/{name}"), "#!/bin/sh\necho these are its words >&2\nexit 3\n")?;
            let path = job.machine.root().path(&script);
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            let found = format!("export PATH={OWN}/bin:$PATH");
            job.fails_after(&found, &[], &[name, "exited with status 3", "these are its words"]).await?;
            std::fs::remove_file(path)?;
        }
        job.until_nodes(0).await?;
        job.close().await
    });
}
