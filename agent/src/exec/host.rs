//! What the sandbox has to know of the host, read before it leaves the host's namespaces.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockaddrStorage;

/// Where systemd-resolved keeps its resolver configurations: nss-resolve(8) asks it there, around `/etc/resolv.conf`.
pub(super) const RESOLVED: &str = "/run/systemd/resolve";

/// The name service's port (RFC 1035).
pub(super) const DNS: u16 = 53;

/// How many name servers a resolver asks (MAXNS, resolv.conf(5)).
const SERVERS_MAX: usize = 3;

/// The resolver's options that mean something with another name server. Not use-vc: what stands for the host's takes no connections.
const OPTIONS: [&str; 4] = ["ndots:", "timeout:", "attempts:", "edns0"];

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
        let mut addresses: BTreeSet<IpAddr> = own.collect();
        for (file, parse) in gateways {
            // A kernel without IPv6 has no file of its routes.
            addresses.extend(read_if_there(file)?.lines().filter_map(parse));
        }
        addresses.retain(|address| !address.is_loopback());
        Ok(Self { addresses, outward: outward(), resolver: read_if_there("/etc/resolv.conf")? })
    }

    /// Its name servers, as many as its resolver would ask; a link-local one with the interface that it is on.
    pub fn name_servers(&self) -> Vec<SocketAddr> {
        let servers = self.lines("nameserver").filter_map(|words| server(words.first()?));
        servers.take(SERVERS_MAX).collect()
    }

    /// The resolver configuration inside: the host's domains and patience, and `forwarder` for its name servers, since those may be on its loopback
    /// or at its gateway. Without comments, in which tailscaled would read of a systemd-resolved that it cannot reach.
    pub fn resolver(&self, forwarder: Option<IpAddr>) -> String {
        let servers = forwarder.map(|forwarder| format!("nameserver {forwarder}"));
        // `domain` is a list of one; of several lines the last one counts.
        let domains = self.lines("search").last().or_else(|| self.lines("domain").last());
        let domains = domains.unwrap_or_default().into_iter().filter(|domain| *domain != ".");
        let options =
            self.lines("options").flatten().filter(|option| OPTIONS.iter().any(|kept| option.starts_with(kept)));
        let listed = |word, list: Vec<&str>| (!list.is_empty()).then(|| format!("{word} {}", list.join(" ")));
        let lists = [listed("search", domains.collect()), listed("options", options.collect())];
        servers.into_iter().chain(lists.into_iter().flatten()).map(|line| line + "\n").collect()
    }

    /// What follows a word at the beginning of a line, word by word.
    fn lines(&self, first: &str) -> impl Iterator<Item = Vec<&str>> {
        let lines = self.resolver.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.filter(move |line| line.first() == Some(&first)).map(|line| line[1..].to_vec())
    }
}

/// A name server as resolv.conf(5) has it, with its interface's name or number after a `%`.
fn server(text: &str) -> Option<SocketAddr> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    match address.parse().ok()? {
        IpAddr::V4(v4) => Some((v4, DNS).into()),
        IpAddr::V6(v6) => {
            let scope = zone.map_or(Some(0), |zone| zone.parse().ok().or_else(|| if_nametoindex(zone).ok()))?;
            Some(SocketAddrV6::new(v6, DNS, 0, scope).into())
        }
    }
}

/// What a resolver configuration lacks to be covered by another: a mount needs something that it covers. systemd-resolved's own are made where
/// its folder is.
pub(super) fn lack_of_resolver(file: &Path) -> Option<&'static str> {
    let (there, link) = (file.exists(), fs::read_link(file).ok());
    match link {
        _ if there => None,
        None => Some("is not there"),
        Some(target)
            if Path::new(RESOLVED).is_dir() && target.parent().is_some_and(|at| at.ends_with("systemd/resolve")) =>
        {
            None
        }
        Some(_) => Some("is a link to nothing"),
    }
}

fn read_if_there(file: &str) -> io::Result<String> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
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

pub(super) fn address(address: &SockaddrStorage) -> Option<IpAddr> {
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
    fn the_resolver_inside_has_the_hosts_domains_and_one_server_that_stands_for_the_hosts() {
        let host = host(
            "# by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad ndots:2\nsearch\ta.example b.example\nnameserver fd00::1\n",
        );
        assert_eq!(host.name_servers(), ["127.0.0.53:53", "[fd00::1]:53"].map(|it| it.parse().expect("an address")));
        let forwarder = Some(Ipv4Addr::new(169, 254, 1, 1).into());
        let inside = "nameserver 169.254.1.1\nsearch a.example b.example\noptions edns0 ndots:2\n";
        assert_eq!(host.resolver(forwarder), inside);
    }

    #[test]
    fn a_host_without_a_resolver_has_none_inside() {
        let host = host("search .\n");
        assert_eq!((host.name_servers(), host.resolver(None)), (Vec::new(), String::new()));
    }

    #[test]
    fn a_domain_is_searched_where_there_is_no_list() {
        assert_eq!(host("domain\ta.example\n").resolver(None), "search a.example\n");
        assert_eq!(host("search b.example\ndomain a.example\n").resolver(None), "search b.example\n");
    }

    #[test]
    fn a_link_local_server_keeps_its_interface() {
        let scope = |text: &str| match host(text).name_servers()[..] {
            [SocketAddr::V6(server)] => Some(server.scope_id()),
            _ => None,
        };
        // The loopback is the first interface of every network.
        assert_eq!(scope("nameserver fe80::1%lo\n"), Some(1));
        assert_eq!(scope("nameserver fe80::1%7\n"), Some(7));
        assert_eq!(scope("nameserver fe80::1%no-such\n"), None);
    }

    #[test]
    fn a_resolver_configuration_that_cannot_be_covered_is_told_from_one_that_can() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        assert_eq!(lack_of_resolver(&file), Some("is not there"));
        assert_eq!(lack_of_resolver(&link), Some("is a link to nothing"));
        fs::write(&file, "").expect("written");
        assert_eq!((lack_of_resolver(&file), lack_of_resolver(&link)), (None, None));
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
