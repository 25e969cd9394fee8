//! A crash costs neither name nor node nor address.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::LIMIT;
use super::cast::{Cast, LOGINS, describe, node_of, online_after};
use super::teller::Teller;
use crate::web::{get, reach};

pub(super) async fn play(teller: &Teller, cast: &mut Cast) -> Result<()> {
    let url = cast.web("web");
    cast.devbox.kill_all()?;
    cast.agent.wait().await?;
    ensure!(get(&cast.laptop, &url).await.is_err(), "expected no answer from a dead devbox, saw one");
    teller.seen("agent and tailscaled killed (SIGKILL); the laptop gets no answer");

    let start = Instant::now();
    cast.agent = cast.scene.start_agent(&cast.devbox)?;
    let document = cast.online(|_| true).await.context("expected the devbox online again")?;
    let node = node_of(&document)?;
    ensure!(node.name == cast.joined.name, "expected the name {}, saw {}", cast.joined.name, node.name);
    cast.same_node(&document).await?;
    ensure!(cast.logins() == (LOGINS - 1, LOGINS - 1), "expected no login for a restart, saw {:?}", cast.logins());
    teller.took("online again: same name, node and address, and no login", online_after(&document)?);
    teller.detail(describe(node));
    reach(&cast.laptop, &url, LIMIT).await?;
    teller.took("the laptop reaches it again", start.elapsed());
    Ok(())
}
