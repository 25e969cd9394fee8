//! Who this machine is across restarts: the record, the lock, and the boot that its times belong to.

pub mod boot_id;
pub mod directory;
pub mod lock;
pub mod record;
pub mod store;

use async_trait::async_trait;

pub use self::record::Record;
use crate::core::reason::Fault;

/// Where the record is kept: one file, atomic, fsynced, owner-checked, versioned.
#[async_trait]
pub trait Store: Send + Sync {
    /// Reads the record; what is wrong with it is said in the outcome, and never an error.
    fn load(&self) -> Loaded;

    /// Replaces the record; the old one is intact when this fails.
    async fn save(&self, record: &Record) -> Result<(), Fault>;
}

/// What was found at start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// The record, or an empty one.
    pub record: Record,
    /// Why it is an empty one although it may not have been.
    pub trouble: Option<Trouble>,
}

/// What is wrong with the record at start, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// There was one that said nothing: a corrupt or newer file, which was set aside. Where it is now stands in the words.
    SetAside(String),
    /// Nobody knows whether there is one: the directory or the disk cannot be used.
    Unreadable(String),
}
