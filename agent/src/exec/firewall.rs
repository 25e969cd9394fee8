//! What the command may reach, and who may reach it, as nftables rules of its own network namespace (nft(8)).
//!
//! Routes and policy rules are not enough: an unprivileged SO_BINDTODEVICE goes around them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;

/// What is meant for the host and not for the command. Loopback addresses are in it because a socket that is bound to the way out sends to them
/// through pasta, which on the host means the host's own; within the namespace they are reached before this. 168.63.129.16 is Azure's metadata,
/// fd00:ec2::/32 Amazon's (metadata, pod identity, time), fd20:ce::254 Google's; the rest are link-local and multicast addresses, and those of
/// tailnets.
const NEVER4: &str = "127.0.0.0/8, 169.254.0.0/16, 168.63.129.16, 100.64.0.0/10, 224.0.0.0/4, 255.255.255.255";
const NEVER6: &str = "::1, fd00:ec2::/32, fd20:ce::254, fd7a:115c:a1e0::/48, fe80::/10, ff00::/8";

/// How the command learns that it may not: a connection over IPv6 would take an ICMP error for a passing one, and try again for a second, or for
/// minutes when it is bound to an interface.
const REFUSE: &str =
    "chain refuse {\n meta l4proto tcp reject with tcp reset\n reject with icmpx type admin-prohibited\n}\n";

/// tailscaled's own sockets bear this mark (tsconst.LinuxBypassMark and its mask); the command cannot set one.
const TAILSCALED: &str = "meta mark & 0x00ff0000 == 0x00080000 accept";

/// What the rules depend on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rules {
    /// tailscaled's interface.
    pub tun: String,
    /// The host's own addresses and gateways.
    pub host: BTreeSet<IpAddr>,
    /// The networks that the host reaches through tailnets of its own.
    pub own_tailnets: BTreeSet<String>,
    /// Nothing but the tailnet.
    pub tailnet_only: bool,
    /// The ports that peers may open.
    pub publish: Vec<u16>,
}

impl Rules {
    /// The rules as nft reads them.
    pub fn text(&self) -> String {
        let input = if self.publish.is_empty() { String::new() } else { self.input() };
        format!("table inet devbox-agent {{\n{REFUSE}{}{input}}}\n", self.output())
    }

    fn output(&self) -> String {
        let mut rules = format!(" oifname {{ \"lo\", \"{}\" }} accept\n {TAILSCALED}\n", self.tun);
        if self.tailnet_only {
            rules.push_str(" goto refuse\n");
        } else {
            rules.push_str(" icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert } accept\n");
            for (family, never, own) in [("ip", NEVER4, self.own(true)), ("ip6", NEVER6, self.own(false))] {
                // One rule each: a set would have to be free of overlaps.
                for address in never.split(", ").map(str::to_owned).chain(own) {
                    let _ = writeln!(rules, " {family} daddr {address} goto refuse");
                }
            }
        }
        format!("chain output {{\n type filter hook output priority 0; policy accept;\n{rules}}}\n")
    }

    /// What comes from the tailnet to a port that is not published is refused, and answers are let in. With no port at all tailscaled itself
    /// lets nothing in (ShieldsUp).
    fn input(&self) -> String {
        let mut rules = format!(" iifname != \"{}\" accept\n ct state established,related accept\n", self.tun);
        for port in &self.publish {
            let _ = writeln!(rules, " th dport {port} accept");
        }
        rules.push_str(" meta l4proto { icmp, ipv6-icmp } accept\n meta l4proto tcp reject with tcp reset\n");
        rules.push_str(" reject with icmpx type port-unreachable\n");
        format!("chain input {{\n type filter hook input priority 0; policy accept;\n{rules}}}\n")
    }

    fn own(&self, v4: bool) -> impl Iterator<Item = String> {
        let addresses = self.host.iter().filter(move |address| address.is_ipv4() == v4).map(ToString::to_string);
        addresses.chain(self.own_tailnets.iter().filter(move |network| network.contains(':') != v4).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        let host = ["192.0.2.7", "172.17.0.1", "fd00::7"].map(|address| address.parse().expect("an address"));
        let own_tailnets = ["198.51.100.0/24", "2001:db8:51::/64"].map(str::to_owned).into();
        Rules { tun: "tailscale0".to_owned(), host: host.into(), own_tailnets, ..Rules::default() }
    }

    #[test]
    fn the_hosts_own_addresses_are_refused_after_tailscaled_has_been_let_through() {
        let text = rules().text();
        let at = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words} is missing of {text}"));
        for address in [
            "ip daddr 192.0.2.7",
            "ip daddr 172.17.0.1",
            "ip6 daddr fd00::7",
            "ip daddr 198.51.100.0/24",
            "ip6 daddr 2001:db8:51::/64",
        ] {
            assert!(at(TAILSCALED) < at(&format!(" {address} goto refuse\n")));
        }
    }

    #[test]
    fn loopback_multicast_metadata_and_tailnets_are_refused_after_the_namespaces_own_loopback_and_neighbours() {
        let text = rules().text();
        let at = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words} is missing of {text}"));
        let before = at("oifname { \"lo\"").max(at("nd-neighbor-solicit"));
        for address in
            ["127.0.0.0/8", "224.0.0.0/4", "255.255.255.255", "169.254.0.0/16", "168.63.129.16", "100.64.0.0/10"]
        {
            assert!(before < at(&format!(" ip daddr {address} goto refuse\n")));
        }
        for address in ["::1", "ff00::/8", "fe80::/10", "fd00:ec2::/32", "fd20:ce::254", "fd7a:115c:a1e0::/48"] {
            assert!(before < at(&format!(" ip6 daddr {address} goto refuse\n")));
        }
    }

    #[test]
    fn with_the_tailnet_only_everything_else_is_refused() {
        let text = Rules { tailnet_only: true, ..rules() }.text();
        assert!(text.contains("accept\n goto refuse\n}") && !text.contains("169.254"), "{text}");
    }

    #[test]
    fn only_published_ports_are_open() {
        let text = Rules { publish: vec![3000], ..rules() }.text();
        assert!(text.contains(" th dport 3000 accept\n"), "{text}");
        assert!(!rules().text().contains("dport"), "none without");
    }
}
