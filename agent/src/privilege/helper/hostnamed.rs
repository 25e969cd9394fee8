//! The machine's static name, by hostnamed over the system bus.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use zbus::connection::Builder;
use zbus::proxy::CacheProperties;

use crate::core::reason::{Code, Reasoned};
use crate::privilege::fields::Label;
use crate::systemd::proxies::HostnameProxy;
use crate::systemd::{greeted, says};

/// hostnamed is started when it is first asked, which takes a second on a busy machine.
const ANSWER_DEADLINE: Duration = Duration::from_secs(8);

/// What names the machine.
#[async_trait]
pub trait StaticName: Send + Sync {
    /// Gives the machine this static name, unless it has it.
    async fn set(&self, name: &Label) -> Result<(), HostnameError>;
}

/// Why the machine was not named: hostnamed is masked, `/etc` cannot be written, there is no bus, …
#[derive(Debug, thiserror::Error)]
#[error("failed to set the static host name; see systemctl status systemd-hostnamed")]
pub struct HostnameError(#[source] zbus::Error);

impl Reasoned for HostnameError {
    fn code(&self) -> Code {
        Code::HostnameUnset
    }
}

/// hostnamed of this machine.
#[derive(Clone, Debug)]
pub struct Hostnamed {
    file: PathBuf,
    bus: String,
}

impl Hostnamed {
    /// hostnamed, which keeps the name in `file` (`/etc/hostname`), on the bus at this D-Bus address.
    pub fn new(file: impl Into<PathBuf>, bus: impl Into<String>) -> Self {
        Self { file: file.into(), bus: bus.into() }
    }

    async fn ask(&self, name: &Label) -> zbus::Result<()> {
        let bus = greeted(Builder::address(self.bus.as_str()), ANSWER_DEADLINE).await?;
        let hostnamed = HostnameProxy::builder(&bus).cache_properties(CacheProperties::No).build().await?;
        // Not interactive: nobody is there whom polkit could ask.
        hostnamed.set_static_hostname(name.as_str(), false).await
    }
}

#[async_trait]
impl StaticName for Hostnamed {
    async fn set(&self, name: &Label) -> Result<(), HostnameError> {
        if says(&self.file, name.as_str()) { Ok(()) } else { self.ask(name).await.map_err(HostnameError) }
    }
}
