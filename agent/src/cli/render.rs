//! The status as a person reads it: am I on the tailnet, as what, since when, how fast was it, what is wrong and what do I do.

use std::time::SystemTime;

use super::{timeline, words};
use crate::clock::Now;
use crate::core::phase::Phase;
use crate::core::reason::{Code, Fault, printable};
use crate::socket::document::{Document, NodeStatus, Reason};
use crate::socket::publish::LastKnown;
use crate::tailscaled::types::Status;

/// The longest value shown: beyond it a line is no help any more.
const VALUE_MAX: usize = 500;

/// Draws the status of a running agent.
pub fn status(document: &Document, now: Now, colour: bool) -> String {
    let since = words::ago(now.boot.since(document.since_ms));
    let mut page = Page::new(colour);
    page.headline(&headline(document), tone(document.phase));
    body(&mut page, document, &since, now.real);
    page.text
}

/// In what way the agent is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// Nobody listens.
    NotRunning,
    /// Somebody listens and does not answer.
    Silent,
}

impl Down {
    fn sentence(self) -> &'static str {
        match self {
            Self::NotRunning => "devbox-agent is not running",
            Self::Silent => "devbox-agent does not answer",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::NotRunning => "start it again; why it stopped is in its log",
            Self::Silent => "restart it; what it did last is in its log",
        }
    }
}

/// Draws what an agent that is down last said, if it did, and what tailscaled itself says now, if it was asked.
pub fn down(
    how: Down,
    known: Option<&LastKnown>,
    daemon: Option<&Result<Status, Fault>>,
    now: SystemTime,
    colour: bool,
) -> String {
    let mut page = Page::new(colour);
    let from = match known {
        Some(known) => format!("last known, from {}", words::relative(known.written, now)),
        None => "nothing is known from before".into(),
    };
    page.headline(&format!("{}; {from}", how.sentence()), Tone::Bad);
    page.gap();
    page.row("then", &known.map(|known| headline(&known.document)).unwrap_or_default());
    page.row("now", &daemon.map(daemon_now).unwrap_or_default());
    page.row("do", how.remedy());
    if let Some(LastKnown { document, .. }) = known {
        body(&mut page, document, &words::relative_text(&document.since, now), now);
    }
    page.text
}

/// Says in one line whether the node is on the tailnet, and if not, how far it is.
pub fn headline(document: &Document) -> String {
    let name = document.node.as_ref().map(|node| clean(&node.name)).filter(|name| !name.is_empty());
    match (document.phase, name) {
        (Phase::Online, Some(name)) => format!("on the tailnet as {name}"),
        (Phase::Online, None) => "on the tailnet".into(),
        (Phase::Degraded, Some(name)) => format!("degraded: {name} was on the tailnet, and a fault is being healed"),
        _ => format!("not on the tailnet: {}", situation(document)),
    }
}

/// The same with the reason, if there is one.
pub fn in_one_line(document: &Document) -> String {
    let headline = headline(document);
    match &document.reason {
        Some(reason) => format!("{headline}: {} ({})", reason.sentence, reason.code),
        None => headline,
    }
}

fn situation(document: &Document) -> &'static str {
    let code = document.reason.as_ref().map(|reason| reason.code);
    match document.phase {
        Phase::Stopped if code == Some(Code::AgentStopping) => "devbox-agent was stopped",
        Phase::WaitingForMetadata => "waiting for the platform's metadata",
        Phase::Unassigned => "the platform assigns this machine to none",
        Phase::CheckingIdentity => "finding out whose node this is",
        Phase::StartingDaemon => "starting tailscaled",
        Phase::Authenticating => "getting a key",
        Phase::Joining => "joining",
        Phase::Online => "nothing is in the way",
        Phase::Degraded => "a fault is being healed",
        Phase::Blocked => "blocked, a person must act",
        Phase::Stopped => "stopped by an admin",
        Phase::Leaving => "leaving",
        Phase::Left => "left, until devbox-agent rejoin",
    }
}

fn body(page: &mut Page, document: &Document, since: &str, now: SystemTime) {
    page.gap();
    if let Some(reason) = &document.reason {
        trouble(page, "why", reason, now);
        page.gap();
    }
    if let Some(node) = &document.node {
        identity(page, node, now);
    }
    machine(page, document);
    page.row("since", &format!("{since} ({})", words::calendar(&document.since)));
    boot(page, document);
    asides(page, document, now);
    page.gap();
    page.faint(&versions(document));
}

