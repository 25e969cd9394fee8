//! A token that something else keeps fresh: a file such as a projected service account token or a SPIFFE JWT-SVID, a variable, a descriptor, or
//! what a command prints. The spec comes from configuration.

use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use super::command::{self, CommandError};
use super::descriptor;
use super::secret_file::{self, Environment, SecretFileError};
use super::{Instance, Metadata, Read, Rules, configured, value};
use crate::config::settings::TokenSource;
use crate::core::reason::{Code, Fault, Reasoned};
use crate::secret::Secret;

/// How long a token command may take.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(10);

/// What the provider is made of.
#[derive(Clone)]
pub struct FileSettings {
    /// Where the token is.
    pub token: TokenSource,
    /// `instance.id`; else the machine id.
    pub instance: Option<String>,
    /// Where the machine id is: `/etc/machine-id`.
    pub machine_id: PathBuf,
    /// What configuration says of the node.
    pub rules: Rules,
    /// The environment.
    pub environment: Environment,
    /// How long a token command may take, and a pipe until its end: [`COMMAND_DEADLINE`].
    pub deadline: Duration,
}

/// The provider.
pub struct File {
    settings: FileSettings,
    /// What a descriptor gave.
    given: OnceCell<Secret<String>>,
}

impl File {
    /// Makes the provider; nothing is read yet.
    pub fn new(settings: FileSettings) -> Self {
        Self { settings, given: OnceCell::new() }
    }

    async fn id(&self) -> Result<String, FileError> {
        match &self.settings.instance {
            Some(id) => Ok(id.clone()),
            None => machine_id(&self.settings.machine_id).await,
        }
    }

    async fn fetch(&self, audience: &str) -> Result<Secret<String>, FileError> {
        let (token, source) = match &self.settings.token {
            TokenSource::File(place) => return Ok(secret_file::read(place, &self.settings.environment).await?),
            TokenSource::Environment(name) => (self.variable(name)?, format!("the variable {name}")),
            TokenSource::Descriptor(number) => (self.given(*number).await?, format!("the descriptor {number}")),
            TokenSource::Command(argv) => (
                command::output(argv, audience, self.settings.deadline).await?,
                argv.first().cloned().unwrap_or_default(),
            ),
        };
        if token.expose().is_empty() { Err(FileError::Empty { source_name: source }) } else { Ok(token) }
    }

    async fn given(&self, number: RawFd) -> Result<Secret<String>, FileError> {
        let read = async || {
            let read = descriptor::read(number, self.settings.deadline).await;
            read.map_err(|source| FileError::Descriptor { number, source })
        };
        self.given.get_or_try_init(read).await.cloned()
    }

    fn variable(&self, name: &str) -> Result<Secret<String>, FileError> {
        let unset = || FileError::Unset { name: name.to_owned() };
        let value = (self.settings.environment)(name).and_then(|value| value.into_string().ok()).ok_or_else(unset)?;
        Ok(Secret::new(Zeroizing::new(value).trim().to_owned()))
    }
}

#[async_trait]
impl Metadata for File {
    fn provider(&self) -> &'static str {
        "file"
    }

    async fn read(&self, etag: Option<&str>, wait: Duration) -> Result<Read, Fault> {
        let id = self.id().await.map_err(|e| Fault::from(&e))?;
        let instance = Instance { id, kind: "devbox".to_owned(), name: None, workspace: None, generation: None };
        Ok(configured::read(instance, &self.settings.rules, etag, wait).await)
    }

    async fn token(&self, audience: &str) -> Result<Secret<String>, Fault> {
        self.fetch(audience).await.map_err(|e| Fault::from(&e))
    }
}

/// This machine's id, machine-id(5).
///
/// # Errors
/// When there is none yet, or it cannot be read.
pub async fn machine_id(path: &Path) -> Result<String, FileError> {
    let text =
        tokio::fs::read_to_string(path).await.map_err(|source| FileError::MachineId { path: path.into(), source })?;
    let id = text.trim();
    let wrong = |expected: String| FileError::MachineId { path: path.into(), source: io::Error::other(expected) };
    // What systemd writes while it has not chosen one yet (machine-id(5)).
    if id == "uninitialized" {
        return Err(wrong("the machine id is not initialized yet".to_owned()));
    }
    value::instance_id(id).map_err(wrong)?;
    Ok(id.to_owned())
}

/// What the machine does not give.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The machine id cannot be used.
    #[error("failed to read the machine id from {}: set [metadata] instance", path.display())]
    MachineId {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The token's file cannot be read.
    #[error("failed to read the token")]
    Secret(#[from] SecretFileError),
    /// The descriptor cannot be read.
    #[error("failed to read the token from the descriptor {number}")]
    Descriptor {
        /// Its number.
        number: RawFd,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The variable is not there, or is no text.
    #[error("failed to read the token: the variable {name} is not set to text")]
    Unset {
        /// Its name.
        name: String,
    },
    /// The command failed.
    #[error("failed to get a token from the command")]
    Command(#[from] CommandError),
    /// There is a source, with nothing in it.
    #[error("failed to read the token: {source_name} gives an empty one")]
    Empty {
        /// The variable or program.
        source_name: String,
    },
}

impl Reasoned for FileError {
    fn code(&self) -> Code {
        match self {
            Self::MachineId { .. } => Code::MetadataUnreachable,
            _ => Code::TokenUnavailable,
        }
    }
}

#[cfg(test)]
mod tests;
