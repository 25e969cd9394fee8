//! The networks that the machine reaches through a tailnet of its own, by the kernel's routes (rtnetlink(7)).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::host::address;

/// As much as the kernel sends at once (netlink(7)).
const BUFFER: usize = 32 << 10;
/// The length of an nlmsghdr, and of the rtmsg after it.
const HEADER: usize = 16;
const MESSAGE: usize = 12;

#[derive(Debug, PartialEq)]
struct Route {
    /// The network, as `ADDRESS/PREFIX`; none of a route to everywhere.
    to: Option<String>,
    table: u32,
    interface: u32,
}

/// The networks behind interfaces that have a tailnet's address, as `ADDRESS/PREFIX`, in whatever table: tailscaled has one of its own.
pub(super) fn to_own_tailnets() -> io::Result<BTreeSet<String>> {
    let mut tailnets = BTreeSet::new();
    for interface in getifaddrs()? {
        if interface.address.as_ref().and_then(address).is_some_and(is_tailnets) {
            tailnets.insert(if_nametoindex(interface.interface_name.as_str())?);
        }
    }
    if tailnets.is_empty() { Ok(BTreeSet::new()) } else { Ok(behind(tailnets, &routes()?)) }
}

/// Not behind the main table's way to everywhere: a provider's network may have such addresses too (RFC 6598). An exit node's is in another.
fn behind(mut tailnets: BTreeSet<u32>, routes: &[Route]) -> BTreeSet<String> {
    for route in routes.iter().filter(|route| route.to.is_none() && route.table == u32::from(libc::RT_TABLE_MAIN)) {
        tailnets.remove(&route.interface);
    }
    routes.iter().filter(|route| tailnets.contains(&route.interface)).filter_map(|route| route.to.clone()).collect()
}

/// Tailscale's addresses (tsaddr.CGNATRange, tsaddr.TailscaleULARange).
fn is_tailnets(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] == 100 && v4.octets()[1] >> 6 == 1,
        IpAddr::V6(v6) => v6.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0],
    }
}

/// Every unicast route of every table.
fn routes() -> io::Result<Vec<Route>> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let mut request = [0; HEADER + MESSAGE];
    request[..4].copy_from_slice(&((HEADER + MESSAGE) as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&libc::RTM_GETROUTE.to_ne_bytes());
    request[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let (mut routes, mut buffer) = (Vec::new(), vec![0; BUFFER]);
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for message in parts(&buffer[..length], |head| word(head.get(..4)?)) {
            match message.get(4..6).and_then(half).map(i32::from) {
                Some(libc::NLMSG_DONE) => return Ok(routes),
                Some(libc::NLMSG_ERROR) => return Err(io::Error::other("the kernel does not list its routes")),
                _ => routes.extend(message.get(HEADER..).and_then(route)),
            }
        }
    }
}

/// Reads an rtmsg and its attributes; none of what leads to no other host.
fn route(message: &[u8]) -> Option<Route> {
    let (head, attributes) = message.split_at_checked(MESSAGE)?;
    let [prefix, table, kind] = [head[1], head[4], head[7]];
    let attribute = |wanted: u16| {
        let mut all = parts(attributes, |head| half(head.get(..2)?).map(u32::from));
        all.find(|part| part.get(2..4).and_then(half) == Some(wanted)).map(|part| &part[4..])
    };
    let to = match attribute(libc::RTA_DST) {
        Some(bytes) => Some(format!("{}/{prefix}", in_bytes(bytes)?)),
        None => None,
    };
    let table = attribute(libc::RTA_TABLE).and_then(word).unwrap_or(table.into());
    let interface = attribute(libc::RTA_OIF).and_then(word)?;
    (kind == libc::RTN_UNICAST).then_some(Route { to, table, interface })
}

/// Takes messages or attributes apart, whose heads say how long each is; the next one begins at a multiple of 4.
fn parts(mut bytes: &[u8], length: impl Fn(&[u8]) -> Option<u32>) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = length(bytes)?.max(4) as usize;
        let part = bytes.get(..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(part)
    })
}

fn in_bytes(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into())).ok()
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(network: &str, table: u32, interface: u32) -> Route {
        let to = (network != "everywhere").then(|| network.to_owned());
        Route { to, table, interface }
    }

    #[test]
    fn networks_behind_a_tailnets_interface_are_told_from_those_of_a_provider_with_such_addresses() {
        let routes = [
            to("everywhere", 254, 2),
            to("100.64.0.0/24", 254, 2),
            to("192.0.2.0/24", 254, 4),
            to("198.51.100.0/24", 52, 3),
            // An exit node.
            to("everywhere", 52, 3),
        ];
        assert_eq!(behind([2, 3].into(), &routes), ["198.51.100.0/24".to_owned()].into());
        for (address, expected) in [
            ("100.64.0.1", true),
            ("100.127.0.1", true),
            ("100.128.0.1", false),
            ("fd7a:115c:a1e0::1", true),
            ("fd7a:115c:a1e1::1", false),
        ] {
            assert_eq!(is_tailnets(address.parse().expect("an address")), expected, "{address}");
        }
    }

    #[test]
    fn a_route_is_read_as_the_kernel_writes_it() {
        let attribute = |kind: u16, value: &[u8]| {
            [&((4 + value.len()) as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
        };
        let message = |kind: u8, attributes: &[Vec<u8>]| {
            [&[libc::AF_INET as u8, 24, 0, 0, 52, 0, 0, kind, 0, 0, 0, 0][..], &attributes.concat()].concat()
        };
        let (network, interface) =
            (attribute(libc::RTA_DST, &[198, 51, 100, 0]), attribute(libc::RTA_OIF, &3_u32.to_ne_bytes()));
        let read = |kind| route(&message(kind, &[network.clone(), interface.clone()]));
        assert_eq!(read(libc::RTN_UNICAST), Some(to("198.51.100.0/24", 52, 3)));
        assert_eq!(read(libc::RTN_LOCAL), None);
        let table = attribute(libc::RTA_TABLE, &1000_u32.to_ne_bytes());
        let everywhere = message(libc::RTN_UNICAST, &[table, interface.clone()]);
        assert_eq!(route(&everywhere), Some(to("everywhere", 1000, 3)));
        assert_eq!(route(&everywhere[..9]), None, "cut off");
    }
}
