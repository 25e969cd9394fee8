//! Secrets that lie in a file: the workload token of the provider `file`, and what a metadata endpoint wants to see.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use crate::config::settings::SecretFile;
use crate::secret::Secret;

/// The largest secret, in bytes.
pub const SECRET_MAX: usize = 64 * 1024;

/// Where systemd says that it put a unit's credentials (systemd.exec(5)).
const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Looks up a variable of the environment, which is an edge like any other.
pub type Environment = Arc<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

/// Reads a secret anew, without the white space around it.
///
/// # Errors
/// When there is none, or what there is cannot be one.
pub async fn read(place: &SecretFile, environment: &Environment) -> Result<Secret<String>, SecretFileError> {
    read_path(&path(place, environment)?).await
}

/// The same from a file of which the path is known.
///
/// # Errors
/// When there is none, or what there is cannot be a secret.
pub async fn read_path(path: &Path) -> Result<Secret<String>, SecretFileError> {
    let secret = from_file(path).await.map_err(|source| SecretFileError::Read { path: path.into(), source })?;
    if secret.expose().is_empty() { Err(SecretFileError::Empty { path: path.into() }) } else { Ok(secret) }
}

fn path(place: &SecretFile, environment: &Environment) -> Result<PathBuf, SecretFileError> {
    match place {
        SecretFile::Path(path) => Ok(path.clone()),
        SecretFile::Credential(name) => match environment(DIRECTORY) {
            Some(directory) => Ok(Path::new(&directory).join(name)),
            None => Err(SecretFileError::NoCredentials { name: name.clone() }),
        },
    }
}

async fn from_file(path: &Path) -> io::Result<Secret<String>> {
    let file = tokio::fs::File::open(path).await?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_MAX + 1));
    file.take(SECRET_MAX as u64 + 1).read_to_end(&mut bytes).await?;
    if bytes.len() > SECRET_MAX {
        return Err(io::Error::other(format!("expected at most {SECRET_MAX} bytes")));
    }
    let text = std::str::from_utf8(&bytes).map_err(io::Error::other)?;
    Ok(Secret::new(text.trim().to_owned()))
}

/// No secret where configuration says that it is.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The file cannot be read, or is not one line of text.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is there, with nothing in it.
    #[error("failed to read {}: it is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// systemd passed this process no credential at all.
    #[error(
        "failed to read the credential {name}: systemd passes this process none; see LoadCredential= in systemd.exec(5)"
    )]
    NoCredentials {
        /// The credential.
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(directory: Option<&Path>) -> Environment {
        let directory = directory.map(OsString::from);
        Arc::new(move |name| directory.clone().filter(|_| name == DIRECTORY))
    }

    #[tokio::test]
    async fn a_credential_is_read_anew_each_time_where_systemd_put_it() {
        let directory = tempfile::tempdir().unwrap();
        let (place, environment) = (SecretFile::Credential("token".into()), environment(Some(directory.path())));
        for word in ["first", "second"] {
            std::fs::write(directory.path().join("token"), format!("{word}\n")).unwrap();
            assert_eq!(read(&place, &environment).await.unwrap().expose(), word);
        }
    }

    #[tokio::test]
    async fn a_secret_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("empty"), " \n").unwrap();
        for (name, directory, words) in [
            ("token", Some(directory.path()), "/token"),
            ("empty", Some(directory.path()), "it is empty"),
            ("token", None, "LoadCredential="),
        ] {
            let found = read(&SecretFile::Credential(name.into()), &environment(directory)).await;
            let said = found.map(drop).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        }
    }
}
