//! The real parts by themselves, without the agent: the ground that the other stories stand on.

use std::net::IpAddr;

use anyhow::Context;
use devbox_lab::machine::story;
use devbox_lab::scene::Scene;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[test]
fn real_nodes_reach_each_other_by_magicdns_name() {
    story(|lab| async move {
        let scene = Scene::start(lab).await?;
        let (devbox, laptop) = (scene.machine("devbox")?, scene.machine("laptop")?);
        for machine in [&devbox, &laptop] {
            scene.join_by_hand(machine, &scene.platform.user_key("ada").await?).await?;
        }

        let (tell, told) = tokio::sync::oneshot::channel();
        let served = devbox.visit(move || async move {
            let listener = TcpListener::bind("[::]:80").await?;
            tell.send(()).map_err(|()| anyhow::anyhow!("nobody waits"))?;
            let (mut caller, from) = listener.accept().await?;
            caller.write_all(b"hello").await?;
            anyhow::Ok(from)
        })?;
        told.await.context("the server did not listen")?;
        let called = laptop.visit(|| async {
            let mut greeting = String::new();
            TcpStream::connect("devbox.lab.ts.test:80").await?.read_to_string(&mut greeting).await?;
            anyhow::Ok(greeting)
        })?;
        assert_eq!(called.join().await??, "hello");

        let from = served.join().await??.ip().to_canonical().to_string();
        let nodes = scene.platform.nodes().await?;
        let known: Vec<_> =
            nodes.iter().map(|node| (node.given_name.as_str(), node.ip_addresses.contains(&from))).collect();
        assert!(known.contains(&("laptop", true)), "{from} is the laptop's address in the tailnet: {known:?}");
        assert_ne!(from, IpAddr::V4(laptop.address()).to_string());
        Ok(())
    });
}
