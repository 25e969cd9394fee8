//! `SO_PEERGROUPS` (Linux 4.13, socket(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// Reads the supplementary groups that the peer of a unix socket had when it connected.
///
/// The kernel took them down with the connection; reading `/proc/PID/status` instead would race with the pid being used again. Fails with
/// `ENOPROTOOPT` before Linux 4.13.
pub fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    // Most users are in fewer groups; the kernel says how many there are when these are too few.
    let mut groups = vec![0; 32];
    loop {
        match read(&socket, &mut groups) {
            Ok(count) => {
                groups.truncate(count);
                return Ok(groups);
            }
            Err(Short::Needs(count)) => groups.resize(count, 0),
            Err(Short::Failed(error)) => return Err(error),
        }
    }
}

enum Short {
    Needs(usize),
    Failed(io::Error),
}

#[expect(unsafe_code, reason = "nix has no SO_PEERGROUPS")]
fn read(socket: &impl AsFd, groups: &mut [u32]) -> Result<usize, Short> {
    let mut bytes = libc::socklen_t::try_from(size_of_val(groups)).map_err(|e| Short::Failed(io::Error::other(e)))?;
    // SAFETY: the kernel writes at most `bytes` bytes, the size of `groups`, in which every bit pattern is valid; both pointers are of live
    // exclusive borrows, and the descriptor is borrowed for the whole call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    let count = bytes as usize / size_of::<u32>();
    if result == 0 {
        return Ok(count);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() {
        return Err(Short::Needs(count));
    }
    Err(Short::Failed(error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_peer_of_a_pair_has_our_own_groups() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let mut seen = peer_groups(&ours).expect("SO_PEERGROUPS");
        let mut own: Vec<u32> = nix::unistd::getgroups().expect("getgroups").iter().map(|g| g.as_raw()).collect();
        seen.sort_unstable();
        own.sort_unstable();
        assert_eq!(seen, own);
    }

    #[test]
    fn a_socket_without_a_peer_is_an_error() {
        let file = std::fs::File::open("/dev/null").expect("/dev/null");
        let error = peer_groups(&file).expect_err("not a socket");
        assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK));
    }

    #[test]
    fn too_short_a_buffer_says_how_many_there_are() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let all = peer_groups(&ours).expect("SO_PEERGROUPS").len();
        let short = read(&ours, &mut []);
        assert!(match short {
            Ok(count) => all == 0 && count == 0,
            Err(Short::Needs(count)) => count == all,
            Err(Short::Failed(_)) => false,
        });
    }
}
