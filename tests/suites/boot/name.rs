//! The machine's own name: the node's, over reboots too, and never one that is no name.

use anyhow::Context;
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_lab::devbox::Installed;
use devbox_lab::machine::story;
use devbox_lab::platform::fault::Fault;
use devbox_lab::platform::routes::INSTANCE;
use devbox_lab::scene::Scene;
use devbox_lab::witness::Left;

#[test]
fn the_machine_follows_the_specs_name_and_keeps_it_when_the_platform_is_away() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::joined(&scene, "web").await?;
        devbox.named("web").await?;
        devbox.change(|tailnet| tailnet.hostname = Some("front".to_owned()))?;
        devbox.until_node("its new name", |node| node.given_name == "front").await?;
        devbox.named("front").await?;

        let metadata = &scene.platform.metadata.server.faults;
        metadata.always(INSTANCE, Fault::status(503));
        devbox.reboot().await?;
        devbox.online_with(&[Code::MetadataUnavailable]).await?;
        assert_eq!((devbox.kept_name().await?.as_str(), devbox.minted()), ("front", 1));
        let kernel = devbox.machine.run("cat", &["/proc/sys/kernel/hostname"]).await?;
        assert_eq!(kernel.trim(), "front");
        metadata.clear(INSTANCE);
        devbox.online_with(&[]).await?;
        devbox.close(Left::OneNode).await
    });
}

/// What the platform may say, and what the machine is called then: a label made of it, or as before when nothing of it can be one.
fn hostile() -> [(String, String); 6] {
    let pair = |said: &str, name: &str| (said.to_owned(), name.to_owned());
    [
        pair("Bad_Host Name!!", "bad-host-name"),
        pair("-evil-", "evil"),
        pair("a;rm -rf /", "a-rm-rf"),
        pair("x\n10.0.0.1 y", "x-10-0-0-1-y"),
        (String::from("a").repeat(70), String::from("a").repeat(63)),
        (String::from("---"), String::from("a").repeat(63)),
    ]
}

#[test]
fn what_is_no_name_never_reaches_hostnamed() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let devbox = Installed::joined(&scene, "web").await?;
        devbox.named("web").await?;
        let served = scene.platform.instances.get(&devbox.id).context("there is such an instance")?;
        for (said, wanted) in hostile() {
            let mut document = (*served.body).clone();
            document["tailnet"]["hostname"] = said.clone().into();
            scene.platform.instances.override_document(&devbox.id, Some(document))?;
            devbox.named(&wanted).await.with_context(|| said.clone())?;
            assert_eq!(devbox.machine.run("hostnamectl", &["--static"]).await?.trim(), wanted, "{said}");
        }
        devbox.online_with(&[Code::MetadataValue]).await?;
        devbox.named(&"a".repeat(63)).await?;
        scene.platform.instances.override_document(&devbox.id, None)?;
        devbox.named("web").await?;
        devbox.online_with(&[]).await?;
        devbox.close(Left::OneNode).await
    });
}

#[test]
fn a_machine_whose_name_is_its_own_affair_keeps_it() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let mut devbox = Installed::devbox(&scene, "web")?;
        devbox.machine.write("/etc/devbox-agent/config.d/20-name.toml", "[hostname]\nsystem = false\n")?;
        devbox.boot().await?;
        devbox.until_phase(Phase::Online, None).await?;
        assert_eq!((devbox.kept_name().await?.as_str(), devbox.node().await?.given_name.as_str()), ("debian", "web"));
        devbox.close(Left::OneNode).await
    });
}
