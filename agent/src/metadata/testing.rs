//! Rules for tests: the defaults of the configuration, and a node in it.

use super::resolve::Rules;
use crate::config::testing::settings;

/// Nothing set, and `may_set` as it is when nobody writes it.
pub(crate) fn rules() -> Rules {
    Rules::from(&settings(&[]))
}

/// A client id and a tag, as a provider without a spec of its own needs.
pub(crate) fn configured_rules() -> Rules {
    let mut rules = rules();
    rules.tailnet.client_id = Some("kConfig".into());
    rules.tailnet.tags = Some(vec!["tag:ci".into()]);
    rules
}
