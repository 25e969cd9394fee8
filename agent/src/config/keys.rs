//! Every configuration key in one table: it drives the defaults, the messages, `config show` and the reference `10-agent.toml`.

use toml::Value;

/// What a key has when nothing sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// This text.
    Text(&'static str),
    /// This truth value.
    Flag(bool),
    /// This number.
    Number(i64),
    /// These words.
    Words(&'static [&'static str]),
    /// Under systemd this path; with a child this name in the directory that another key names.
    BySupervisor(&'static str, Key, &'static str),
    /// Nothing; the reference shows this TOML value as an example.
    Unset(&'static str),
}

macro_rules! keys {
    ($($variant:ident $name:literal $preset:expr; $expected:literal; $doc:literal)*) => {
        /// A configuration key.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Key {
            $(#[doc = $doc] $variant,)*
        }

        impl Key {
            /// All keys, in the order of the table; the keys of a section stand together.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The key as files and messages spell it: `section.key`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What the key has when nothing sets it.
            pub fn preset(self) -> Preset {
                match self { $(Self::$variant => $preset,)* }
            }

            /// What the key takes, as the end of a sentence.
            pub fn expected(self) -> &'static str {
                match self { $(Self::$variant => $expected,)* }
            }

            /// What the key is for, in sentences.
            pub fn doc(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }
        }
    };
}

