//! Where the local API listens.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Why the agent cannot listen; it does not run without its local API.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something else stands in the socket's place; it is not ours to remove.
    #[error("failed to listen on {}: it is not a socket; move it away", path.display())]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
    },
    /// Somebody listens there already.
    #[error("failed to listen on {}: another devbox-agent answers there; stop it first", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// The system refused a step.
    #[error("failed to {step} {}", path.display())]
    System {
        /// What was tried.
        step: &'static str,
        /// The socket's path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Listens on `path`, mode 0666: anyone may read the status, and who may write is decided by the peer's credentials.
///
/// A socket that a dead agent left is replaced; a live one, and anything that is no socket, is left alone.
pub fn bind(path: &Path) -> Result<UnixListener, Error> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(failed("listen on", path))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed("open to all users", path))?;
    Ok(listener)
}

fn remove_stale(path: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path)(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(Error::NotASocket { path: path.into() }),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(Error::InUse { path: path.into() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed("remove the stale socket", path))
        }
        Err(error) => Err(failed("find out who listens on", path)(error)),
    }
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::System { step, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.sock");
        (dir, path)
    }

    #[tokio::test]
    async fn every_user_may_connect() {
        let (_dir, path) = place();
        let _listener = bind(&path).expect("bind");
        let mode = std::fs::metadata(&path).expect("the socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o666);
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_agent_is_replaced() {
        let (_dir, path) = place();
        drop(bind(&path).expect("the first agent"));
        let _second = bind(&path).expect("the second agent");
        std::os::unix::net::UnixStream::connect(&path).expect("the second agent answers");
    }

    #[tokio::test]
    async fn a_live_agent_keeps_its_socket() {
        let (_dir, path) = place();
        let _first = bind(&path).expect("the first agent");
        assert!(matches!(bind(&path), Err(Error::InUse { .. })));
        std::os::unix::net::UnixStream::connect(&path).expect("the first agent still answers");
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let (_dir, path) = place();
        std::fs::write(&path, "precious").expect("a file");
        let error = bind(&path).expect_err("a file is in the way");
        assert!(error.to_string().ends_with("it is not a socket; move it away"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("the file"), "precious");
    }

    #[tokio::test]
    async fn a_missing_directory_names_the_path_and_the_cause() {
        let (_dir, path) = place();
        let missing = path.join("agent.sock");
        let error = bind(&missing).expect_err("no directory");
        let text = crate::core::reason::chain(&error);
        assert!(text.contains("agent.sock") && text.contains("No such file"), "{text}");
    }
}
