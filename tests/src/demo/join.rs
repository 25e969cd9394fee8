//! A platform, a laptop, a private service; then a devbox that joins by itself.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use devbox_agent::cli::timeline;

use super::cast::{Cast, DEVBOX, PORT, WORKSPACE, describe, node_of, online, online_after};
use super::teller::Teller;
use crate::machine::Lab;
use crate::platform::instance::{InstanceSpec, Tailnet};
use crate::scene::Scene;
use crate::web::Site;

/// The credential of devboxes.
const CREDENTIAL: &str = "lab-devboxes";

pub(super) async fn play(teller: &Teller, lab: Lab) -> Result<Cast> {
    let start = Instant::now();
    let scene = Scene::start(lab).await?;
    scene.platform.add_credential(CREDENTIAL, WORKSPACE, &["tag:devbox", "tag:web"]);
    teller.took("the platform is up: metadata, OIDC, Tailscale API, Headscale", start.elapsed());

    let start = Instant::now();
    let (laptop, service) = (scene.machine("laptop")?, scene.machine("packages")?);
    let (user, tagged) = (scene.platform.user_key("ada").await?, scene.platform.tagged_key(&["tag:db"], false).await?);
    tokio::try_join!(scene.join_by_hand(&laptop, &user), scene.join_by_hand(&service, &tagged))?;
    let sites = vec![Site::open(&service, PORT, "the package registry").await?];
    teller.took("Ada's laptop and a private package registry joined by hand", start.elapsed());

    let devbox = scene.machine("web")?;
    let spec = InstanceSpec::new(DEVBOX, "devbox", WORKSPACE, IpAddr::V4(devbox.address()));
    scene.platform.add_instance(spec.named("web").joining(Tailnet::new(CREDENTIAL, &["tag:devbox"])));
    let agent = scene.start_agent(&devbox)?;
    let document = online(&scene, DEVBOX, &agent, |_| true).await.context("expected the devbox online")?;
    let node = node_of(&document)?.clone();
    ensure!(
        node.name == "web" && node.tags == ["tag:devbox"] && !node.addresses.is_empty(),
        "expected node web with tag:devbox and an address, saw {}",
        describe(&node)
    );
    teller.took("the devbox is on the tailnet, and nobody logged in", online_after(&document)?);
    teller.detail(describe(&node));
    teller.detail(timeline::draw(&document.boot).join("\n"));
    let cast = Cast { scene, devbox, agent, joined: node, laptop, service, sites };
    ensure!(cast.logins() == (1, 1), "expected one exchange and one key, saw {:?}", cast.logins());
    cast.same_node(&document).await?;
    Ok(cast)
}
