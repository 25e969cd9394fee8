//! What can go wrong with a tailscaled of the agent's own.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use super::tail;
use crate::core::reason::{Code, Reasoned};

/// Why tailscaled could not be started, or is no longer there.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChildError {
    /// The program is not there, or is none.
    #[error("failed to run {}", binary.display())]
    Missing {
        /// `[daemon] binary`.
        binary: PathBuf,
        /// What the kernel says.
        source: Arc<io::Error>,
    },
    /// Something that the agent needs around tailscaled failed.
    #[error("failed to {verb} {}", path.display())]
    Setup {
        /// What was done.
        verb: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel says.
        source: Arc<io::Error>,
    },
    /// Something else lies where the socket would be; tailscaled would delete it.
    #[error("failed to start tailscaled: {} exists and is not a socket; remove it or correct [daemon] socket", socket.display())]
    NotASocket {
        /// `[daemon] socket`.
        socket: PathBuf,
    },
    /// Another process serves the socket.
    #[error("failed to start tailscaled: {holder} already listens at {}; stop it or change [daemon] socket", socket.display())]
    Occupied {
        /// `[daemon] socket`.
        socket: PathBuf,
        /// Who, as far as the kernel says.
        holder: String,
    },
    /// An earlier tailscaled of the agent's own does not end, not even killed (stuck in the kernel).
    #[error("failed to end an earlier tailscaled, process {pid}: it does not end even when killed")]
    Immortal {
        /// Its process id.
        pid: u32,
    },
    /// It runs, but did not say that it listens.
    #[error("failed to start tailscaled: it did not say that it is ready within {} s", deadline.as_secs_f32())]
    NotReady {
        /// How long it was waited for.
        deadline: Duration,
    },
    /// It ended.
    #[error("{0}")]
    Ended(Arc<Ended>),
}

impl Reasoned for ChildError {
    fn code(&self) -> Code {
        match self {
            Self::Missing { .. } => Code::TailscaledMissing,
            Self::NotASocket { .. } | Self::Occupied { .. } => Code::LocalapiDenied,
            Self::Immortal { .. } | Self::NotReady { .. } => Code::TailscaledHung,
            Self::Ended(ended) if ended.without_tun() => Code::NoTun,
            Self::Setup { .. } | Self::Ended(_) => Code::TailscaledStarting,
        }
    }
}

/// An end within this time belongs to the start: something tailscaled needs is not there.
const SOON: Duration = Duration::from_secs(5);

/// How a tailscaled ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit status or signal, in words.
    pub how: String,
    /// How long it lived.
    pub lived: Duration,
    /// Its last lines, oldest first.
    pub lines: Vec<String>,
}

impl Ended {
    /// Whether its last lines speak of the TUN device.
    fn without_tun(&self) -> bool {
        self.lines.iter().any(|line| tail::without_tun(line))
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "tailscaled ended with {}", self.how)?;
        if self.lived < SOON {
            write!(f, ", {:.1} s after its start", self.lived.as_secs_f32())?;
        }
        match tail::told(&self.lines).as_str() {
            "" => write!(f, ", and wrote nothing"),
            told => write!(f, ": {told}"),
        }
    }
}

/// An exit status in words.
pub(super) fn in_words(status: io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    let status = match status {
        Ok(status) => status,
        Err(error) => return format!("a status that is lost ({error})"),
    };
    match (status.code(), status.signal().map(nix::sys::signal::Signal::try_from)) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(Ok(signal))) => signal.as_str().to_owned(),
        (None, _) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(seconds: u64, lines: &[&str]) -> ChildError {
        let lines = lines.iter().map(ToString::to_string).collect();
        ChildError::Ended(Arc::new(Ended { how: "exit status 1".into(), lived: Duration::from_secs(seconds), lines }))
    }

    #[test]
    fn an_end_tells_how_soon_and_the_last_words() {
        assert_eq!(
            ended(0, &["a", "b"]).to_string(),
            "tailscaled ended with exit status 1, 0.0 s after its start: a | b"
        );
        assert_eq!(ended(60, &[]).to_string(), "tailscaled ended with exit status 1, and wrote nothing");
    }

    #[test]
    fn a_missing_tun_device_is_told_apart_from_other_ends() {
        assert_eq!(ended(0, &["wgengine.NewUserspaceEngine(tun \"tailscale0\") error: tstun.New(\"tailscale0\"): CreateTUN(\"tailscale0\") failed; /dev/net/tun does not exist"]).code(), Code::NoTun);
        assert_eq!(ended(0, &["address already in use"]).code(), Code::TailscaledStarting);
    }
}
