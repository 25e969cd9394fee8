//! What can go wrong between the agent and LocalAPI.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::core::reason::{Code, Reasoned};

/// Why a LocalAPI request gave nothing usable.
#[derive(Debug, thiserror::Error)]
pub enum LocalApiError {
    /// The HTTP client itself could not be made.
    #[error("failed to set up the client for tailscaled at {}", socket.display())]
    Setup {
        /// The configured socket.
        socket: PathBuf,
        /// What the library says.
        source: reqwest::Error,
    },
    /// ENOENT or ECONNREFUSED: tailscaled is not there, or not yet.
    #[error("failed to connect to tailscaled at {}: nothing listens there", socket.display())]
    NotListening {
        /// The configured socket.
        socket: PathBuf,
        /// What the kernel says.
        source: reqwest::Error,
    },
    /// EACCES or EPERM.
    #[error("failed to connect to tailscaled at {}: this user may not", socket.display())]
    NotPermitted {
        /// The configured socket.
        socket: PathBuf,
        /// What the kernel says.
        source: reqwest::Error,
    },
    /// Something else lies where the socket should be (the kernel calls that ECONNREFUSED too).
    #[error("failed to connect to tailscaled at {}: it is not a socket; correct [daemon] socket", socket.display())]
    NotASocket {
        /// The configured socket.
        socket: PathBuf,
        /// What the kernel says.
        source: reqwest::Error,
    },
    /// The connection broke before the answer was complete.
    #[error("failed to {verb}: tailscaled ended the connection")]
    Broken {
        /// What was asked, e.g. `read the status`.
        verb: &'static str,
        /// What the library says.
        source: reqwest::Error,
    },
    /// No complete answer in time.
    #[error("failed to {verb}: no answer from tailscaled within {} s", deadline.as_secs_f32())]
    TimedOut {
        /// What was asked.
        verb: &'static str,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// 403: tailscaled lets this user only read, or refuses the request's headers.
    #[error("failed to {verb}: tailscaled denies it: {words}")]
    Denied {
        /// What was asked.
        verb: &'static str,
        /// tailscaled's own words, redacted and bounded.
        words: String,
    },
    /// Any other status that is no success.
    #[error("failed to {verb}: tailscaled answers {status}: {words}")]
    Refused {
        /// What was asked.
        verb: &'static str,
        /// The HTTP status.
        status: u16,
        /// tailscaled's own words, redacted and bounded.
        words: String,
    },
    /// The answer is not the document it should be.
    #[error("failed to {verb}: the answer is not what tailscaled gives; check what listens at the socket")]
    Undecodable {
        /// What was asked.
        verb: &'static str,
        /// Where it differs.
        source: serde_json::Error,
    },
    /// The answer is longer than any that tailscaled gives.
    #[error("failed to {verb}: the answer is longer than {max} bytes")]
    TooLong {
        /// What was asked.
        verb: &'static str,
        /// The most that is read.
        max: usize,
    },
}

impl LocalApiError {
    /// Tells the failures to connect apart from one another and from a connection that broke.
    pub(super) fn sending(verb: &'static str, socket: &Path, source: reqwest::Error) -> Self {
        let source = source.without_url();
        let socket = socket.to_owned();
        match connect_error(&source) {
            Some(io::ErrorKind::ConnectionRefused) if is_other_file(&socket) => Self::NotASocket { socket, source },
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Self::NotListening { socket, source },
            Some(io::ErrorKind::PermissionDenied) => Self::NotPermitted { socket, source },
            _ => Self::Broken { verb, source },
        }
    }
}

impl Reasoned for LocalApiError {
    fn code(&self) -> Code {
        match self {
            // 503 "no backend": its socket listens, but what it needs (a TUN device, say) is not there yet, or will never be.
            Self::NotListening { .. } | Self::Broken { .. } | Self::Refused { status: 503, .. } => {
                Code::TailscaledStarting
            }
            Self::NotPermitted { .. } | Self::NotASocket { .. } | Self::Denied { .. } => Code::LocalapiDenied,
            Self::TimedOut { .. } => Code::TailscaledHung,
            // tailscaled's words when it cannot use its state store ("cannot log in when state store is unhealthy").
            Self::Refused { words, .. } if words.contains("state store") => Code::TailscaledState,
            Self::Setup { .. } | Self::Refused { .. } | Self::Undecodable { .. } | Self::TooLong { .. } => {
                Code::LocalapiError
            }
        }
    }
}

fn connect_error(error: &reqwest::Error) -> Option<io::ErrorKind> {
    if !error.is_connect() {
        return None;
    }
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

/// Whether something that is no socket lies at `path`.
pub(super) fn is_other_file(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|found| !found.file_type().is_socket())
}
