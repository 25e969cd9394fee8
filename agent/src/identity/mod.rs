//! Who this machine is across restarts: the record it keeps, and the names it goes by.

pub mod directory;
pub mod host;
pub mod lock;
pub mod record;
pub mod store;

use async_trait::async_trait;

pub use self::record::Record;
use crate::core::reason::Fault;

/// Where the record is kept: one file, atomic, fsynced, owner-checked, versioned.
#[async_trait]
pub trait Store: Send + Sync {
    /// Reads the record; a corrupt or newer file is set aside and said in the outcome, never an error.
    fn load(&self) -> Loaded;

    /// Replaces the record; the old one is intact when this fails.
    async fn save(&self, record: &Record) -> Result<(), Fault>;
}

/// What was found at start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// The record, or an empty one.
    pub record: Record,
    /// Why a file was set aside, and where it is now.
    pub set_aside: Option<String>,
}
