//! How far the node must be for a script to go on.

use crate::core::phase::Phase;
use crate::socket::document::Document;

/// How far the node must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    /// tailscaled is running and logged in; the control server need not hold the node as connected now
    Running,
    /// The control server holds the node as connected
    Online,
}

impl Level {
    /// Whether `document` says that the node is this far.
    pub fn is_reached(self, document: &Document) -> bool {
        match self {
            Self::Running => {
                let ending = matches!(document.phase, Phase::Leaving | Phase::Left | Phase::Stopped);
                document.daemon.backend_state == "Running" && !ending
            }
            Self::Online => document.phase == Phase::Online,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::samples::{newborn, sample};

    #[test]
    fn a_degraded_node_is_running_but_not_online() {
        let degraded = sample(Phase::Degraded);
        assert!(Level::Running.is_reached(&degraded));
        assert!(!Level::Online.is_reached(&degraded));
        assert!(Level::Online.is_reached(&sample(Phase::Online)));
        assert!(!Level::Running.is_reached(&newborn()));
    }
}
