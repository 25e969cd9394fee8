//! Ways around the command's own resolver and tailnet that lie in the machine's file system: they are out of sight.

use std::fs;

use anyhow::ensure;
use devbox_lab::machine::story;
use devbox_lab::scene::Scene;

use crate::job::{Job, says};

/// Listens at sockets of the machine's, and says when.
const LISTEN: &str = "use IO::Socket::UNIX; for (@ARGV) { push @s, IO::Socket::UNIX->new(Local => $_, Listen => 100) or die \"$_: $!\" } \
                      $| = 1; print \"ready\\n\"; sleep 1000";

/// Tries to connect to each, and prints which answer.
const CONNECT: &str = "use IO::Socket::UNIX; for (@ARGV) { print \"$_\\n\" if IO::Socket::UNIX->new(Peer => $_) }";

#[test]
fn the_machines_resolver_and_tailnet_cannot_be_asked() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let job = Job::new(&scene, "ci").await?;
        // systemd-resolved for nss-resolve, nscd (not its own socket, at which every program would wait for an answer), and the machine's own
        // tailscaled; and one that anybody may use.
        let hidden = ["/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/any", "/run/tailscale/tailscaled.sock"];
        let open = "/run/docker.sock";
        let folders = hidden.map(|path| job.machine.root().path(path).with_file_name(""));
        for folder in &folders {
            fs::create_dir_all(folder)?;
        }
        let mut listen = job.machine.command("perl");
        listen.args(["-e", LISTEN]).args(hidden).arg(open);
        let listener = job.machine.spawn(listen)?;
        says(&listener, "ready").await?;

        let connect = [&["-e", CONNECT][..], &hidden, &[open]].concat();
        let mut outside = job.command("perl");
        outside.args(&connect);
        let said = job.say(outside).await?;
        assert_eq!(said.answer.lines().count(), 4, "not all of them are there: {said:?}");
        let said = job.run(&[], &[&["perl"], &connect[..]].concat()).await?;
        ensure!(said.code == 0 && said.answer == format!("{open}\n"), "{said:?}");

        listener.kill().await?;
        fs::remove_file(job.machine.root().path(open))?;
        for folder in &folders {
            fs::remove_dir_all(folder)?;
        }
        fs::remove_dir(job.machine.root().path("/run/systemd"))?;
        job.close().await
    });
}
