//! A socket that the service manager listens on for us.
#![expect(unsafe_code, reason = "a descriptor that was inherited is known only by its number")]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::sockopt::{AcceptConn, SockType};
use nix::sys::socket::{SockType as Type, getsockopt};

/// Why there is no socket to serve.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The environment that says what was passed is malformed.
    #[error("failed to find the socket that was passed")]
    Environment(#[source] io::Error),
    /// Nothing was passed, or more than one thing, or it was taken before.
    #[error("{found} sockets were passed, not 1; start devbox-agent-helper.socket")]
    Count {
        /// How many.
        found: usize,
    },
    /// What was passed is something else.
    #[error(
        "what was passed is no listening stream socket; see ListenStream= and Accept= in devbox-agent-helper.socket"
    )]
    Kind,
    /// The kernel refuses.
    #[error("failed to use the socket that was passed")]
    Use(#[source] io::Error),
}

/// Takes over the one listening unix socket that the service manager passed to this process (sd_listen_fds(3)).
///
/// # Errors
/// Also at the second call: the first one's result owns the descriptor.
pub fn passed() -> Result<UnixListener, ListenerError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let mut passed = sd_notify::listen_fds().map_err(ListenerError::Environment)?;
    let (found, first) = (passed.len(), passed.next());
    let number = match first {
        Some(number) if found == 1 && !TAKEN.swap(true, Ordering::SeqCst) => number,
        _ => return Err(ListenerError::Count { found }),
    };
    // SAFETY: `listen_fds` has just found the descriptor open, and nothing closes it while it is looked at.
    check(unsafe { BorrowedFd::borrow_raw(number) })?;
    // SAFETY: it is a listening stream socket, of which this program has not made one by now; so it is the service manager's, opened before
    // this program began, and nothing else here owns it. `TAKEN` lets only one call come this far.
    let listener = UnixListener::from(unsafe { OwnedFd::from_raw_fd(number) });
    listener.set_nonblocking(true).map_err(ListenerError::Use)?;
    // Of all listening stream sockets, only a unix one has an address of that kind.
    listener.local_addr().map_err(|_| ListenerError::Kind)?;
    Ok(listener)
}

fn check(descriptor: BorrowedFd<'_>) -> Result<(), ListenerError> {
    let listens = getsockopt(&descriptor, AcceptConn).map_err(|_| ListenerError::Kind)?;
    let kind = getsockopt(&descriptor, SockType).map_err(|_| ListenerError::Kind)?;
    if listens && kind == Type::Stream { Ok(()) } else { Err(ListenerError::Kind) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn without_a_service_manager_there_is_no_socket_and_nothing_is_taken() {
        let error = passed().expect_err("nothing was passed to this test");
        assert!(matches!(error, ListenerError::Count { found: 0 }), "{error:?}");
        assert!(error.to_string().ends_with("start devbox-agent-helper.socket"), "{error}");
    }

    #[test]
    fn only_a_listening_stream_socket_will_do() {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("socket")).expect("bound");
        assert!(check(listener.as_fd()).is_ok());
        let (one_end, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let file = std::fs::File::open("/dev/null").expect("a file");
        for other in [one_end.as_fd(), file.as_fd()] {
            assert!(matches!(check(other), Err(ListenerError::Kind)));
        }
    }
}
