//! Metadata, the token and the API.

use std::time::{Duration, SystemTime};

use super::{Outside, Weak};
use crate::core::effect::Outcome;
use crate::core::simulation::Performed;
use crate::federation::{AccessToken, Claims, KeyRequest};
use crate::metadata::Read;
use crate::metadata::spec::{Instance, Spec, Wanted};
use crate::secret::Secret;

impl Outside {
    pub(super) fn read(&self, etag: Option<&str>) -> Performed {
        self.ok(Weak::Metadata)?;
        if etag == Some(self.etag().as_str()) {
            return Ok(Outcome::Read(Read::Unchanged));
        }
        let id = if self.cloned { "i-2" } else { "i-1" };
        let instance =
            Instance { id: id.to_owned(), kind: "devbox".to_owned(), name: None, workspace: None, generation: None };
        let tailnet = if self.unassigned { Wanted::Unsaid } else { Wanted::Node(self.tailnet.clone()) };
        let spec = Box::new(Spec { instance, tailnet, report_interval: Duration::from_secs(60) });
        Ok(Outcome::Read(Read::Document { spec, etag: Some(self.etag()) }))
    }

    pub(super) fn exchange(&self) -> Performed {
        self.ok(Weak::ExchangeRefuses)?;
        self.ok(Weak::Exchange)?;
        let token = Secret::new("CANARY-access".to_owned());
        Ok(Outcome::Access(AccessToken { token, expires_in: Duration::from_secs(3600) }))
    }

    pub(super) fn mint(&mut self, request: &KeyRequest) -> Performed {
        self.ok(Weak::Mint)?;
        self.keys.push(request.clone());
        Ok(Outcome::Key(Secret::new("CANARY-key".to_owned())))
    }
}

pub(super) fn token(now: SystemTime) -> Outcome {
    let claims = Claims {
        issuer: "issuer".to_owned(),
        subject: "acme/i-1".to_owned(),
        audience: vec!["api.tailscale.com/client".to_owned()],
        expires: now + Duration::from_secs(600),
        not_before: None,
    };
    Outcome::Token(Secret::new("CANARY-jwt".to_owned()), claims)
}