keys! {
    MetadataProvider "metadata.provider" Preset::Text("devbox");
        "\"devbox\", \"namespace\", \"github-actions\", \"gce\", \"azure\", \"file\" or, for exec alone, \"agent\"";
        "Who says what this machine is and gives it workload tokens: \"devbox\" is the platform's metadata endpoint (protocol devbox/v1); \"namespace\" is Namespace's IAM, by the credential that its devboxes and runners have; \"github-actions\" is the job that the agent's own environment tells of, which must have `permissions: id-token: write`; \"gce\" and \"azure\" are the metadata servers of Google's and Azure's VMs, for the VM's service account or managed identity; \"file\" reads a token that something else keeps fresh; \"agent\" is the agent that runs on this machine, which `devbox-agent exec` may ask if exec.lend_credential lets it. The spec is the metadata document of \"devbox\", an integration of the workspace with \"namespace\", with \"gce\" the VM's attribute devbox-agent, which has what is the document's `tailnet` in devbox/v1, as JSON, and with \"agent\" what the agent itself reads. The others take everything else from the section tailnet below."
    MetadataEndpoint "metadata.endpoint" Preset::Text("http://169.254.169.254");
        "a URL without path, https or http to an IP address, or unix:/path";
        "Where the providers \"devbox\", \"gce\" and \"azure\" ask. No proxy is ever used for it, and no redirect followed. A name needs https, because whoever answers for the name decides what this machine becomes."
    MetadataMaySet "metadata.may_set" Preset::Words(&["client_id", "tags", "hostname", "lifecycle", "accept_dns", "accept_routes"]);
        "a list of \"client_id\", \"tags\", \"hostname\", \"lifecycle\", \"accept_dns\", \"accept_routes\", \"ssh\"";
        "The fields of the metadata document that count; of the others the document may say what it likes. \"ssh\" must be listed before the platform can open Tailscale SSH on this machine."
    MetadataBearer "metadata.bearer" Preset::Unset("\"credential:devbox-agent.metadata\"");
        "an absolute path, or credential:NAME";
        "A secret that metadata.endpoint wants to see: a file, or the systemd credential NAME of the agent's unit, read anew for every request and sent as `Authorization: Bearer`. Only with an endpoint of https or unix: on plain http anybody on the way would read it. The unit imports the system's credentials named devbox-agent.*; for others, write LoadCredential= into a drop-in. Never the secret itself."
    MetadataToken "metadata.token" Preset::Unset("\"/run/workload/token\"");
        "an absolute path, credential:NAME, env:NAME or fd:N";
        "Where the provider \"file\" finds the workload token: a file with a JWT or the systemd credential NAME of the agent's unit (see bearer), both read anew each time, env:NAME for a variable of the agent's own environment, or fd:N for a descriptor that whoever started the agent left open for it, from 3 on, which is read once. systemd passes a credential when the unit starts: what is renewed while the machine runs belongs in a file. Never the token itself."
    MetadataCommand "metadata.command" Preset::Unset("[\"/usr/local/bin/workload-token\", \"--audience\"]");
        "a list of strings, a program's absolute path and its arguments";
        "Instead of metadata.token: a program that prints a JWT for the audience, which it gets as a last argument. The agent runs it as itself, so it trusts this file's owner with that."
    MetadataInstance "metadata.instance" Preset::Unset("\"i-4f2c\"");
        "1 to 128 characters of A-Z, a-z, 0-9, '.', '_' and '-'";
        "The instance id with a provider that has none of its own. When not set: with \"namespace\" its metadata service's, else the machine id; with \"azure\" the VM's id; with \"file\" the machine id; with \"github-actions\" the number and attempt of the run, the job and the runner's name."
    MetadataIdentity "metadata.identity" Preset::Unset("\"ci@project.iam.gserviceaccount.com\"");
        "1 to 128 characters of A-Z, a-z, 0-9, '.', '_', '-', '@' and ':'";
        "Whose token is fetched, of several that the VM has: with \"gce\" a service account, \"default\" when not set; with \"azure\" the client id of a managed identity, the VM's only one when not set."
    MetadataIntegration "metadata.integration" Preset::Unset("\"staging\"");
        "1 to 128 characters, none of them a control character";
        "With the provider \"namespace\", the name of the workspace's Tailscale integration that says which credential and tags the node has; \"default\" when not set. Not asked for when client_id and tags are both set below."

    TailnetControlUrl "tailnet.control_url" Preset::Text("https://controlplane.tailscale.com");
        "a URL without path, https or http to an IP address";
        "The control server where the node registers: Tailscale's, or a Headscale."
    TailnetApiUrl "tailnet.api_url" Preset::Text("https://api.tailscale.com");
        "a URL without path, https or http to an IP address";
        "Where the workload token is traded for an access token, and that for a one-time auth key."
    TailnetProxy "tailnet.proxy" Preset::Unset("\"http://proxy.example.com:3128\"");
        "an http or https URL with host and port only";
        "A proxy for api_url, and for tailscaled where the agent starts it ([daemon] supervisor = \"child\"); a unit has its own in /etc/default/tailscaled, as HTTPS_PROXY. The agent takes none from the environment, and metadata never uses one."
    TailnetRespectDown "tailnet.respect_down" Preset::Text("boot");
        "\"boot\", \"always\" or \"never\"";
        "How long an administrator's `tailscale down` holds: until the next boot, always, or not at all. `tailscale up` and `devbox-agent rejoin` end it in any case."
    TailnetAfterLogout "tailnet.after_logout" Preset::Text("rejoin");
        "\"rejoin\" or \"stay\"";
        "What happens after somebody's `tailscale logout`: the node joins again, or stays out until `devbox-agent rejoin`."
    TailnetClientId "tailnet.client_id" Preset::Unset("\"kAbC123\"");
        "1 to 128 printable ASCII characters without spaces and slashes";
        "The client id of the federated credential in the tailnet's settings. Usually left to the metadata document; set here, it wins. Needed here with a provider that has no spec: \"github-actions\", \"azure\", \"file\"."
    TailnetTags "tailnet.tags" Preset::Unset("[\"tag:devbox\"]");
        "1 to 16 different tags, each \"tag:\", a lower-case letter, then lower-case letters, digits and '-'";
        "The tags of the node; the credential must own them. Usually left to the metadata document; set here, they win. Needed here with a provider that has no spec: \"github-actions\", \"azure\", \"file\"."
    TailnetHostname "tailnet.hostname" Preset::Unset("\"web-api\"");
        "1 to 63 lower-case letters, digits and '-', with no '-' at either end";
        "The name of the node. Usually left to the metadata document; set here, it wins. When neither says one it is made of the instance's name, or of its id."
    TailnetLifecycle "tailnet.lifecycle" Preset::Unset("\"persistent\"");
        "\"persistent\" or \"ephemeral\"";
        "Whether the node outlives the run of the machine (a devbox) or goes with it (a runner). Usually left to the metadata document; set here, it wins. A job of GitHub Actions is ephemeral when not set."
    TailnetAcceptDns "tailnet.accept_dns" Preset::Unset("true");
        "true or false";
        "Use the tailnet's DNS, MagicDNS names among them. Usually left to the metadata document, which means true when it says nothing; set here, it wins."
    TailnetAcceptRoutes "tailnet.accept_routes" Preset::Unset("false");
        "true or false";
        "Use the routes that other nodes advertise. Usually left to the metadata document, which means false when it says nothing; set here, it wins."
    TailnetSsh "tailnet.ssh" Preset::Unset("false");
        "true or false";
        "Run Tailscale SSH, which opens this machine as the tailnet's policy says. Off unless set here, or listed in metadata.may_set and set by the metadata document."

    DaemonSupervisor "daemon.supervisor" Preset::Text("systemd");
        "\"systemd\" or \"child\"";
        "Who runs tailscaled. With \"systemd\" it is a unit, and the tunnel outlives a crash or an upgrade of the agent. With \"child\" the agent itself starts it, and it ends when the agent does: for containers and wherever systemd is not."
    DaemonUnit "daemon.unit" Preset::Text("tailscaled.service");
        "the name of a service unit, ending in .service";
        "tailscaled's unit, under systemd. The gate at boot, the order at shutdown and the drop-in are for tailscaled.service and /var/lib/tailscale; another unit or state needs copies of them, see packaging/README.md."
    DaemonBinary "daemon.binary" Preset::Text("tailscaled");
        "an absolute path, or a name to look up in PATH";
        "The tailscaled program, with the supervisor \"child\"."
    DaemonSocket "daemon.socket" Preset::BySupervisor("/run/tailscale/tailscaled.sock", Key::PathsRuntime, "tailscaled.sock");
        "an absolute path of at most 107 bytes";
        "tailscaled's LocalAPI socket (--socket). With the supervisor \"child\", tailscaled.sock in paths.runtime when not set."
    DaemonState "daemon.state" Preset::BySupervisor("/var/lib/tailscale", Key::PathsState, "tailscale");
        "an absolute path";
        "tailscaled's state directory (--statedir), which holds the node's keys. With the supervisor \"child\", tailscale in paths.state when not set."
    DaemonTun "daemon.tun" Preset::Text("tailscale0");
        "an interface name of at most 15 characters, or \"userspace-networking\"";
        "tailscaled's network interface (--tun), with the supervisor \"child\". \"userspace-networking\" needs no TUN device; then only programs that use tailscaled's proxy reach the tailnet."
    DaemonPort "daemon.port" Preset::Number(41641);
        "a number from 0 to 65535";
        "The UDP port for WireGuard (--port), with the supervisor \"child\"; 0 lets the kernel choose."
    DaemonMinVersion "daemon.min_version" Preset::Text("1.80");
        "a version \"MAJOR.MINOR\", in quotes";
        "The oldest tailscaled that the agent drives; it writes nothing to an older one."
    DaemonPortMapping "daemon.port_mapping" Preset::Flag(false);
        "true or false";
        "Let tailscaled ask the network's router for a port (PCP, UPnP). A cloud VM has no home router, and asking for one delays every join by 250 ms. Under systemd the drop-in of tailscaled's unit says this, and this key nothing."

    IdentityForeign "identity.foreign" Preset::Text("refuse");
        "\"refuse\" or \"adopt\"";
        "What happens when tailscaled has a node that this agent did not make: it is left alone until somebody says `devbox-agent rejoin`, or it authenticates anew as this machine's."

    HostnameSystem "hostname.system" Preset::Flag(true);
        "true or false";
        "Give the machine itself the node's name too, as its static host name. Only under systemd."

    ReportEnabled "report.enabled" Preset::Flag(true);
        "true or false";
        "Tell the platform how the node is: on every change, and regularly."
    ReportEndpoint "report.endpoint" Preset::Unset("\"http://169.254.169.254\"");
        "a URL without path, https or http to an IP address, or unix:/path";
        "Where reports go; metadata.endpoint when not set. Providers other than \"devbox\" send none unless this is set."

    ExecLendCredential "exec.lend_credential" Preset::Flag(false);
        "true or false";
        "Lend the agent's own credential to `devbox-agent exec --provider agent`, for machines on which only the agent can fetch a workload token. Whoever may command the agent (root, its own user, members of the group devbox-agent) can then get workload tokens of this machine, for any client id of Tailscale's, and with them nodes that have its tags. Each token that is lent is logged, with the user's id."

    PathsState "paths.state" Preset::Text("/var/lib/devbox-agent");
        "an absolute path";
        "The agent's memory over restarts: state.json and the lock that keeps a second agent out. Mode 0700; it must survive reboots for the node to keep its name and address."
    PathsRuntime "paths.runtime" Preset::Text("/run/devbox-agent/api");
        "an absolute path of at most 84 bytes";
        "The local API, for as long as the machine runs: agent.sock and status.json."

    LogLevel "log.level" Preset::Text("info");
        "error, warn, info, debug, trace or off, or such as \"info,devbox_agent::metadata=debug\"";
        "How much the agent logs, on stderr: a level, or levels by module, separated by commas."
}

