//! The rules, in one ordered table. Each is a short function of the view; the first that claims the phase has it.

mod auth;
mod daemon;
mod host;
mod life;
mod node;
mod platform;

use super::decide::Plan;
use super::effect::Kind;
use super::phase::Phase;
use super::view::View;

/// One rule, with what the documentation and the tests know of it.
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// What it sees to, as one sentence.
    pub says: &'static str,
    /// The phases it may claim; `degraded` and `blocked` stand for a fault in the phase before them.
    pub phases: &'static [Phase],
    /// The effects it may want.
    pub wants: &'static [Kind],
    /// The rule.
    pub(super) apply: fn(View<'_>, &mut Plan),
}

/// Every rule, in order.
pub const RULES: &[Rule] = &[
    Rule {
        name: "stop",
        says: "Asked to end for good, an ephemeral node is removed within a second; a child tailscaled is ended, and then the agent.",
        phases: &[Phase::Online, Phase::Stopped, Phase::Leaving, Phase::Left],
        wants: &[Kind::Save, Kind::ReadStatus, Kind::Logout, Kind::StopDaemon, Kind::MindDaemon],
        apply: life::stop,
    },
    Rule {
        name: "save",
        says: "What must outlive a restart is written whenever it changes.",
        phases: &[],
        wants: &[Kind::Save],
        apply: life::save,
    },
    Rule {
        name: "host",
        says: "The machine tells of sleep, shutdown and changed units.",
        phases: &[],
        wants: &[Kind::WatchHost],
        apply: host::watch,
    },
    Rule {
        name: "metadata",
        says: "The spec is read and then watched; a machine without one waits.",
        phases: &[Phase::WaitingForMetadata, Phase::Blocked],
        wants: &[Kind::ReadSpec],
        apply: platform::metadata,
    },
    Rule {
        name: "identity",
        says: "tailscaled is admitted when it has no node, or this instance's own; a person's own node is left alone.",
        phases: &[Phase::CheckingIdentity, Phase::Degraded, Phase::Blocked],
        wants: &[Kind::Inspect, Kind::StopDaemon, Kind::LeaveAlone],
        apply: life::identity,
    },
    Rule {
        name: "hostname",
        says: "The machine has the node's name.",
        phases: &[],
        wants: &[Kind::SetHostname],
        apply: host::hostname,
    },
    Rule {
        name: "daemon",
        says: "tailscaled is started, waited on, watched, and restarted when it ends.",
        phases: &[Phase::StartingDaemon, Phase::Degraded, Phase::Blocked],
        wants: &[Kind::StartDaemon, Kind::MindDaemon, Kind::WatchBus],
        apply: daemon::run,
    },
    Rule {
        name: "hang",
        says: "A tailscaled that leaves two status reads unanswered, or does not try to reach control, is restarted, at most every five minutes.",
        phases: &[Phase::StartingDaemon, Phase::Degraded],
        wants: &[Kind::StopDaemon],
        apply: daemon::hang,
    },
    Rule {
        name: "status",
        says: "The status is read on every bus message, every ten seconds, and closely while a login or proof settles.",
        phases: &[Phase::StartingDaemon, Phase::Degraded, Phase::Blocked],
        wants: &[Kind::ReadStatus],
        apply: daemon::status,
    },
    Rule {
        name: "leave",
        says: "A node that should not be is logged out.",
        phases: &[Phase::Unassigned, Phase::Leaving, Phase::Left],
        wants: &[Kind::Logout],
        apply: life::leave,
    },
    Rule {
        name: "down",
        says: "A node that an admin took down, or logged out, stays so as far as configuration says.",
        phases: &[Phase::Stopped, Phase::Blocked],
        wants: &[Kind::Up],
        apply: node::down,
    },
    Rule {
        name: "withdraw",
        says: "An AuthURL does not stand: anybody on the machine could open it.",
        phases: &[],
        wants: &[Kind::Withdraw],
        apply: auth::withdraw,
    },
    Rule {
        name: "replace",
        says: "Another credential, lifecycle or control server makes another node: the old one is logged out first.",
        phases: &[Phase::Joining, Phase::Degraded, Phase::Blocked],
        wants: &[Kind::Logout],
        apply: auth::replace,
    },
    Rule {
        name: "authenticate",
        says: "A node that needs a key gets one: token, exchange, mint, each as soon as its inputs are there.",
        phases: &[Phase::WaitingForMetadata, Phase::Authenticating, Phase::Degraded, Phase::Blocked],
        wants: &[Kind::Connect, Kind::Token, Kind::Exchange, Kind::Mint],
        apply: auth::authenticate,
    },
    Rule {
        name: "login",
        says: "With a key, the record on disk and tailscaled answering, the node logs in, and waits for control.",
        phases: &[Phase::Joining, Phase::Degraded, Phase::Blocked],
        wants: &[Kind::Login],
        apply: auth::login,
    },
    Rule {
        name: "preferences",
        says: "The preferences that are ours follow the spec at once, and anybody else's change within a minute.",
        phases: &[],
        wants: &[Kind::Apply],
        apply: node::preferences,
    },
    Rule {
        name: "prove",
        says: "After a resume, online counts only once control has answered anew.",
        phases: &[Phase::Joining, Phase::Degraded],
        wants: &[Kind::Prove],
        apply: node::prove,
    },
    Rule {
        name: "online",
        says: "Running, not logged out, held as connected, name and tags known.",
        phases: &[Phase::Online, Phase::Joining, Phase::Degraded],
        wants: &[],
        apply: node::online,
    },
    Rule { name: "notices", says: "What is true besides is said.", phases: &[], wants: &[], apply: node::notices },
];
