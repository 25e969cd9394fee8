//! The socket on which tailscaled says that it listens (sd_notify(3)).

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::UnixDatagram;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

/// What a service sends when it is ready, possibly among other lines.
const READY: &str = "READY=1";

/// A `NOTIFY_SOCKET` of the agent's own.
///
/// Its file stays when it is dropped: by then the next one may have taken its place.
#[derive(Debug)]
pub(crate) struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl NotifySocket {
    /// Makes the socket, for this user alone; what an earlier run left there is removed.
    pub fn bind(path: PathBuf) -> io::Result<Self> {
        remove(&path)?;
        let socket = UnixDatagram::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { socket, path })
    }

    /// What goes into the environment.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes in messages until the handle is dropped; the receiver gets the first readiness.
    ///
    /// tailscaled goes on to send its status, and would block once the socket's queue was full, so that has to be taken in too.
    pub fn listen(self) -> (oneshot::Receiver<()>, AbortOnDropHandle<()>) {
        let (ready, wait) = oneshot::channel();
        (wait, AbortOnDropHandle::new(tokio::spawn(self.take_in(ready))))
    }

    async fn take_in(self, ready: oneshot::Sender<()>) {
        let mut ready = Some(ready);
        let mut message = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut message).await {
            let text = String::from_utf8_lossy(&message[..length]);
            if text.lines().any(|line| line == READY) {
                // Nobody waits any more when the start was given up; then this task ends with it.
                let _nobody_waits = ready.take().map(|ready| ready.send(()));
            }
        }
    }
}

/// Removes the socket's file; there may be none.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readiness_is_heard_among_other_messages_and_later_ones_are_taken_in() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        std::fs::write(&path, "left by an earlier run").expect("a file");
        let socket = NotifySocket::bind(path.clone()).expect("bound");
        assert_eq!(std::fs::metadata(&path).expect("a socket").permissions().mode() & 0o777, 0o600);
        let (ready, listening) = socket.listen();
        let daemon = UnixDatagram::unbound().expect("a socket");
        daemon.connect(&path).expect("connected");
        for message in ["STATUS=NOT READY=1", "STATUS=up\nREADY=1"] {
            daemon.send(message.as_bytes()).await.expect("sent");
        }
        ready.await.expect("ready");
        for _ in 0..1000 {
            daemon.send(b"STATUS=Connected").await.expect("never full for good");
        }
        drop(listening);
    }
}
