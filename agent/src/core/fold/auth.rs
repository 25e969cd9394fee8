//! What tokens, keys and logins become.

use std::time::Duration;

use super::Draw;
use crate::clock::{BootTime, Now};
use crate::core::effect::{Kind, Login};
use crate::core::reason::{Code, Fault};
use crate::core::world::{Credential, LoginFacts, Pending, Proof, World};
use crate::federation::{AccessToken, Claims, KEY_LIFE, KeyRequest};
use crate::identity::record::Desired;
use crate::secret::Secret;

/// A credential is not used in the last moments of its life, which the request itself may take.
const MARGIN: Duration = Duration::from_secs(10);

/// So many refused keys in a row and a person must look (faults F25).
const REFUSALS_MAX: u32 = 3;

/// What a login fails with before its key is used.
const REFUSED_UNUSED: [Code; 4] =
    [Code::HelperDenied, Code::LocalapiDenied, Code::LocalapiError, Code::TailscaledState];

impl World {
    pub(super) fn token_fetched(
        &mut self,
        fetched: (String, Secret<String>),
        claims: &Claims,
        now: Now,
        draw: Draw<'_>,
    ) {
        let (client_id, jwt) = fetched;
        let until = claims.expires.checked_sub(MARGIN).unwrap_or(claims.expires);
        if until <= now.real {
            let fault = Fault::new(Code::TokenExpired, "the token has less than ten seconds left when it arrives");
            return self.failed(Kind::Token, fault, now.boot, draw);
        }
        self.credentials.jwt = Some((Credential { value: jwt, inputs: client_id }, until));
    }

    pub(super) fn exchanged(&mut self, client_id: String, access: AccessToken, now: BootTime, draw: Draw<'_>) {
        self.credentials.jwt = None;
        if access.expires_in <= MARGIN {
            let fault =
                Fault::new(Code::ExchangeInvalid, "the access token has less than ten seconds left when it arrives");
            return self.failed(Kind::Exchange, fault, now, draw);
        }
        let until = now + access.expires_in.saturating_sub(MARGIN);
        self.credentials.access = Some((Credential { value: access.token, inputs: client_id }, until));
    }

    pub(super) fn minted(&mut self, request: KeyRequest, key: Secret<String>, now: BootTime) {
        let until = now + (KEY_LIFE - MARGIN);
        self.credentials.key = Some((Credential { value: key, inputs: request }, until));
    }

    /// The node key is noted before the login, which may succeed before tailscaled has answered it.
    pub(super) fn login_begins(&mut self) {
        self.login.early_refusal = None;
        self.login.old_key =
            self.node.status.as_ref().filter(|it| it.have_node_key).map(|it| it.node.public_key.clone());
    }

    /// tailscaled has taken the key: it is single-use, so it is forgotten here.
    pub(super) fn login_sent(&mut self, login: Login, now: Now, draw: Draw<'_>) {
        let lapse = now.boot + (KEY_LIFE - MARGIN);
        let expires_at = self.credentials.key.take().map_or(lapse, |(_, until)| until);
        let old_key = self.login.old_key.take();
        self.node.logged_in_with(&login.preferences);
        self.node.wanted_round += 1;
        self.login.tried = Some(now.boot);
        self.login.pending = Some(Pending { login, old_key, sent_at: now.boot, expires_at });
        if let Some(words) = self.login.early_refusal.take() {
            self.key_refused(&words, now.boot, draw);
        }
    }

    /// Control refused the key: it is spent, whatever the cause, and another one is needed.
    pub(super) fn key_refused(&mut self, words: &str, now: BootTime, draw: Draw<'_>) {
        self.login.pending = None;
        self.login.refused += 1;
        let code = if self.login.refused < REFUSALS_MAX { Code::KeyRefused } else { Code::KeysExhausted };
        self.failed(Kind::Login, Fault::new(code, words), now, draw);
    }

    /// Control did not answer while the key was good: tailscaled goes on trying with it in vain, so it gets another one.
    pub(super) fn key_expired(&mut self, now: BootTime, draw: Draw<'_>) {
        self.login.pending = None;
        let fault = Fault::new(Code::JoinPending, "the control server did not answer while the key was good");
        self.failed(Kind::Login, fault, now, draw);
    }

    pub(super) fn login_succeeded(&mut self, pending: Pending, now: Now) {
        self.stage("join", pending.sent_at, now.boot);
        self.record.applied = Some(pending.login.inputs);
        self.record.attempted = None;
        self.record.withdrawn = false;
        let renewed = pending.old_key.map(|_| now.boot).or(self.login.renewed);
        // A node that is down meanwhile is still to be brought up for whoever asked for that.
        let LoginFacts { tried, rejoin, .. } = self.login;
        self.login = LoginFacts { renewed, tried, rejoin, ..LoginFacts::default() };
        self.proof = Proof { needed: false, proven_at: Some(now.real), ..self.proof.clone() };
        for kind in [Kind::Login, Kind::Mint, Kind::Exchange, Kind::Token] {
            self.forgive(kind);
        }
    }

    pub(super) fn auth_failed(&mut self, kind: Kind, fault: &Fault) {
        match kind {
            // Refused, the token is spent; unanswered, it is used again while it holds.
            Kind::Exchange if matches!(fault.code, Code::ExchangeDenied | Code::ClockSkew) => {
                self.credentials.jwt = None
            }
            Kind::Mint if fault.code == Code::MintDenied => self.credentials.access = None,
            // It never reached tailscaled, or tailscaled has refused: the key was not used. Otherwise it may be spent.
            Kind::Login if fault.unsent || REFUSED_UNUSED.contains(&fault.code) => {}
            Kind::Login => self.credentials.key = None,
            _ => {}
        }
    }

    pub(super) fn rejoin(&mut self) {
        self.record.desired = Desired::Joined;
        self.record.down_in_boot = None;
        self.login.refused = 0;
        self.login.rejoin = true;
        let Some(status) = &self.node.status else { return };
        self.login.forced = status.have_node_key && status.backend_state != "Stopped";
        if !status.have_node_key {
            self.record.applied = None;
        }
    }
}
