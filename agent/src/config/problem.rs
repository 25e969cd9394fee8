//! What is wrong with the configuration: every problem at once, each with its place.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::keys::Key;
use crate::core::reason::chain;
use crate::files::ReadError;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing sets it.
    Default,
    /// A configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// `--set section.key=value`.
    CommandLine,
}

impl Origin {
    /// The place in `text`, the content of `path`, where the byte `offset` is.
    pub fn at(path: &Path, text: &str, offset: usize) -> Self {
        let before = text.as_bytes().iter().take(offset);
        Self::File { path: path.into(), line: 1 + before.filter(|byte| **byte == b'\n').count() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A configuration directory exists and cannot be listed.
    #[error("failed to list {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file cannot be read, or is one that others could have written.
    #[error(transparent)]
    File(#[from] ReadError),
    /// A file is not text.
    #[error("{path}: not UTF-8")]
    Encoding {
        /// The file.
        path: PathBuf,
        /// Where it stops to be.
        source: std::str::Utf8Error,
    },
    /// Not TOML, in the parser's words; the text itself is not repeated.
    #[error("{origin}: {message}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What the parser expected.
        message: String,
    },
    /// An override that is not `section.key=value`.
    #[error("command line: --set {argument}: expected section.key=value")]
    Override {
        /// The part before the equals sign, which is no secret.
        argument: String,
    },
    /// A key or section that does not exist.
    #[error("{origin}: unknown {what} {name}{}", suggestion(.near.as_deref()))]
    Unknown {
        /// Where.
        origin: Origin,
        /// `key` or `section`.
        what: &'static str,
        /// As it was written, dotted.
        name: String,
        /// What was probably meant, dotted.
        near: Option<String>,
    },
    /// A value that the key does not take.
    #[error("{origin}: {}: {found}; expected {}", key.name(), key.expected())]
    Value {
        /// Where.
        origin: Origin,
        /// Which key.
        key: Key,
        /// What is wrong with the value, as a clause.
        found: String,
    },
    /// Values that are fine each, and not together.
    #[error("{origin}: {}: {conflict}", key.name())]
    Conflict {
        /// Where the key is set.
        origin: Origin,
        /// The key to change.
        key: Key,
        /// What it conflicts with and what to do, as a clause.
        conflict: String,
    },
}

fn suggestion(near: Option<&str>) -> String {
    near.map_or_else(String::new, |near| format!("; did you mean {near}?"))
}

/// Everything that is wrong with the configuration; shown with one problem a line.
#[derive(Debug)]
pub struct ConfigErrors(pub Vec<Problem>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let end = if index + 1 < self.0.len() { "\n" } else { "" };
            write!(f, "{}{end}", chain(problem))?;
        }
        Ok(())
    }
}

// Each line already has its whole chain of causes, so there is no one `source`.
impl std::error::Error for ConfigErrors {}
