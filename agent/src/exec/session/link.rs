//! The session's end of the sockets to the sandbox.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::sys::socket::MsgFlags;
use tokio::io::unix::AsyncFd;

use crate::exec::control::{News, Order, hear, tell};
use crate::exec::failure::Failure;
use crate::sys::async_fd::register;
use crate::sys::packet::Packet;

/// The socket.
pub(super) struct Link(Arc<AsyncFd<OwnedFd>>);

/// What gives orders.
#[derive(Clone)]
pub(super) struct Sender(Arc<AsyncFd<OwnedFd>>);

impl Link {
    pub fn new(control: OwnedFd) -> io::Result<Self> {
        Ok(Self(Arc::new(register(control)?)))
    }

    pub fn sender(&self) -> Sender {
        Sender(self.0.clone())
    }

    /// Waits for the next news that is no failure of the sandbox's, with what came with it.
    ///
    /// # Errors
    /// When a step of the sandbox failed, or it has ended.
    pub async fn next(&self) -> Result<(News, Packet), Failure> {
        match self.hear().await.map_err(Failure::own("hear of the sandbox"))? {
            Some((News::Failed { step, errno, words }, _)) => Err(Failure::sandbox(step, errno, words)),
            Some(heard) => Ok(heard),
            None => Err(Failure::Silent),
        }
    }

    /// `None` when the sandbox has ended.
    async fn hear(&self) -> io::Result<Option<(News, Packet)>> {
        loop {
            let mut ready = self.0.readable().await?;
            match hear(self.0.get_ref(), MsgFlags::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                // The kernel says so when the other side ended with words of ours unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                heard => return heard,
            }
        }
    }
}

impl Sender {
    /// Gives an order: it is small, and the sandbox reads at once.
    pub fn send(&self, order: Order) -> io::Result<()> {
        tell(self.0.get_ref(), &order, None)
    }
}
