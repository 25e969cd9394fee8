//! Where Namespace leaves a workload's credential, and in which form. It is rewritten in place, so it is read anew each time.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use reqwest::Url;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::metadata::secret_file::{self, Environment, SecretFileError};
use crate::metadata::service;
use crate::secret::Secret;

/// The spec itself.
pub const SPEC: &str = "NSC_TOKEN_SPEC";
/// A file with the spec.
pub const SPEC_FILE: &str = "NSC_TOKEN_SPEC_FILE";
/// A file with a bearer or a session.
pub const TOKEN_FILE: &str = "NSC_TOKEN_FILE";

/// Where the files are when no variable says so.
#[derive(Clone, Debug)]
pub struct Files {
    /// The spec.
    pub spec: PathBuf,
    /// A bearer or a session.
    pub token: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self { spec: "/var/run/nsc/token.spec".into(), token: "/var/run/nsc/token.json".into() }
    }
}

/// A workload's credential.
pub enum Credential {
    /// What the API takes.
    Bearer(Secret<String>),
    /// What is traded for a bearer.
    Session(Secret<String>),
    /// The machine's own metadata service, which gives a bearer and the instance's id.
    Metadata(Url),
}

/// Reads the credential from the first place where there is one.
///
/// # Errors
/// When there is none, or what there is cannot be one.
pub async fn find(environment: &Environment, files: &Files) -> Result<Credential, CredentialError> {
    let variable = |name| environment(name).filter(|value| !value.is_empty());
    if let Some(spec) = variable(SPEC) {
        let spec = Zeroizing::new(spec.into_string().unwrap_or_default());
        return parse_spec(&spec, SPEC.into());
    }
    if let Some(path) = variable(SPEC_FILE) {
        return from_spec(path.into()).await;
    }
    if let Some(path) = variable(TOKEN_FILE) {
        return from_token(path.into()).await;
    }
    if is_there(&files.spec).await {
        return from_spec(files.spec.clone()).await;
    }
    if is_there(&files.token).await {
        return from_token(files.token.clone()).await;
    }
    Err(CredentialError::Nowhere { files: files.clone() })
}

/// A file that cannot be looked at counts as there: reading it says why.
async fn is_there(path: &Path) -> bool {
    tokio::fs::try_exists(path).await.unwrap_or(true)
}

async fn read(path: &Path) -> Result<Secret<String>, CredentialError> {
    Ok(secret_file::read_path(path).await?)
}

async fn from_spec(path: PathBuf) -> Result<Credential, CredentialError> {
    parse_spec(read(&path).await?.expose(), path)
}

async fn from_token(path: PathBuf) -> Result<Credential, CredentialError> {
    parse_token(read(&path).await?.expose(), path)
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    version: String,
    #[serde(default)]
    metadata_url: String,
    #[serde(default)]
    inline_token: String,
}

/// Unpadded base64 of JSON. The decoders' own errors are left out: they can quote the token.
fn parse_spec(text: &str, place: PathBuf) -> Result<Credential, CredentialError> {
    let wrong = |expected| CredentialError::Spec { place: place.clone(), expected };
    let json = STANDARD_NO_PAD.decode(text.trim()).map(Zeroizing::new).map_err(|_| wrong("unpadded base64"))?;
    let spec: Spec = serde_json::from_slice(&json).map_err(|_| wrong("base64 of a JSON object"))?;
    if !spec.inline_token.is_empty() {
        return Ok(Credential::Bearer(Secret::new(spec.inline_token)));
    }
    if spec.version != "v1" {
        return Err(wrong("version v1, or an inline_token"));
    }
    let url = service::trusted(&spec.metadata_url).ok_or_else(|| wrong("a metadata_url of https or an IP address"))?;
    Ok(Credential::Metadata(url))
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    bearer_token: String,
    #[serde(default)]
    session_token: String,
}

/// A session outlives the bearer that was made of it, so where both are it is the one that counts.
fn parse_token(text: &str, place: PathBuf) -> Result<Credential, CredentialError> {
    let wrong = |expected| CredentialError::Token { place: place.clone(), expected };
    let token: Token = serde_json::from_str(text).map_err(|_| wrong("a JSON object"))?;
    match (token.session_token.is_empty(), token.bearer_token.is_empty()) {
        (false, _) => Ok(Credential::Session(Secret::new(token.session_token))),
        (true, false) => Ok(Credential::Bearer(Secret::new(token.bearer_token))),
        (true, true) => Err(wrong("a bearer_token or a session_token")),
    }
}