/// The sections in the table's order, each with what it is about.
pub const SECTIONS: &[(&str, &str)] = &[
    ("metadata", "Where this machine learns what it is, and how it proves it."),
    ("tailnet", "The tailnet, and what of the node this file decides instead of the metadata document."),
    ("daemon", "The real tailscaled, and how it is run."),
    ("identity", "Whose node tailscaled may have."),
    ("hostname", "The name of the machine."),
    ("report", "What the platform is told."),
    ("exec", "What `devbox-agent exec` may have of the agent that runs."),
    ("paths", "The agent's own directories."),
    ("log", "What the agent says of its work."),
];

impl Key {
    /// Finds a key by its dotted name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| key.name() == name)
    }

    /// The section and the name within it.
    pub fn parts(self) -> (&'static str, &'static str) {
        // Every name of the table has a dot; a test holds it to that.
        self.name().split_once('.').unwrap_or(("", self.name()))
    }

    /// The keys of a section, in the table's order.
    pub fn of(section: &str) -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(move |key| key.parts().0 == section)
    }
}

impl Preset {
    /// The TOML value, when it depends on no other key.
    pub fn value(self) -> Option<Value> {
        match self {
            Self::Text(text) => Some(Value::from(text)),
            Self::Flag(flag) => Some(Value::from(flag)),
            Self::Number(number) => Some(Value::from(number)),
            Self::Words(words) => Some(Value::from(words.to_vec())),
            Self::BySupervisor(..) | Self::Unset(_) => None,
        }
    }
}

