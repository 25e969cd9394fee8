//! Rules for tests: the defaults of the configuration.

use super::resolve::Rules;
use crate::config::testing::settings;

/// Nothing set, and `may_set` as it is when nobody writes it.
pub(crate) fn rules() -> Rules {
    Rules::from(&settings(&[]))
}
