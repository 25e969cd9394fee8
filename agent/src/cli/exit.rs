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
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] =
        [Self::Fine, Self::No, Self::Usage, Self::Unavailable, Self::TimedOut, Self::NotPermitted, Self::Configuration];

    /// What the manual says of it.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Fine => "Done, or the asked-for condition holds.",
            Self::No => "The asked-for condition does not hold.",
            Self::Usage => "The command line is wrong.",
            Self::Unavailable => "The agent or tailscaled cannot be reached.",
            Self::TimedOut => "Time is over.",
            Self::NotPermitted => "The caller may not do that.",
            Self::Configuration => "The configuration is wrong.",
        }
    }

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
            E::Rejected(_) | E::Metadata { .. } => Self::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::Error as E;

    #[test]
    fn each_failure_of_the_client_has_the_code_that_scripts_rely_on() {
        let path = std::path::PathBuf::from("/run/devbox-agent/api/agent.sock");
        let failures = [
            (E::Absent { path: path.clone() }, 69),
            (E::Refused { path: path.clone() }, 69),
            (E::Silent, 69),
            (E::Busy("too many connections".into()), 69),
            (E::Protocol("no sentence".into()), 69),
            (E::Closed { path }, 77),
            (E::NotPermitted("leave needs root".into()), 77),
            (E::Rejected("the configuration is wrong".into()), 1),
        ];
        for (error, number) in failures {
            assert_eq!(ExitCode::from(&error).number(), number, "{error}");
        }
    }
}