/// No credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// Not a machine of Namespace's, or one whose credential is somewhere else.
    #[error(
        "failed to find Namespace's credential: none of {SPEC}, {SPEC_FILE} and {TOKEN_FILE} is set, and there is neither {} nor {}",
        files.spec.display(),
        files.token.display()
    )]
    Nowhere {
        /// Where else it was looked for.
        files: Files,
    },
    /// The file that a variable names cannot be read.
    #[error("failed to read Namespace's credential")]
    File(#[from] SecretFileError),
    /// Not a spec. What is there is not repeated.
    #[error("failed to read Namespace's token spec from {}: expected {expected}", place.display())]
    Spec {
        /// The file or variable.
        place: PathBuf,
        /// What should be there.
        expected: &'static str,
    },
    /// Not a token file. What is there is not repeated.
    #[error("failed to read Namespace's token from {}: expected {expected}", place.display())]
    Token {
        /// The file.
        place: PathBuf,
        /// What should be there.
        expected: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn spec(json: &str) -> String {
        STANDARD_NO_PAD.encode(json)
    }

    /// What a variable, or the usual file, comes to.
    async fn found(variable: &'static str, value: &str, files: &Files) -> Result<String, String> {
        let value = std::ffi::OsString::from(value);
        let environment: Environment = Arc::new(move |name| (name == variable).then(|| value.clone()));
        match find(&environment, files).await {
            Ok(Credential::Bearer(bearer)) => Ok(format!("bearer {}", bearer.expose())),
            Ok(Credential::Session(session)) => Ok(format!("session {}", session.expose())),
            Ok(Credential::Metadata(url)) => Ok(format!("metadata {url}")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn nowhere() -> Files {
        Files { spec: "/nonexistent/spec".into(), token: "/nonexistent/token".into() }
    }

    #[tokio::test]
    async fn a_spec_is_an_inline_token_or_a_metadata_service() {
        for (json, expected) in [
            (r#"{"inline_token":"t","version":"v9"}"#, Ok("bearer t")),
            (r#"{"version":"v1","metadata_url":"http://10.0.0.1:8080"}"#, Ok("metadata http://10.0.0.1:8080/")),
            (r#"{"version":"v2","metadata_url":"http://10.0.0.1"}"#, Err("version v1")),
            (r#"{"version":"v1","metadata_url":"http://metadata.example"}"#, Err("metadata_url")),
            (r#"{"version":"v1"}"#, Err("metadata_url")),
            ("[1]", Err("JSON object")),
        ] {
            match (found(SPEC, &spec(json), &nowhere()).await, expected) {
                (Ok(found), expected) => assert_eq!(Ok(found.as_str()), expected, "{json}"),
                (Err(said), Err(part)) => assert!(said.contains(part), "{json}: {said}"),
                (Err(said), Ok(_)) => panic!("{json}: {said}"),
            }
        }
        let said = found(SPEC, "canary!", &nowhere()).await.unwrap_err();
        assert!(said.contains("unpadded base64") && !said.contains("canary"), "{said}");
    }

    #[tokio::test]
    async fn the_first_place_counts_and_a_session_is_better_than_a_bearer() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let files = Files { spec: path("token.spec"), token: path("token.json") };
        let said = found("", "", &files).await.unwrap_err();
        assert!(said.contains(TOKEN_FILE) && said.contains("token.spec"), "{said}");
        std::fs::write(&files.token, r#"{"bearer_token":"b","session_token":"s"}"#).unwrap();
        assert_eq!(found("", "", &files).await.unwrap(), "session s");
        std::fs::write(&files.spec, spec(r#"{"inline_token":"i"}"#)).unwrap();
        assert_eq!(found("", "", &files).await.unwrap(), "bearer i");
        std::fs::write(path("mine"), r#"{"bearer_token":"mine"}"#).unwrap();
        assert_eq!(found(TOKEN_FILE, path("mine").to_str().unwrap(), &files).await.unwrap(), "bearer mine");
        std::fs::write(path("other"), spec(r#"{"inline_token":"other"}"#)).unwrap();
        assert_eq!(found(SPEC_FILE, path("other").to_str().unwrap(), &files).await.unwrap(), "bearer other");
        assert_eq!(found(SPEC, &spec(r#"{"inline_token":"env"}"#), &files).await.unwrap(), "bearer env");
    }

    #[tokio::test]
    async fn a_file_without_a_credential_is_named_and_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token.json");
        for (content, part) in [("{}", "bearer_token"), ("canary", "JSON object"), ("", "empty")] {
            std::fs::write(&path, content).unwrap();
            let files = Files { token: path.clone(), ..nowhere() };
            let environment: Environment = Arc::new(|_| None);
            let error = find(&environment, &files).await.map(drop).unwrap_err();
            let said = crate::core::reason::chain(&error);
            assert!(said.contains(part) && said.contains("token.json") && !said.contains("canary"), "{said}");
        }
    }
}
