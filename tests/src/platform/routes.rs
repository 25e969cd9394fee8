//! The routes that stories count, and put faults on.

/// The metadata document.
pub const INSTANCE: &str = "GET /devbox/v1/instance";
/// A session of the metadata endpoint's.
pub const SESSION: &str = "PUT /devbox/v1/session";
/// The workload token.
pub const TOKEN: &str = "GET /devbox/v1/token";
/// The token exchange.
pub const EXCHANGE: &str = "POST /api/v2/oauth/token-exchange";
/// New keys.
pub const KEYS: &str = "POST /api/v2/tailnet/-/keys";
