//! `token`: what the exchange will see of this machine.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::exit::ExitCode;
use super::output::Output;
use super::run::provider;
use crate::clock::{Clock, SystemClock, rfc3339};
use crate::config::Settings;
use crate::core::reason::{Class, Fault};
use crate::federation::{Claims, audience, claims};
use crate::metadata::spec::Wanted;
use crate::metadata::{Metadata, Read};
use crate::sys::dumpable;

/// Fetches a token as the agent would, and prints its claims as JSON; the token itself is never printed.
pub async fn run(settings: &Settings, output: &mut Output<'_>) -> ExitCode {
    if let Err(error) = dumpable::forbid() {
        let said = output.talk(format_args!("failed to forbid core dumps: {error}")).map(|()| ExitCode::No);
        return output.ended(said);
    }
    let result = match fetch(settings).await {
        Ok(claims) => output.answer(format_args!("{:#}\n", shown(&claims))).map(|()| ExitCode::Fine),
        Err(Failure::Fault(fault)) => {
            let code = if fault.code.class() == Class::Blocked { ExitCode::No } else { ExitCode::Unavailable };
            output.talk(format_args!("{}: {}; {}", fault.code, fault.detail, fault.code.remedy())).map(|()| code)
        }
        Err(Failure::Unassigned) => {
            output.talk("the metadata names no tailnet, so there is no audience to ask for").map(|()| ExitCode::No)
        }
        Err(Failure::Other(error)) => output.talk(format_args!("{error:#}")).map(|()| ExitCode::No),
    };
    output.ended(result)
}

enum Failure {
    Fault(Fault),
    Unassigned,
    Other(anyhow::Error),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

async fn fetch(settings: &Settings) -> Result<Claims, Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metadata = provider(settings, &clock).map_err(Failure::Other)?;
    let client_id = client_id(metadata.as_ref()).await?;
    let jwt = metadata.token(&audience(&client_id)).await?;
    claims::read(&jwt).map_err(|error| Failure::Fault(Fault::from(&error)))
}

async fn client_id(metadata: &dyn Metadata) -> Result<String, Failure> {
    match metadata.read(None, Duration::ZERO).await? {
        Read::Document { spec, .. } => match spec.tailnet {
            Wanted::Node(tailnet) => Ok(tailnet.client_id),
            Wanted::Unsaid | Wanted::Nothing => Err(Failure::Unassigned),
        },
        Read::Refused { fault, .. } => Err(fault.into()),
        Read::Unchanged => Err(Failure::Unassigned),
    }
}

fn shown(claims: &Claims) -> serde_json::Value {
    json!({
        "iss": claims.issuer,
        "sub": claims.subject,
        "aud": claims.audience,
        "exp": rfc3339(claims.expires),
        "nbf": claims.not_before.map(rfc3339),
    })
}
