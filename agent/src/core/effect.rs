//! What the agent can do: each effect is keyed by its kind and its inputs, one in flight per kind.

use std::time::Duration;

use crate::federation::{AccessToken, Claims, KeyRequest};
use crate::identity::Record;
use crate::metadata::Read;
use crate::secret::Secret;
use crate::tailscaled::{Preferences, Status};

/// A kind of effect. At most one of each is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Find out, without starting tailscaled, whether it has a node.
    Inspect,
    /// Read the metadata, held by the server until it changes.
    ReadSpec,
    /// Write the record.
    Save,
    /// Start tailscaled.
    StartDaemon,
    /// Wait for tailscaled to end; lasts as long as it runs.
    MindDaemon,
    /// End tailscaled: the agent stops, or it hangs.
    StopDaemon,
    /// Watch the bus; lasts as long as tailscaled runs.
    WatchBus,
    /// Read the node's status.
    ReadStatus,
    /// Open the connection to the API before it is needed.
    Connect,
    /// Fetch a workload token.
    Token,
    /// Trade the token for an access token.
    Exchange,
    /// Make a one-time key.
    Mint,
    /// Log the node in with the key.
    Login,
    /// Correct the preferences that are ours.
    Apply,
    /// Bring a node up that is down or half logged out.
    Up,
    /// Make control prove that the node is online.
    Prove,
    /// Take back a standing AuthURL.
    Withdraw,
    /// Log the node out.
    Logout,
    /// Open the gate before a node that is not ours.
    LeaveAlone,
    /// Watch what the machine tells; lasts as long as the bus does.
    WatchHost,
    /// Name the machine.
    SetHostname,
}

impl Kind {
    /// Every kind, in the order of a life.
    pub const ALL: &[Self] = &[
        Self::Inspect,
        Self::ReadSpec,
        Self::Save,
        Self::StartDaemon,
        Self::MindDaemon,
        Self::StopDaemon,
        Self::WatchBus,
        Self::ReadStatus,
        Self::Connect,
        Self::Token,
        Self::Exchange,
        Self::Mint,
        Self::Login,
        Self::Apply,
        Self::Up,
        Self::Prove,
        Self::Withdraw,
        Self::Logout,
        Self::LeaveAlone,
        Self::WatchHost,
        Self::SetHostname,
    ];

    /// The name in the record, in logs and in documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inspect => "inspect",
            Self::ReadSpec => "read_spec",
            Self::Save => "save",
            Self::StartDaemon => "start_daemon",
            Self::MindDaemon => "mind_daemon",
            Self::StopDaemon => "stop_daemon",
            Self::WatchBus => "watch_bus",
            Self::ReadStatus => "read_status",
            Self::Connect => "connect",
            Self::Token => "token",
            Self::Exchange => "exchange",
            Self::Mint => "mint",
            Self::Login => "login",
            Self::Apply => "apply",
            Self::Up => "up",
            Self::Prove => "prove",
            Self::Withdraw => "withdraw",
            Self::Logout => "logout",
            Self::LeaveAlone => "leave_alone",
            Self::WatchHost => "watch_host",
            Self::SetHostname => "set_hostname",
        }
    }

    /// Whether one in flight runs to its deadline when it is no longer wanted: cancelling it would leave the other side in doubt, or throw
    /// a connection away that is about to be used. What is written to tailscaled often shows on its bus before it answers, and is then no
    /// longer wanted, but was done all the same.
    pub fn runs_to_end(self) -> bool {
        let told_of = matches!(
            self,
            Self::Connect | Self::Mint | Self::Save | Self::StartDaemon | Self::StopDaemon | Self::SetHostname
        );
        told_of || self.writes()
    }

    /// Whether it writes to tailscaled: such effects do not cross each other, or one would undo what the other asks for.
    pub fn writes(self) -> bool {
        matches!(self, Self::Login | Self::Apply | Self::Up | Self::Prove | Self::Withdraw | Self::Logout)
    }

    /// Whether its `not_before` is persisted, so that a restart loop cannot hammer the other side.
    pub fn remembers_pace(self) -> bool {
        matches!(self, Self::Token | Self::Exchange | Self::Mint)
    }

    /// Its name in the boot timeline, if it is a stage of it.
    pub fn stage(self) -> Option<&'static str> {
        match self {
            Self::ReadSpec => Some("spec"),
            Self::StartDaemon => Some("daemon"),
            Self::Connect => Some("connect"),
            Self::Token => Some("token"),
            Self::Exchange => Some("exchange"),
            Self::Mint => Some("mint"),
            Self::Login => Some("login"),
            _ => None,
        }
    }
}

