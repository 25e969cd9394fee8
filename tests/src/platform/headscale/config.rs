//! The files that Headscale starts from.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{HeadscaleConfig, TAG_OWNER, config_path, server_url};

/// Writes configuration and policy into Headscale's directory.
pub(super) fn write(config: &HeadscaleConfig) -> Result<()> {
    let policy = config.dir.join("policy.json");
    // JSON is YAML too (YAML 1.2 §1.3), and a JSON value cannot be quoted wrongly.
    save(&config_path(&config.dir), &settings(config))?;
    save(&policy, &access_policy(&config.tags))
}

fn save(path: &std::path::Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("failed to encode headscale's configuration")?;
    std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}

fn settings(config: &HeadscaleConfig) -> Value {
    let file = |name: &str| config.dir.join(name).display().to_string();
    json!({
        "server_url": server_url(config),
        "listen_addr": config.listen.to_string(),
        "metrics_listen_addr": "",
        "grpc_listen_addr": "127.0.0.1:0",
        "noise": { "private_key_path": file("noise.key") },
        "prefixes": { "v4": "100.64.0.0/10", "v6": "fd7a:115c:a1e0::/48" },
        "database": { "type": "sqlite", "sqlite": { "path": file("db.sqlite") } },
        "derp": { "server": derp(config), "urls": [], "auto_update_enabled": false },
        "dns": { "magic_dns": true, "base_domain": config.base_domain, "override_local_dns": false },
        "unix_socket": file("headscale.sock"),
        "unix_socket_permission": "0700",
        "policy": { "mode": "file", "path": file("policy.json") },
        // 65 s is fatal, so this is the shortest that starts; nodes that log out go at once.
        "node": { "expiry": 0, "ephemeral": { "inactivity_timeout": "70s" } },
        // The defaults hold each registration and map change for 0.5 to 0.8 s.
        "tuning": { "batch_change_delay": "5ms", "node_store_batch_timeout": "5ms", "node_store_batch_size": 1 },
        "logtail": { "enabled": false },
        "disable_check_updates": true,
    })
}

fn derp(config: &HeadscaleConfig) -> Value {
    let mut derp = json!({
        "enabled": true,
        "region_id": 999,
        "region_code": "lab",
        "region_name": "lab",
        // With an IPv4-only listener every netcheck waits 3 s for an IPv6 answer.
        "stun_listen_addr": format!("[::]:{}", config.stun_port),
        "private_key_path": config.dir.join("derp.key").display().to_string(),
        "automatically_add_embedded_derp_region": true,
    });
    let address = config.public.ip();
    if address.is_ipv4() {
        derp["ipv4"] = json!(address.to_string());
    }
    if address.is_loopback() {
        derp["ipv6"] = json!("::1");
    }
    derp
}

/// Everybody may reach everybody; every tag has an owner, because a node only gets tags that have one. Names have IPv6 addresses too, which
/// MagicDNS keeps to itself without that attribute.
fn access_policy(tags: &[String]) -> Value {
    let owners: BTreeMap<&str, [String; 1]> =
        tags.iter().map(|tag| (tag.as_str(), [format!("{TAG_OWNER}@")])).collect();
    json!({
        "tagOwners": owners,
        "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:*"] }],
        "nodeAttrs": [{ "target": ["*"], "attr": ["magicdns-aaaa"] }],
    })
}
