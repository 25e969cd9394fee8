//! Settings for tests.

use super::{Settings, Sources, load};

/// The defaults, but for `overrides` (`section.key=value`).
pub(crate) fn settings(overrides: &[&str]) -> Settings {
    let overrides = overrides.iter().map(|text| (*text).to_owned()).collect();
    load(&Sources { dirs: Vec::new(), overrides, uid: 0 }).expect("valid overrides").settings
}
