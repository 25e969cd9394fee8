//! Network interfaces, by ioctl (netdevice(7), and the kernel's tuntap.rst).
#![expect(unsafe_code, reason = "ioctl has no type of its own")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Brings the interface `name` of this network namespace up.
pub fn up(name: &str) -> io::Result<()> {
    let mut request = named(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    set(libc::SIOCSIFFLAGS, &request)
}

/// Gives the interface `name`, or its alias `name:1`, the address.
fn add_address(name: &str, address: Ipv4Addr) -> io::Result<()> {
    let mut request = named(name)?;
    request.ifr_ifru.ifru_addr = v4(address);
    set(libc::SIOCSIFADDR, &request)
}

/// The same for an address alone: no network is reached by it, which would else be that of its class.
pub fn add_lone_address(name: &str, address: Ipv4Addr) -> io::Result<()> {
    add_address(name, address)?;
    let mut request = named(name)?;
    request.ifr_ifru.ifru_netmask = v4(Ipv4Addr::BROADCAST);
    set(libc::SIOCSIFNETMASK, &request)
}

/// Gives the interface `name`, which is down, the address and a route to everywhere, and brings it up.
pub fn lead_everywhere(name: &str, address: Ipv4Addr) -> io::Result<()> {
    add_address(name, address)?;
    up(name)?;
    // SAFETY: an rtentry is plain data, for which zeroes are a value; so is a null pointer for a device of no name.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = v4(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = v4(Ipv4Addr::UNSPECIFIED);
    route.rt_flags = libc::RTF_UP;
    let device = CString::new(name)?;
    route.rt_dev = device.as_ptr().cast_mut();
    set(libc::SIOCADDRT, &route)
}

/// Asks the kernel to change this network namespace: `request` reads a `T`, which is an ifreq or an rtentry.
fn set<T>(request: libc::c_ulong, what: &T) -> io::Result<()> {
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: the requests of this file that come here only read the structure, and it and what it points to live through the call.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), request as _, what) };
    Errno::result(answer).map(drop).map_err(io::Error::from)
}

/// A sockaddr_in in the form that these structures have it.
fn v4(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: a sockaddr is plain data, for which zeroes are a value.
    let mut general: libc::sockaddr = unsafe { std::mem::zeroed() };
    general.sa_family = libc::AF_INET as libc::sa_family_t;
    // After two bytes of port (sockaddr_in, ip(7)).
    for (to, from) in general.sa_data[2..].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    general
}

/// Makes the TAP interface `name`; it is there until the file is closed.
pub fn tap(name: &str) -> io::Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut request = named(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes an ifreq, which lives through the call.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) };
    Errno::result(answer).map(|_| file).map_err(io::Error::from)
}

fn named(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an ifreq is plain data, for which zeroes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: it ends the name.
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the interface's name is too long"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}