/// An effect with its inputs; credentials are not among them: `drive` hands them over when it starts the effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// See [`Kind::Inspect`].
    Inspect,
    /// See [`Kind::ReadSpec`].
    ReadSpec {
        /// The tag of the document we have.
        etag: Option<String>,
        /// How long the server may hold the request.
        wait: Duration,
        /// Grows when the document must be read anew at once.
        round: u64,
    },
    /// See [`Kind::Save`].
    Save(Box<Record>),
    /// See [`Kind::StartDaemon`].
    StartDaemon,
    /// See [`Kind::MindDaemon`].
    MindDaemon,
    /// See [`Kind::StopDaemon`].
    StopDaemon,
    /// See [`Kind::WatchBus`].
    WatchBus {
        /// Which start of tailscaled.
        run: u32,
    },
    /// See [`Kind::ReadStatus`].
    ReadStatus {
        /// Which start of tailscaled.
        run: u32,
    },
    /// See [`Kind::Connect`].
    Connect,
    /// See [`Kind::Token`].
    Token {
        /// Whose token; decides the audience.
        client_id: String,
    },
    /// See [`Kind::Exchange`].
    Exchange {
        /// Who asks.
        client_id: String,
    },
    /// See [`Kind::Mint`].
    Mint(KeyRequest),
    /// See [`Kind::Login`].
    Login(Box<Login>),
    /// See [`Kind::Apply`].
    Apply(Preferences),
    /// See [`Kind::Up`].
    Up,
    /// See [`Kind::Prove`].
    Prove {
        /// Which proof.
        round: u64,
    },
    /// See [`Kind::Withdraw`].
    Withdraw,
    /// See [`Kind::Logout`].
    Logout,
    /// See [`Kind::LeaveAlone`].
    LeaveAlone,
    /// See [`Kind::WatchHost`].
    WatchHost,
    /// See [`Kind::SetHostname`].
    SetHostname {
        /// An RFC 1123 label.
        name: String,
    },
}

/// The inputs of a login.
#[derive(Clone, Debug, PartialEq)]
pub struct Login {
    /// The preferences that are ours.
    pub preferences: Preferences,
    /// What is remembered as applied when it succeeds.
    pub inputs: crate::identity::record::LoginInputs,
}

impl Effect {
    /// The effect's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Inspect => Kind::Inspect,
            Self::ReadSpec { .. } => Kind::ReadSpec,
            Self::Save(_) => Kind::Save,
            Self::StartDaemon => Kind::StartDaemon,
            Self::MindDaemon => Kind::MindDaemon,
            Self::StopDaemon => Kind::StopDaemon,
            Self::WatchBus { .. } => Kind::WatchBus,
            Self::ReadStatus { .. } => Kind::ReadStatus,
            Self::Connect => Kind::Connect,
            Self::Token { .. } => Kind::Token,
            Self::Exchange { .. } => Kind::Exchange,
            Self::Mint(_) => Kind::Mint,
            Self::Login(_) => Kind::Login,
            Self::Apply(_) => Kind::Apply,
            Self::Up => Kind::Up,
            Self::Prove { .. } => Kind::Prove,
            Self::Withdraw => Kind::Withdraw,
            Self::Logout => Kind::Logout,
            Self::LeaveAlone => Kind::LeaveAlone,
            Self::WatchHost => Kind::WatchHost,
            Self::SetHostname { .. } => Kind::SetHostname,
        }
    }
}

/// What an effect that succeeded brings.
#[derive(Clone)]
pub enum Outcome {
    /// Of [`Kind::Inspect`]: whether there is a node.
    Stored(bool),
    /// Of [`Kind::ReadSpec`].
    Read(Read),
    /// Of [`Kind::ReadStatus`].
    Status(Box<Status>),
    /// Of [`Kind::Token`].
    Token(Secret<String>, Claims),
    /// Of [`Kind::Exchange`].
    Access(AccessToken),
    /// Of [`Kind::Mint`].
    Key(Secret<String>),
    /// Of all others: it is done.
    Done,
}
