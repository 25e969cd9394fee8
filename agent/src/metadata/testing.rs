//! Rules for tests: the defaults of the configuration.

use super::resolve::Rules;
use crate::config::settings::{AfterLogout, RespectDown, SpecField, TailnetSettings};

/// Nothing set, and `may_set` as it is when nobody writes it.
pub(crate) fn rules() -> Rules {
    Rules {
        tailnet: TailnetSettings {
            control_url: "https://controlplane.tailscale.com".parse().expect("a URL"),
            api_url: "https://api.tailscale.com".parse().expect("a URL"),
            proxy: None,
            respect_down: RespectDown::Boot,
            after_logout: AfterLogout::Rejoin,
            client_id: None,
            tags: None,
            hostname: None,
            lifecycle: None,
            accept_dns: None,
            accept_routes: None,
            ssh: None,
        },
        may_set: vec![
            SpecField::ClientId,
            SpecField::Tags,
            SpecField::Hostname,
            SpecField::Lifecycle,
            SpecField::AcceptDns,
            SpecField::AcceptRoutes,
        ],
    }
}