fn identity(page: &mut Page, node: &NodeStatus, now: SystemTime) {
    page.row("name", &node.dns_name);
    page.row("addresses", &node.addresses.join(", "));
    page.row("tags", &node.tags.join(", "));
    page.row("relay", &node.relay);
    if let Some(expiry) = &node.key_expiry {
        page.row("key ends", &words::relative_text(expiry, now));
    }
}

fn machine(page: &mut Page, document: &Document) {
    if let Some(instance) = &document.instance {
        let of = instance.workspace.as_ref().map(|workspace| format!(" of {workspace}")).unwrap_or_default();
        page.row("instance", &format!("{} ({}{of})", instance.id, instance.kind));
    }
}

fn boot(page: &mut Page, document: &Document) {
    let lines = timeline::draw(&document.boot);
    let over = document.boot.online_ms.is_some() && !matches!(document.phase, Phase::Online | Phase::Degraded);
    // How fast it once was is no help where it is not on the tailnet any more.
    if lines.is_empty() || over {
        return;
    }
    page.gap();
    match timeline::online_after(&document.boot) {
        Some(after) => page.line(&format!("online after {}", words::took(after))),
        None => page.line("not online yet; so far"),
    }
    for line in lines {
        page.line(&format!("  {line}"));
    }
}

fn trouble(page: &mut Page, label: &str, reason: &Reason, now: SystemTime) {
    page.row(label, &format!("{} ({})", reason.sentence, reason.code));
    page.row("", &reason.detail);
    page.row("do", &reason.remedy);
    if let Some(next) = &reason.next_try {
        page.row("next try", &words::relative_text(next, now));
    }
}

fn asides(page: &mut Page, document: &Document, now: SystemTime) {
    for notice in &document.notices {
        page.gap();
        trouble(page, "also", notice, now);
    }
    if !document.daemon.health.is_empty() {
        page.gap();
    }
    for warning in &document.daemon.health {
        page.row("health", warning);
    }
}

fn versions(document: &Document) -> String {
    let daemon = match (document.daemon.version.as_str(), document.daemon.restarts) {
        ("", _) => "tailscaled unknown".into(),
        (version, 0) => format!("tailscaled {version}"),
        (version, 1) => format!("tailscaled {version}, restarted once"),
        (version, restarts) => format!("tailscaled {version}, restarted {restarts} times"),
    };
    format!("devbox-agent {} · {daemon} · metadata {}", document.agent.version, document.metadata.provider)
}

fn daemon_now(daemon: &Result<Status, Fault>) -> String {
    match daemon {
        Ok(status) if status.node.online => format!("tailscaled says {}, online", status.backend_state),
        Ok(status) => format!("tailscaled says {}, not online", status.backend_state),
        // Nobody starts it while the agent is down.
        Err(fault) if fault.code == Code::TailscaledStarting => "tailscaled is not running".to_owned(),
        Err(fault) => format!("{} ({})", fault.code.sentence(), fault.detail),
    }
}

/// Makes text that came from elsewhere safe for a terminal.
fn clean(text: &str) -> String {
    printable(text, VALUE_MAX)
}

/// How good the news is.
#[derive(Clone, Copy)]
enum Tone {
    Good,
    Pending,
    Bad,
    Calm,
}

fn tone(phase: Phase) -> Tone {
    match phase {
        Phase::Online => Tone::Good,
        Phase::Blocked => Tone::Bad,
        Phase::Unassigned | Phase::Stopped | Phase::Left => Tone::Calm,
        _ => Tone::Pending,
    }
}

/// Lines on their way to a person.
struct Page {
    text: String,
    colour: bool,
}

impl Page {
    fn new(colour: bool) -> Self {
        Self { text: String::new(), colour }
    }

    fn headline(&mut self, text: &str, tone: Tone) {
        let code = match tone {
            Tone::Good => "32",
            Tone::Pending => "33",
            Tone::Bad => "31",
            Tone::Calm => "2",
        };
        let (dot, text) = (self.paint(code, "●"), self.paint("1", &clean(text)));
        self.text.push_str(&format!("{dot} {text}\n"));
    }

    fn gap(&mut self) {
        if !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// A label and its value; nothing when there is no value.
    fn row(&mut self, label: &str, value: &str) {
        if !value.is_empty() {
            let label = self.paint("2", &format!("{label:<10}"));
            self.text.push_str(&format!("  {label} {}\n", clean(value)));
        }
    }

    fn line(&mut self, text: &str) {
        self.text.push_str(&format!("  {text}\n"));
    }

    fn faint(&mut self, text: &str) {
        let text = self.paint("2", &clean(text));
        self.line(&text);
    }

    /// Wraps text in an SGR sequence (ECMA-48 §8.3.117).
    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests;