/// The name among `candidates` that somebody who wrote `written` most likely meant, if any is near.
pub fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = candidates.into_iter().map(|name| (distance(written, name), name)).min()?;
    // A third of the letters wrong is a slip; more is another word.
    (near.0 <= (written.chars().count() / 3).max(1)).then_some(near.1)
}

/// The key that somebody who wrote `section.name` most likely meant: a slip in the name, or the right name in the wrong section.
pub fn nearest_key(section: &str, name: &str) -> Option<Key> {
    let here = nearest(name, Key::of(section).map(|key| key.parts().1));
    let here = here.and_then(|name| Key::of(section).find(|key| key.parts().1 == name));
    here.or_else(|| Key::ALL.iter().copied().find(|key| key.parts().1 == name))
}

/// The Levenshtein distance: how many letters must be added, dropped or changed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_stands_in_a_known_section_and_the_sections_follow_the_table() {
        let by_section: Vec<Key> = SECTIONS.iter().flat_map(|(section, _)| Key::of(section)).collect();
        assert_eq!(by_section, Key::ALL);
        assert!(Key::ALL.iter().all(|key| Key::find(key.name()) == Some(*key)));
    }

    #[test]
    fn a_slip_finds_its_key_and_a_strange_word_finds_none() {
        assert_eq!(nearest_key("tailnet", "hostnmae"), Some(Key::TailnetHostname));
        assert_eq!(nearest_key("daemon", "control_url"), Some(Key::TailnetControlUrl));
        assert_eq!(nearest_key("tailnet", "colour_scheme"), None);
        assert_eq!(nearest("tailnat", SECTIONS.iter().map(|(name, _)| *name)), Some("tailnet"));
    }

    #[test]
    fn distance_counts_letters() {
        for (a, b, expected) in [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("ab", "", 2)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
