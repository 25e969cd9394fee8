//! A disk that is full or read-only: the node comes up all the same, and what could not be written is once it can.

use anyhow::{Result, ensure};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_agent::socket::document::Document;
use devbox_lab::devbox::{AGENT, Installed};
use devbox_lab::machine::story;
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::routes::INSTANCE;
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;

const STATE: &str = "/var/lib/devbox-agent";

fn notes(document: &Document, code: Code) -> bool {
    document.notices.iter().any(|notice| notice.code == code)
}

/// Waits until the node is online and the agent says a notice besides, or says it no longer.
async fn online_and(devbox: &Installed<'_>, code: Code, noted: bool) -> Result<Document> {
    let what = format!("online with {code}: {noted}");
    devbox.until(&what, |document| document.phase == Phase::Online && notes(document, code) == noted).await
}

/// Mounts a file system of 16 KiB where the agent keeps its state, before the agent starts.
fn small_state(devbox: &Installed<'_>, options: &str) -> Result<()> {
    let unit = format!(
        "[Unit]\nBefore=devbox-agent.service\n[Mount]\nWhat=tmpfs\nWhere={STATE}\nType=tmpfs\nOptions=size=16k,{options}\n\
         [Install]\nWantedBy=local-fs.target\n"
    );
    let name = "var-lib-devbox\\x2dagent.mount";
    devbox.machine.write(format!("/etc/systemd/system/{name}"), unit)?;
    devbox.machine.enable(name, true)
}

/// A devbox with little room for state that has booted, and whose metadata is not to be had yet.
async fn held_up(scene: &Scene) -> Result<Installed<'_>> {
    let mut devbox = Installed::devbox(scene, "web")?;
    small_state(&devbox, "mode=0700")?;
    scene.platform.metadata.server.faults.always(INSTANCE, Fault::status(503));
    devbox.boot().await?;
    devbox.until_phase(Phase::WaitingForMetadata, Code::MetadataUnavailable).await?;
    Ok(devbox)
}

#[test]
fn a_full_state_directory_does_not_keep_the_node_away() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = held_up(&scene).await?;
        let fill = format!("head -c 1M /dev/zero >{STATE}/fill; df --output=avail {STATE} | tail -n 1");
        let left = devbox.machine.run("sh", &["-c", &fill]).await?;
        assert_eq!(left.trim(), "0", "it is full");

        scene.platform.metadata.server.faults.clear(INSTANCE);
        online_and(&devbox, Code::StateUnwritable, true).await?;
        devbox.machine.run("rm", &[&format!("{STATE}/fill")]).await?;
        online_and(&devbox, Code::StateUnwritable, false).await?;
        let kept = devbox.machine.run("cat", &[&format!("{STATE}/state.json")]).await?;
        ensure!(kept.contains(&devbox.id), "the record was written in the end");
        assert_eq!((devbox.minted(), devbox.machine.show(AGENT, "NRestarts").await?), (1, "0".to_owned()));
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_read_only_disk_does_not_keep_the_node_away() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = held_up(&scene).await?;
        // As the kernel does at an error: the file system, not the mounts of it, and no file is open for writing.
        devbox.machine.run("systemctl", &["stop", AGENT]).await?;
        devbox.machine.run("mount", &["-o", "remount,ro=fs", STATE]).await?;
        devbox.machine.run("systemctl", &["start", AGENT]).await?;
        // hostnamed is not there yet, and has its own view of /etc from the moment it is.
        devbox.machine.run("mount", &["--bind", "/etc", "/etc"]).await?;
        devbox.machine.run("mount", &["-o", "remount,bind,ro", "/etc"]).await?;

        scene.platform.metadata.server.faults.clear(INSTANCE);
        online_and(&devbox, Code::StateUnwritable, true).await?;
        online_and(&devbox, Code::HostnameUnset, true).await?;
        assert_eq!(devbox.machine.run("hostnamectl", &["--static"]).await?, "debian\n", "the old name stays");
        assert_eq!(devbox.node().await?.given_name, "web", "the node has its own all the same");

        devbox.machine.run("umount", &["/etc"]).await?;
        devbox.machine.run("systemctl", &["stop", "systemd-hostnamed.service"]).await?;
        devbox.machine.run("mount", &["-o", "remount,rw=fs", STATE]).await?;
        online_and(&devbox, Code::StateUnwritable, false).await?;
        online_and(&devbox, Code::HostnameUnset, false).await?;
        assert_eq!(devbox.machine.run("hostnamectl", &["--static"]).await?, "web\n");
        assert_eq!((devbox.minted(), devbox.machine.show(AGENT, "NRestarts").await?), (1, "0".to_owned()));
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_record_that_a_power_cut_garbled_is_set_aside() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::joined(&scene, "web").await?;
        let before = devbox.identity().await?;
        for garbled in ["", "{\"version\":1,\"inst", "\0\0\0\0"] {
            devbox.machine.cut_power().await?;
            std::fs::write(devbox.machine.path(format!("{STATE}/state.json")), garbled)?;
            devbox.boot().await?;
            online_and(&devbox, Code::StateSetAside, true).await?;
            assert_eq!(devbox.identity().await?, before);
        }
        ensure!(devbox.minted() == 1, "{} keys were made", devbox.minted());
        devbox.close(Left::OneNode).await
    });
}
