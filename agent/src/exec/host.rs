//! What the sandbox has to know of the host, read before it leaves the host's namespaces.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

/// The host's addresses and resolvers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Host {
    /// Its own addresses and its gateways: what the command must not reach.
    pub addresses: BTreeSet<IpAddr>,
    /// The address that it has on the way to everywhere.
    pub outward: Option<Ipv4Addr>,
    /// Its resolver configuration, resolv.conf(5).
    pub resolver: String,
}

impl Host {
    /// Reads both.
    pub fn read() -> io::Result<Self> {
        let own = getifaddrs()?.filter_map(|interface| address(&interface.address?));
        let gateways = [("/proc/net/route", gateway as fn(&str) -> _), ("/proc/net/ipv6_route", gateway6)];
        // A kernel without IPv6 has no file of its routes.
        let gateways = gateways
            .map(|(file, parse)| fs::read_to_string(file).unwrap_or_default().lines().filter_map(parse).collect());
        let [gateways, gateways6]: [Vec<IpAddr>; 2] = gateways;
        let addresses = own.chain(gateways).chain(gateways6).filter(|address| !address.is_loopback()).collect();
        Ok(Self { addresses, outward: outward(), resolver: fs::read_to_string("/etc/resolv.conf").unwrap_or_default() })
    }

    /// Whether a name server is on the host's own loopback.
    pub fn has_local_resolver(&self) -> bool {
        let servers = self.resolver.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
        servers.map(str::trim).any(is_loopback)
    }

    /// The resolver configuration for tailscaled: its name servers and search domains, and no comment, in which tailscaled would read of a
    /// systemd-resolved that it cannot reach. A name server on the loopback is reached through `loopback` where that is given.
    pub fn resolver(&self, loopback: Option<Ipv4Addr>) -> String {
        let mut text = String::new();
        for line in self.resolver.lines() {
            let mut words = line.split_whitespace();
            let line = match (words.next(), words.next(), loopback) {
                (Some("nameserver"), Some(server), Some(instead)) if is_loopback(server) => {
                    format!("nameserver {instead}\n")
                }
                (Some("nameserver"), Some(server), _) => format!("nameserver {server}\n"),
                (Some("search"), Some(domain), _) if domain != "." => format!("{}\n", line.trim()),
                _ => continue,
            };
            if !text.contains(&line) {
                text.push_str(&line);
            }
        }
        text
    }
}

/// What the kernel would choose as the source of a packet to any other network; none is sent (TEST-NET-1, RFC 5737).
fn outward() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn is_loopback(server: &str) -> bool {
    server.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn address(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
}

/// The gateway of a line of `/proc/net/route`: the third word, in the machine's byte order.
fn gateway(line: &str) -> Option<IpAddr> {
    let word = u32::from_str_radix(line.split_whitespace().nth(2)?, 16).ok()?;
    let address = Ipv4Addr::from(word.to_ne_bytes());
    (!address.is_unspecified()).then_some(address.into())
}

/// The gateway of a line of `/proc/net/ipv6_route`: the fifth word.
fn gateway6(line: &str) -> Option<IpAddr> {
    let word = u128::from_str_radix(line.split_whitespace().nth(4)?, 16).ok()?;
    let address = Ipv6Addr::from(word);
    (!address.is_unspecified()).then_some(address.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(resolver: &str) -> Host {
        Host { resolver: resolver.to_owned(), ..Host::default() }
    }

    #[test]
    fn the_resolver_keeps_servers_and_domains_and_no_comment() {
        let host = host(
            "# by systemd-resolved\nnameserver 192.0.2.1\noptions edns0\nsearch a.example b.example\nnameserver fd00::1\n",
        );
        assert_eq!(host.resolver(None), "nameserver 192.0.2.1\nsearch a.example b.example\nnameserver fd00::1\n");
    }

    #[test]
    fn a_resolver_on_the_loopback_is_reached_another_way_where_there_is_one() {
        let host = host("nameserver 127.0.0.53\nnameserver ::1\nsearch .\n");
        assert_eq!(host.resolver(None), "nameserver 127.0.0.53\nnameserver ::1\n");
        assert_eq!(host.resolver(Some(Ipv4Addr::new(169, 254, 1, 1))), "nameserver 169.254.1.1\n", "said once");
    }

    #[test]
    fn gateways_are_read_as_the_kernel_writes_them() {
        let header = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask";
        assert_eq!(gateway(header), None);
        assert_eq!(
            gateway("eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000"),
            Some(Ipv4Addr::new(10, 0, 0, 1).into())
        );
        assert_eq!(
            gateway("eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF"),
            None,
            "no gateway, a network of its own"
        );
        let zero = "0".repeat(32);
        let line =
            format!("{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0");
        assert_eq!(gateway6(&line), Some("fe80::1".parse().expect("an address")));
        assert_eq!(gateway6(&format!("{zero} 00 {zero} 00 {zero} 0 0 0 0 lo")), None);
    }
}
