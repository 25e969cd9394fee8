//! A pause: the processes stand still, the network forgets their connections, and the resumed agent believes nothing until it is proven.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use devbox_agent::core::phase::Phase;
use devbox_agent::core::reason::Code;
use devbox_agent::socket::client::{Client, Watch};
use devbox_agent::socket::document::Document;

use super::LIMIT;
use super::cast::{Cast, DEVBOX, LOGINS, describe, node_of};
use super::teller::Teller;
use crate::platform::relay::Scope;
use crate::web::{get, reach};

pub(super) async fn play(teller: &Teller, cast: &Cast) -> Result<()> {
    let (client, url) = (Client::new(&cast.socket())?, cast.web("web"));
    let mut watch = client.watch().await?;
    freeze(cast)?;
    ensure!(get(&cast.laptop, &url).await.is_err(), "expected no answer from a frozen devbox, saw one");
    teller.seen("frozen, its connections silently lost; the laptop gets no answer");

    cast.scene.platform.bump_generation(DEVBOX)?;
    let start = Instant::now();
    cast.devbox.thaw()?;
    until(&mut watch, "degraded and unproven", is_unproven).await?;
    teller.took("resumed: degraded (unproven), whatever tailscaled believes", start.elapsed());
    let document = until_proven(&mut watch).await?;
    teller.took("proven: online with the same name and address, and no login", start.elapsed());
    let node = node_of(&document)?;
    teller.detail(describe(node));
    ensure!(node.name == cast.joined.name, "expected the name {}, saw {}", cast.joined.name, node.name);
    cast.same_node(&document).await?;
    ensure!(cast.logins() == (LOGINS - 1, LOGINS - 1), "expected no login for a pause, saw {:?}", cast.logins());
    reach(&cast.laptop, &url, LIMIT).await?;
    teller.took("the laptop reaches it again", start.elapsed());
    Ok(())
}

/// Stops the devbox where it stands. Metadata is served by the host itself: no network is between that could forget.
fn freeze(cast: &Cast) -> Result<()> {
    let (platform, devbox) = (&cast.scene.platform, Scope::From(IpAddr::V4(cast.devbox.address())));
    cast.devbox.freeze()?;
    platform.control_relay.lose(devbox);
    platform.api_relay.lose(devbox);
    Ok(())
}

fn is_unproven(document: &Document) -> bool {
    document.phase == Phase::Degraded && document.reason.as_ref().is_some_and(|reason| reason.code == Code::Unproven)
}

/// Waits for the proof, and checks that nothing but `degraded` is said before it.
async fn until_proven(watch: &mut Watch<'_>) -> Result<Document> {
    let document = until(watch, "anything but degraded", |document| document.phase != Phase::Degraded).await?;
    let online = document.phase == Phase::Online && node_of(&document)?.online;
    ensure!(online, "expected online after degraded, saw {}", document.phase);
    Ok(document)
}

/// Waits for a document in a watch.
async fn until(watch: &mut Watch<'_>, what: &str, wanted: impl Fn(&Document) -> bool) -> Result<Document> {
    let mut last = None;
    let seek = async {
        while let Some(document) = watch.next().await? {
            if wanted(&document) {
                return Ok(document);
            }
            last = Some(document.phase);
        }
        bail!("the agent ended the watch")
    };
    let found = tokio::time::timeout(LIMIT, seek).await;
    found.with_context(|| format!("expected {what}, saw {last:?}"))?
}
