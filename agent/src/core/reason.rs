//! Every reason and notice the agent can give: one table for status, reports, logs and documentation.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a reason stands between the node and `online`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// It will pass; the agent tries again soon.
    Waiting,
    /// The node was online and a fault is being healed.
    Degraded,
    /// A person must act; the agent probes slowly.
    Blocked,
    /// True besides; it does not keep the node from being online.
    Notice,
}

macro_rules! codes {
    ($($variant:ident $code:literal $class:ident $sentence:literal $remedy:literal;)*) => {
        /// A fixed, low-cardinality code for why the node is not online, or for what is true besides.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code {
            $(#[doc = $sentence] #[serde(rename = $code)] $variant,)*
        }

        impl Code {
            /// All codes, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code as status, reports and logs spell it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// What the code means for the node.
            pub fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class,)* }
            }

            /// What is wrong, as one sentence without a full stop.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// What a person does about it, as one sentence without a full stop.
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }
        }
    };
}

codes! {
    MetadataPending "metadata_pending" Waiting "the spec in force has not been confirmed by the platform" "nothing if it passes";
    MetadataUnreachable "metadata_unreachable" Waiting "the metadata endpoint cannot be reached" "check that the platform serves metadata to this machine at the configured endpoint";
    MetadataTimeout "metadata_timeout" Waiting "the metadata endpoint did not answer in time" "check the load and health of the platform's metadata service";
    MetadataUnavailable "metadata_unavailable" Waiting "the metadata endpoint answers that it is unavailable or throttles" "nothing if it passes; otherwise check the platform's metadata service";
    MetadataInvalid "metadata_invalid" Waiting "the metadata endpoint answered something that is not a metadata document" "check what is listening at the configured endpoint";
    MetadataRedirect "metadata_redirect" Waiting "the metadata endpoint answered with a redirect, which is never followed" "point [metadata] endpoint at the final address";
    MetadataUntrusted "metadata_untrusted" Waiting "the metadata answer does not come from this machine's own platform" "check that nothing stands between this machine and its metadata endpoint";
    MetadataVersion "metadata_version" Blocked "the metadata document has a version this agent does not speak" "upgrade devbox-agent or have the platform serve version 1";
    MetadataValue "metadata_value" Blocked "a field of the metadata document has a value that cannot be used" "correct the named field on the platform";
    MetadataDenied "metadata_denied" Blocked "the metadata endpoint refuses this machine" "check that the platform admits this instance";
    MetadataSecret "metadata_secret" Waiting "the secret that the metadata endpoint wants to see cannot be read" "see the detail; for [metadata] bearer also LoadCredential= of devbox-agent.service";
    EnvironmentInvalid "environment_invalid" Blocked "a variable that the provider reads is missing or cannot be used" "pass on or correct the variable named in the detail, and start the agent again";
    NotProvisioned "not_provisioned" Waiting "the platform has not provisioned this machine yet" "nothing if it passes; otherwise check the instance on the platform";
    TokenPending "token_pending" Waiting "a token, its exchange and a key are being fetched" "nothing if it passes";
    TokenUnavailable "token_unavailable" Waiting "no workload token could be fetched" "check the token source named in the detail";
    TokenDenied "token_denied" Blocked "the token source refuses this workload" "read its own words in the detail, and what it lets this workload ask for";
    TokenPermission "token_permission" Blocked "this job may not have a workload token" "give the job permissions: id-token: write in its workflow";
    TokenExpired "token_expired" Waiting "the workload token had expired when it arrived" "check the issuer's clock and the token's lifetime";
    TokenClaims "token_claims" Blocked "the workload token is not one the token exchange would accept" "correct the named claim at the issuer";
    ClockSkew "clock_skew" Waiting "this machine's clock and the issuer's differ too much" "set the clock; see timedatectl";
    ExchangeUnreachable "exchange_unreachable" Waiting "the token exchange cannot be reached" "check [tailnet] api_url, DNS and outbound HTTPS";
    ExchangeUnavailable "exchange_unavailable" Waiting "the token exchange is unavailable or throttles" "nothing if it passes";
    ExchangeDenied "exchange_denied" Blocked "the token exchange refuses this workload" "compare the credential's issuer, subject and audience with devbox-agent token";
    ExchangeInvalid "exchange_invalid" Waiting "the token exchange answered without a usable access token" "check what answers at [tailnet] api_url";
    MintUnreachable "mint_unreachable" Waiting "the key endpoint cannot be reached" "check [tailnet] api_url, DNS and outbound HTTPS";
    MintUnavailable "mint_unavailable" Waiting "the key endpoint is unavailable or throttles" "nothing if it passes";
    MintDenied "mint_denied" Blocked "the key endpoint refuses to make an auth key" "give the credential the auth_keys scope";
    MintInvalid "mint_invalid" Waiting "the key endpoint answered without a usable key" "check what answers at [tailnet] api_url";
    TagsForbidden "tags_forbidden" Blocked "the credential may not give this node its tags" "let the credential own the tags named in the detail, or change the spec";
    TlsUntrusted "tls_untrusted" Waiting "the API's certificate is not trusted by this machine" "check the clock, api_url and the system's CA certificates";
    Dns "dns" Waiting "a name does not resolve" "check /etc/resolv.conf and the resolver";
    TailscaledMissing "tailscaled_missing" Blocked "tailscaled is not installed" "install tailscale, or correct [daemon] unit or binary";
    TailscaledMasked "tailscaled_masked" Blocked "tailscaled's unit is masked" "systemctl unmask the unit; the agent never does";
    TailscaledStarting "tailscaled_starting" Waiting "tailscaled is starting" "nothing if it passes";
    GateStuck "gate_stuck" Waiting "the agent cannot let tailscaled start" "see the detail";
    TailscaledCrashloop "tailscaled_crashloop" Waiting "tailscaled exits soon after every start" "read its last lines in the detail";
    TailscaledHung "tailscaled_hung" Waiting "tailscaled does not answer" "nothing: it is restarted";
    TailscaledDeaf "tailscaled_deaf" Waiting "tailscaled has missed that the network is there" "nothing: it is restarted";
    TailscaledTooOld "tailscaled_too_old" Blocked "tailscaled is older than this agent supports" "upgrade tailscale";
    TailscaledState "ts_state_corrupt" Blocked "tailscaled cannot use its state" "see the detail; moving the state away makes this a new node";
    NoTun "no_tun" Waiting "tailscaled has no TUN device" "provide /dev/net/tun to this machine";
    HelperUnavailable "helper_unavailable" Waiting "the agent's root helper does not answer" "check systemctl status devbox-agent-helper.socket devbox-agent-helper.service";
    HelperDenied "helper_denied" Blocked "the agent's root helper refuses a request" "read its words in the detail, and compare with devbox-agent config show";
    LocalapiDenied "localapi_denied" Blocked "tailscaled refuses this agent" "run the agent as the user that owns the socket, or check what is listening there";
    LocalapiError "localapi_error" Waiting "tailscaled answered a request with an error" "read tailscaled's own words in the detail";
    JoinPending "join_pending" Waiting "the control server has not admitted the node yet" "nothing if it passes; otherwise check [tailnet] control_url and outbound HTTPS";
    KeyRefused "key_refused" Waiting "the control server refused the auth key" "nothing if it passes; otherwise read its own words in the detail";
    KeysExhausted "keys_exhausted" Blocked "the control server refused several fresh auth keys in a row" "read its own words in the detail and check the tailnet's settings";
    ApprovalPending "approval_pending" Waiting "the node waits for an admin's approval" "approve it in the admin console, or use preauthorized keys";
    ControlLost "control_lost" Degraded "the control server does not hold the node as connected" "nothing if it passes; otherwise check outbound HTTPS";
    Unproven "unproven" Degraded "the machine was resumed and the node is not proven online yet" "nothing: a proof is under way";
    NodeDeleted "node_deleted" Degraded "the tailnet seems to have removed the node" "nothing: the node joins again; devbox-agent rejoin does it at once";
    AdminDown "admin_down" Blocked "somebody took the node down" "run tailscale up or devbox-agent rejoin";
    AdminLogout "admin_logout" Blocked "somebody logged the node out" "run devbox-agent rejoin";
    AgentStopping "agent_stopping" Waiting "the agent is stopping" "start devbox-agent again";
    ForeignNode "foreign_node" Blocked "tailscaled has a node that this agent did not make" "log it out and run devbox-agent refresh, or run devbox-agent rejoin to make it this machine's; see [identity] foreign";
    InstanceChanged "instance_changed" Blocked "tailscaled's node belongs to another instance of the platform" "remove the agent's and tailscaled's state, as for a new image";
    LogoutFailed "logout_failed" Waiting "the control server did not confirm the logout" "nothing if it passes";
    HostnameConflict "hostname_conflict" Notice "the tailnet gave the node another name than asked for" "remove the older node of that name";
    TagsDiffer "tags_differ" Notice "the tailnet gave the node other tags than asked for" "check who may own the tags in the tailnet's policy";
    ChangePending "change_pending" Notice "the platform's change waits: the node authenticates anew at most once a minute" "nothing: it is followed at the time shown";
    HostnameUnset "hostname_unset" Notice "the machine's own host name could not be set" "check systemctl status systemd-hostnamed; the node has its name all the same";
    DbusUnavailable "dbus_unavailable" Notice "the system bus does not answer" "check systemctl status dbus; the agent goes on without it";
    StateUnwritable "state_unwritable" Notice "the agent's state cannot be written; it goes on from memory" "free space on, or permissions of, the state directory";
    StateUnreadable "state_unreadable" Notice "the agent's state cannot be read; this run started without it" "check the state directory, then restart devbox-agent";
    StateSetAside "state_set_aside" Notice "the agent's state was unreadable and was set aside" "nothing; the old file is kept beside the new one";
    ReportUnreachable "report_unreachable" Notice "the platform's report sink does not take reports" "check the platform";
    ReportDenied "report_denied" Notice "the platform refuses this machine's reports" "check the platform";
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure as the core knows it: the fixed code, the words for people, and what it says about trying again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The row of the table.
    pub code: Code,
    /// The whole chain of causes, redacted and bounded, for status and logs.
    pub detail: String,
    /// How long the other side asked us to stay away.
    pub retry_after: Option<Duration>,
    /// No packet left this machine (ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL): trying again costs the other side nothing.
    pub unsent: bool,
}

