//! tailscaled, and what control makes of its node.

use super::{Outside, Registered, Weak};
use crate::core::effect::Outcome;
use crate::core::simulation::Performed;
use crate::federation::KeyRequest;
use crate::tailscaled::types::{CurrentPreferences, Node};
use crate::tailscaled::{Notify, Preferences, Status};

impl Outside {
    pub(super) fn start(&mut self) -> Performed {
        assert!(!self.stopping, "a start cancels the stop");
        self.ok(Weak::Daemon)?;
        if std::mem::replace(&mut self.running, true) {
            assert!(self.unit, "tailscaled was started twice");
            self.tell_prefs();
            return Ok(Outcome::Done);
        }
        self.deaf = std::mem::take(&mut self.deaf_next);
        if self.node.is_none() {
            self.reset_prefs();
        }
        self.tell_prefs();
        Ok(Outcome::Done)
    }

    pub(super) fn stop(&mut self) -> Performed {
        self.stopping = false;
        Ok(Outcome::Done)
    }

    pub(super) fn log_in(&mut self, preferences: &Preferences) -> Performed {
        let request = self.keys.pop().expect("a login has a key that was minted for it");
        assert_eq!(request.lifecycle, self.tailnet.lifecycle);
        self.prefs = Some(CurrentPreferences {
            owned: preferences.clone(),
            auto_update: false,
            want_running: true,
            logged_out: false,
        });
        self.login = Some(request);
        self.auth_url = false;
        self.connected = false;
        self.tell_prefs();
        Ok(Outcome::Done)
    }

    pub(super) fn apply(&mut self, preferences: &Preferences) -> Performed {
        if let Some(prefs) = &mut self.prefs {
            prefs.owned = preferences.clone();
        }
        self.tell_prefs();
        Ok(Outcome::Done)
    }

    pub(super) fn up(&mut self) -> Performed {
        if let Some(prefs) = &mut self.prefs {
            prefs.want_running = true;
            prefs.logged_out = false;
        }
        self.tell_prefs();
        Ok(Outcome::Done)
    }

    pub(super) fn prove(&mut self) -> Performed {
        self.connected = false;
        Ok(Outcome::Done)
    }

    pub(super) fn withdraw(&mut self) -> Performed {
        self.auth_url = false;
        self.login = None;
        self.admin(false);
        Ok(Outcome::Done)
    }

    pub(super) fn log_out(&mut self) -> Performed {
        if self.node.is_some() {
            self.ok(Weak::Control)?;
        }
        self.node = None;
        self.reset_prefs();
        Ok(Outcome::Done)
    }

    /// What tailscaled and control do between two looks.
    fn work(&mut self) {
        let reachable = self.ok(Weak::Control).is_ok();
        self.complain(!reachable && !self.deaf);
        if !reachable || self.deaf {
            self.connected = false;
            return;
        }
        if let Some(request) = self.login.take() {
            self.register(request);
        }
        let up = self.prefs.as_ref().is_some_and(|prefs| prefs.want_running && !prefs.logged_out);
        let welcome = self.node.as_ref().is_some_and(|node| !node.expired && !node.deleted);
        self.connected = up && welcome;
        if up && self.node.as_ref().is_some_and(|node| node.expired) {
            self.auth_url = true;
        }
    }

    /// tailscaled says what keeps it from control, when that changes.
    fn complain(&mut self, complains: bool) {
        if std::mem::replace(&mut self.complained, complains) != complains {
            let words = complains.then(|| "control cannot be reached".to_owned());
            self.said.push(Notify { login_state: Some(words), ..Notify::default() });
        }
    }

    fn register(&mut self, request: KeyRequest) {
        if self.ok(Weak::Keys).is_err() {
            self.auth_url = true;
            self.said.push(Notify { error: Some("authkey expired".to_owned()), ..Notify::default() });
            return;
        }
        self.logins += 1;
        self.node = Some(Registered { key: self.logins, tags: request.tags, expired: false, deleted: false });
    }

    pub fn status(&mut self) -> Status {
        self.work();
        let prefs = self.prefs.clone().expect("a running tailscaled has preferences");
        let expired = self.node.as_ref().is_some_and(|node| node.expired);
        let state = match (&self.node, prefs.want_running, prefs.logged_out) {
            (None, ..) => "NeedsLogin",
            (Some(_), false, _) => "Stopped",
            (Some(_), true, _) if expired => "NeedsLogin",
            (Some(_), true, true) => "NeedsLogin",
            (Some(_), true, false) if self.deaf => "NoState",
            (Some(_), true, false) => "Running",
        };
        let node = self.node.as_ref().map(|node| Node {
            id: "n1".to_owned(),
            public_key: format!("nodekey:{}", node.key),
            host_name: prefs.owned.hostname.clone(),
            dns_name: format!("{}.ts.test.", prefs.owned.hostname),
            tags: node.tags.clone(),
            online: self.connected,
            ..Node::default()
        });
        Status {
            version: "1.102.3".to_owned(),
            backend_state: state.to_owned(),
            have_node_key: self.node.is_some(),
            auth_url: if self.auth_url { "http://control/a".to_owned() } else { String::new() },
            node: node.unwrap_or_default(),
            ..Status::default()
        }
    }

    pub(super) fn reset_prefs(&mut self) {
        let owned = Preferences {
            control_url: String::new(),
            hostname: String::new(),
            accept_dns: true,
            accept_routes: false,
            ssh: false,
        };
        self.prefs = Some(CurrentPreferences { owned, auto_update: false, want_running: false, logged_out: true });
        self.connected = false;
        self.tell_prefs();
    }

    pub(super) fn tell_prefs(&mut self) {
        self.said.push(Notify { prefs: self.prefs.clone(), ..Notify::default() });
    }
}
