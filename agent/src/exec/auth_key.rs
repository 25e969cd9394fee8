//! An auth key that somebody made beforehand, where there is no token to trade for one.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::config::settings::TailnetSettings;
use crate::core::reason::{Code, Fault};
use crate::federation::{AccessToken, Claims, Federation, KeyRequest};
use crate::metadata::document::REPORT_INTERVAL;
use crate::metadata::secret_file::{self, SecretFileError};
use crate::metadata::spec::{Lifecycle, Tailnet, Wanted};
use crate::metadata::{Instance, Metadata, Read, Spec};
use crate::secret::Secret;

/// How long the empty credentials before the key count as good: longer than any join.
const LIFE: Duration = Duration::from_secs(3600);

/// Stands for metadata and federation where `--auth-key` gives the key: nobody is asked for anything, and the key is used once.
pub struct AuthKeyFile {
    tailnet: TailnetSettings,
    key: Mutex<Option<Secret<String>>>,
}

impl AuthKeyFile {
    /// Reads the key in `file`, for the node that configuration describes; its tags are those that the key was made with.
    ///
    /// # Errors
    /// When there is none.
    pub async fn read(file: &Path, tailnet: TailnetSettings) -> Result<Arc<Self>, SecretFileError> {
        let key = Mutex::new(Some(secret_file::read_path(file).await?));
        Ok(Arc::new(Self { tailnet, key }))
    }

    fn spec(&self) -> Spec {
        let set = &self.tailnet;
        let hostname = set.hostname.clone().unwrap_or_default();
        let instance =
            Instance { id: hostname.clone(), kind: "runner".to_owned(), name: None, workspace: None, generation: None };
        let tailnet = Tailnet {
            client_id: String::new(),
            tags: set.tags.clone().unwrap_or_default(),
            hostname,
            lifecycle: Lifecycle::Ephemeral,
            accept_dns: set.accept_dns.unwrap_or(true),
            accept_routes: set.accept_routes.unwrap_or(false),
            ssh: false,
            epoch: 0,
        };
        Spec { instance, tailnet: Wanted::Node(tailnet), report_interval: REPORT_INTERVAL }
    }
}

#[async_trait]
impl Metadata for AuthKeyFile {
    fn provider(&self) -> &'static str {
        "auth-key"
    }

    async fn read(&self, etag: Option<&str>, wait: Duration) -> Result<Read, Fault> {
        const ETAG: &str = "given";
        if etag == Some(ETAG) {
            // It does not change while a command runs.
            tokio::time::sleep(wait).await;
            return Ok(Read::Unchanged);
        }
        Ok(Read::Document { spec: Box::new(self.spec()), etag: Some(ETAG.to_owned()) })
    }

    async fn token(&self, _: &str) -> Result<Secret<String>, Fault> {
        Ok(Secret::new(String::new()))
    }
}

#[async_trait]
impl Federation for AuthKeyFile {
    async fn connect(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn judge(&self, _: &Secret<String>, _: &str, now: SystemTime) -> Result<Claims, Fault> {
        Ok(Claims {
            issuer: String::new(),
            subject: String::new(),
            audience: Vec::new(),
            expires: now + LIFE,
            not_before: None,
        })
    }

    async fn exchange(&self, _: &str, _: &Secret<String>) -> Result<AccessToken, Fault> {
        Ok(AccessToken { token: Secret::new(String::new()), expires_in: LIFE })
    }

    async fn mint(&self, _: &Secret<String>, _: &KeyRequest) -> Result<Secret<String>, Fault> {
        let key = self.key.lock().unwrap_or_else(PoisonError::into_inner).take();
        key.ok_or_else(|| Fault::new(Code::KeyRefused, "there is no other than the one that was given"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::settings;

    #[tokio::test]
    async fn a_key_is_given_once_and_a_second_one_waits_for_a_person() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "tskey-auth-given\n").expect("written");
        let tailnet = settings(&["tailnet.hostname=job"]).tailnet;
        let given = AuthKeyFile::read(file.path(), tailnet).await.expect("a key");
        let Ok(Read::Document { spec, .. }) = given.read(None, Duration::ZERO).await else { panic!("there is a spec") };
        let Wanted::Node(tailnet) = &spec.tailnet else { panic!("it wants a node") };
        assert_eq!((tailnet.hostname.as_str(), tailnet.lifecycle), ("job", Lifecycle::Ephemeral));
        let request = KeyRequest {
            client_id: String::new(),
            tags: Vec::new(),
            lifecycle: Lifecycle::Ephemeral,
            instance_id: "job".to_owned(),
        };
        let access = Secret::new(String::new());
        assert_eq!(given.mint(&access, &request).await.expect("a key").expose(), "tskey-auth-given");
        let fault = given.mint(&access, &request).await.map(drop).expect_err("it was used");
        assert_eq!(fault.code, Code::KeyRefused);
    }
}
