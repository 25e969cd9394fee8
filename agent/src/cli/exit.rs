//! Exit codes, after sysexits(3) where it has one.

use crate::socket::client;

/// How a command ended, for scripts and units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// Done, or the asked-for condition holds.
    Fine,
    /// The asked-for condition does not hold.
    No,
    /// The command line is wrong (EX_USAGE).
    Usage,
    /// The agent or tailscaled cannot be reached (EX_UNAVAILABLE).
    Unavailable,
    /// Time is over (EX_TEMPFAIL).
    TimedOut,
    /// The caller may not do that (EX_NOPERM).
    NotPermitted,
    /// The configuration is wrong (EX_CONFIG).
    Configuration,
}

impl ExitCode {
    /// The number that the process ends with.
    pub fn number(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::No => 1,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::TimedOut => 75,
            Self::NotPermitted => 77,
            Self::Configuration => 78,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        code.number().into()
    }
}

impl From<&client::Error> for ExitCode {
    fn from(error: &client::Error) -> Self {
        use client::Error as E;
        match error {
            E::Absent { .. } | E::Refused { .. } | E::Silent | E::Connection { .. } | E::Busy(_) | E::Protocol(_) => {
                Self::Unavailable
            }
            E::Closed { .. } | E::NotPermitted(_) => Self::NotPermitted,
            E::Rejected(_) => Self::No,
        }
    }
}
