//! Choosing the exit node by the name or address that a person knows it by.
//!
//! tailscaled takes any address for one, and sends the ordinary network's traffic nowhere when no node has it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Value, json};

use super::LocalApiError;

/// Why a node is not used as an exit node.
#[derive(Debug, thiserror::Error)]
pub enum ExitNodeError {
    /// There is none, or the tailnet's access rules keep it from this node.
    #[error("the tailnet shows this node no other that is called {0}; see its name or address, and the access rules")]
    Unknown(String),
    /// It does not offer it, or nobody has approved that.
    #[error(
        "{0} is no exit node; run `tailscale set --advertise-exit-node` there, and approve it in the admin console"
    )]
    NotOffered(String),
    /// tailscaled cannot be asked, or told.
    #[error(transparent)]
    LocalApi(#[from] LocalApiError),
}

/// `ipnstate.Status`, as far as it tells of other nodes.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Peers {
    peer: Option<BTreeMap<String, Peer>>,
    #[serde(rename = "MagicDNSSuffix")]
    magic_dns_suffix: String,
}

/// `ipnstate.PeerStatus`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Peer {
    #[serde(rename = "DNSName")]
    dns_name: String,
    #[serde(rename = "TailscaleIPs")]
    tailscale_ips: Option<Vec<IpAddr>>,
    exit_node_option: bool,
}

impl Peers {
    /// The address of the exit node `wanted`: an address, a name, or a name with its domain, as `tailscale up --exit-node` takes them.
    pub fn exit_node(&self, wanted: &str) -> Result<IpAddr, ExitNodeError> {
        let mut peers = self.peer.iter().flat_map(BTreeMap::values);
        let peer = peers.find(|peer| self.is(peer, wanted)).ok_or_else(|| ExitNodeError::Unknown(wanted.to_owned()))?;
        let address = peer.addresses().next().filter(|_| peer.exit_node_option);
        address.ok_or_else(|| ExitNodeError::NotOffered(wanted.to_owned()))
    }

    fn is(&self, peer: &Peer, wanted: &str) -> bool {
        if let Ok(address) = wanted.parse::<IpAddr>() {
            return peer.addresses().any(|its| its == address);
        }
        let full = peer.dns_name.trim_end_matches('.');
        let short = full.strip_suffix(&self.magic_dns_suffix).and_then(|start| start.strip_suffix('.'));
        let wanted = wanted.trim_end_matches('.');
        !full.is_empty() && [Some(full), short].into_iter().flatten().any(|name| name.eq_ignore_ascii_case(wanted))
    }
}

impl Peer {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.tailscale_ips.iter().flatten().copied()
    }
}

/// `ipn.MaskedPrefs` that sends the ordinary network's traffic there; the command's own network has no local one to spare.
pub(super) fn masked(address: IpAddr) -> Value {
    json!({
        "ExitNodeIP": address, "ExitNodeIPSet": true,
        "ExitNodeAllowLANAccess": false, "ExitNodeAllowLANAccessSet": true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Peers {
        let node = |name: &str, addresses: &[&str], offers: bool| json!({ "DNSName": name, "TailscaleIPs": addresses, "ExitNodeOption": offers, "Online": true });
        serde_json::from_value(json!({
            "BackendState": "Running",
            "MagicDNSSuffix": "net.example",
            "Peer": {
                "nodekey:1": node("out.net.example.", &["100.64.0.1", "fd7a:115c:a1e0::1"], true),
                "nodekey:2": node("db.net.example.", &["100.64.0.2"], false),
                "nodekey:3": node("out.other.example.", &["100.64.0.3"], true),
                "nodekey:4": { "DNSName": "", "TailscaleIPs": null },
            },
        }))
        .expect("a status")
    }

    #[test]
    fn an_exit_node_is_known_by_its_addresses_and_its_names() {
        for wanted in ["100.64.0.1", "fd7a:115c:a1e0::1", "out", "OUT", "out.net.example", "out.net.example."] {
            let found = peers().exit_node(wanted).expect(wanted);
            assert_eq!(found, IpAddr::from([100, 64, 0, 1]), "{wanted}");
        }
        let shared = peers().exit_node("out.other.example").expect("another tailnet's");
        assert_eq!(shared, IpAddr::from([100, 64, 0, 3]));
    }

    #[test]
    fn one_that_is_not_there_is_told_from_one_that_offers_nothing() {
        for wanted in ["100.64.0.9", "nobody", "out.net", "", "."] {
            assert!(matches!(peers().exit_node(wanted), Err(ExitNodeError::Unknown(_))), "{wanted}");
        }
        for wanted in ["db", "100.64.0.2"] {
            assert!(matches!(peers().exit_node(wanted), Err(ExitNodeError::NotOffered(_))), "{wanted}");
        }
        assert!(matches!(Peers::default().exit_node("out"), Err(ExitNodeError::Unknown(_))), "an empty tailnet");
    }
}
