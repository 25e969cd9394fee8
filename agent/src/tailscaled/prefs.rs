//! Preferences as LocalAPI writes them: `ipn.Prefs` read, overridden for a login, and masked for a change.

use serde_json::{Map, Value, json};

use super::types::{CurrentPreferences, Preferences};

/// `ipn.Prefs` as a document: what this agent does not know survives being sent back.
pub type Document = Map<String, Value>;

/// Where an empty `ControlURL` leads (`ipn.DefaultControlURL`).
const DEFAULT_CONTROL_URL: &str = "https://controlplane.tailscale.com";

/// The preferences of a login: those that are there, with what the agent owns over them.
///
/// `start` replaces every preference, and what is left out becomes Go's zero value, so the rest is sent back as it was read.
pub(super) fn for_login(mut current: Document, wanted: &Preferences) -> Document {
    current.extend(owned(wanted));
    set_auto_update(&mut current);
    current.insert("WantRunning".into(), true.into());
    current.insert("LoggedOut".into(), false.into());
    // Tags come with the key alone: asking for them again can only contradict it.
    current.insert("AdvertiseTags".into(), json!([]));
    current
}

/// The preferences that are there, but down.
pub(super) fn for_withdrawal(mut current: Document) -> Document {
    current.insert("WantRunning".into(), false.into());
    current
}

/// `ipn.MaskedPrefs` that sets what the agent keeps, and nothing else.
pub(super) fn masked(wanted: &Preferences) -> Document {
    let mut masked = owned(wanted);
    let names: Vec<_> = masked.keys().map(|name| format!("{name}Set")).collect();
    masked.extend(names.into_iter().map(|name| (name, Value::Bool(true))));
    masked.insert("AutoUpdate".into(), json!({ "Apply": false }));
    masked.insert("AutoUpdateSet".into(), json!({ "ApplySet": true }));
    masked
}

/// `ipn.MaskedPrefs` that brings the node up and logs it in again.
pub(super) fn masked_up() -> Value {
    json!({ "WantRunning": true, "WantRunningSet": true, "LoggedOut": false, "LoggedOutSet": true })
}

/// What the agent cares for in `ipn.Prefs`; absent, null and mistyped fields read as Go's zero value.
pub(super) fn current(document: &Document) -> CurrentPreferences {
    let flag = |name: &str| document.get(name).and_then(Value::as_bool).unwrap_or_default();
    let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
    let auto_update = document.get("AutoUpdate").and_then(|update| update.get("Apply")).and_then(Value::as_bool);
    CurrentPreferences {
        owned: Preferences {
            control_url: control_url(text("ControlURL")),
            hostname: text("Hostname").to_owned(),
            accept_dns: flag("CorpDNS"),
            accept_routes: flag("RouteAll"),
            ssh: flag("RunSSH"),
        },
        auto_update: auto_update != Some(false),
        want_running: flag("WantRunning"),
        logged_out: flag("LoggedOut"),
    }
}

fn owned(wanted: &Preferences) -> Document {
    let rows = [
        ("ControlURL", Value::from(control_url(&wanted.control_url))),
        ("Hostname", Value::from(wanted.hostname.as_str())),
        ("CorpDNS", Value::from(wanted.accept_dns)),
        ("RouteAll", Value::from(wanted.accept_routes)),
        ("RunSSH", Value::from(wanted.ssh)),
    ];
    rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Keeps `AutoUpdate.Check`, which is the user's.
fn set_auto_update(document: &mut Document) {
    let update = document.entry("AutoUpdate").or_insert(Value::Null);
    if !update.is_object() {
        *update = json!({});
    }
    update["Apply"] = Value::Bool(false);
}

/// One spelling for one server, so that preferences can be compared: tailscaled writes the default as an empty text, people add slashes.
fn control_url(url: &str) -> String {
    match url.trim_end_matches('/') {
        "" => DEFAULT_CONTROL_URL.to_owned(),
        url => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(value: Value) -> Document {
        serde_json::from_value(value).expect("an object")
    }

    fn wanted() -> Preferences {
        Preferences {
            control_url: "https://control.example/".into(),
            hostname: "web-api".into(),
            accept_dns: true,
            accept_routes: false,
            ssh: false,
        }
    }

    #[test]
    fn a_login_overrides_the_agents_rows_and_keeps_every_other() {
        let users = json!({
            "ControlURL": "", "Hostname": "", "CorpDNS": false, "RouteAll": true, "RunSSH": true, "WantRunning": false,
            "LoggedOut": true, "AdvertiseTags": ["tag:old"], "AutoUpdate": { "Check": true, "Apply": null },
            "ShieldsUp": true, "ExitNodeID": "n1", "NetfilterMode": 2, "OperatorUser": "dev", "FromTheFuture": { "a": [1, null] },
        });
        let expected = json!({
            "ControlURL": "https://control.example", "Hostname": "web-api", "CorpDNS": true, "RouteAll": false, "RunSSH": false,
            "WantRunning": true, "LoggedOut": false, "AdvertiseTags": [], "AutoUpdate": { "Check": true, "Apply": false },
            "ShieldsUp": true, "ExitNodeID": "n1", "NetfilterMode": 2, "OperatorUser": "dev", "FromTheFuture": { "a": [1, null] },
        });
        assert_eq!(for_login(document(users), &wanted()), document(expected));
    }

    #[test]
    fn a_login_says_no_automatic_updates_even_where_nothing_was_said() {
        for before in [json!({}), json!({ "AutoUpdate": null })] {
            assert_eq!(for_login(document(before), &wanted())["AutoUpdate"], json!({ "Apply": false }));
        }
    }

    #[test]
    fn what_a_login_sends_reads_back_as_what_was_wanted() {
        let now = current(&for_login(Document::new(), &wanted()));
        let owned = Preferences { control_url: "https://control.example".into(), ..wanted() };
        assert_eq!(now, CurrentPreferences { owned, auto_update: false, want_running: true, logged_out: false });
    }

    #[test]
    fn an_unset_automatic_update_counts_as_on_because_the_tailnet_decides_it() {
        for (apply, on) in [(json!(null), true), (json!(true), true), (json!(false), false)] {
            assert_eq!(current(&document(json!({ "AutoUpdate": { "Apply": apply } }))).auto_update, on);
        }
    }

    #[test]
    fn an_empty_control_url_is_the_default_one() {
        assert_eq!(current(&Document::new()).owned.control_url, DEFAULT_CONTROL_URL);
    }
}
