//! A changed spec acts at once, and once.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::LIMIT;
use super::cast::{Cast, DEVBOX, LOGINS, describe, node_of};
use super::teller::Teller;
use crate::platform::instance::TailnetWish;
use crate::web::{get, reach};

/// The new name.
const NAME: &str = "web-api";
/// The new tags, in the order in which Headscale lists them.
const TAGS: [&str; 2] = ["tag:devbox", "tag:web"];

pub(super) async fn play(teller: &Teller, cast: &Cast) -> Result<()> {
    let mut asked = false;
    let start = Instant::now();
    cast.scene.platform.set_spec(DEVBOX, |spec| {
        if let TailnetWish::Join(tailnet) = &mut spec.tailnet {
            tailnet.hostname = Some(NAME.to_owned());
            tailnet.tags = TAGS.map(str::to_owned).to_vec();
            asked = true;
        }
    })?;
    ensure!(asked, "expected a spec that joins");
    let changed = cast
        .online(|document| document.node.as_ref().is_some_and(|node| node.name == NAME && node.tags.iter().eq(&TAGS)));
    let document = changed.await.context("expected another name and other tags")?;
    teller.took("both changed: same node, same address, one login", start.elapsed());
    teller.detail(describe(node_of(&document)?));
    cast.same_node(&document).await?;
    check_logins(cast)?;
    reach(&cast.laptop, &cast.web(NAME), LIMIT).await?;
    teller.took("the laptop reaches it by its new name", start.elapsed());
    if get(&cast.laptop, &cast.web("web")).await.is_ok() {
        bail!("expected no answer by the old name, saw one");
    }
    teller.seen("the old name answers no more");
    Ok(())
}

/// Checks that the devbox has logged in for its first join and for this change, and for nothing else in the whole play.
pub(super) fn check_logins(cast: &Cast) -> Result<()> {
    let (exchanges, keys) = cast.logins();
    ensure!(
        (exchanges, keys) == (LOGINS, LOGINS),
        "expected {LOGINS} exchanges and {LOGINS} keys of the devbox in all, saw {exchanges} and {keys}"
    );
    Ok(())
}
