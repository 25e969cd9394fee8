//! What the tailnet is for: somebody opens the devbox's web server.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::LIMIT;
use super::cast::Cast;
use super::cast::{PORT, listed};
use super::teller::Teller;
use crate::web::{Site, reach};

/// What the devbox serves.
const PAGE: &str = "Ada's web app";

pub(super) async fn play(teller: &Teller, cast: &mut Cast) -> Result<()> {
    cast.sites.push(Site::open(&cast.devbox, PORT, PAGE).await?);
    let (start, url) = (Instant::now(), cast.web("web"));
    let page = reach(&cast.laptop, &url, LIMIT).await?;
    let took = start.elapsed();
    let laptop = listed(&cast.scene, "laptop").await?.map(|node| node.ip_addresses).unwrap_or_default();
    // The server names whom it sees: the laptop's address in the tailnet, so this did not go around it.
    let expected = |page: &str| laptop.iter().any(|address| page == format!("hello {address}, this is {PAGE}"));
    ensure!(expected(&page), "expected a greeting of one of {laptop:?}, saw {page:?}");
    teller.took(format_args!("GET {url}"), took);
    teller.detail(format_args!("{page:?}"));
    Ok(())
}