impl Fault {
    /// A failure that says nothing about trying again.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retry_after: None, unsent: false }
    }
}

/// An error of an edge that knows its row of the table.
///
/// Edges keep typed errors; only the core needs the common form, which [`Fault::from`] makes of any of them.
pub trait Reasoned: std::error::Error {
    /// The row of the table.
    fn code(&self) -> Code;

    /// How long the other side asked us to stay away.
    fn retry_after(&self) -> Option<Duration> {
        None
    }

    /// Whether no packet left this machine.
    fn unsent(&self) -> bool {
        false
    }
}

impl<E: Reasoned> From<&E> for Fault {
    fn from(error: &E) -> Self {
        Self { code: error.code(), detail: chain(error), retry_after: error.retry_after(), unsent: error.unsent() }
    }
}

/// The longest detail kept, in characters: a status line for people, not a log.
const DETAIL_MAX: usize = 400;

/// Writes an error with all its causes on one line, control characters escaped, so that it can stand in a log or on a terminal.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    printable(&text, DETAIL_MAX)
}

/// Escapes control characters of text that came from elsewhere and cuts it after `max` characters (log injection, RUSTSEC-2025-0055).
pub fn printable(text: &str, max: usize) -> String {
    let mut out: String = text
        .chars()
        .take(max)
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect();
    if text.chars().count() > max {
        out.push('…');
    }
    out
}
