//! The second stage: all layers merged, each value with its origin, not yet checked.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Value;

use super::fragment::{Fragment, Input};
use super::keys::{Key, Preset};
use super::problem::Origin;

/// Every key that has a value, the defaults among them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs(BTreeMap<Key, Input>);

impl Inputs {
    /// Lays the fragments over the defaults; a later one wins, key by key. A list replaces a list as a whole.
    pub fn merge(fragments: impl IntoIterator<Item = Fragment>) -> Self {
        let mut inputs = Self(Key::ALL.iter().filter_map(|key| Some((*key, default(key.preset().value()?)))).collect());
        inputs.0.extend(fragments.into_iter().flat_map(|fragment| fragment.0));
        for key in Key::ALL {
            inputs.place(*key);
        }
        inputs
    }

    /// tailscaled's paths are its unit's own, or follow the agent's directories to where these are set.
    fn place(&mut self, key: Key) {
        let Preset::BySupervisor(unit, base, name) = key.preset() else { return };
        let text = |key| self.get(key).and_then(|input| input.value.as_str());
        let path = match (text(Key::DaemonSupervisor), text(base)) {
            (Some("child"), Some(directory)) => Path::new(directory).join(name).display().to_string(),
            // A base that is no text is a problem of its own; this key then has no value.
            (Some("child"), None) => return,
            _ => unit.to_owned(),
        };
        self.0.entry(key).or_insert_with(|| default(path.into()));
    }

    /// A key's value, with its origin.
    pub fn get(&self, key: Key) -> Option<&Input> {
        self.0.get(&key)
    }

    /// Where a key's value comes from.
    pub fn origin(&self, key: Key) -> Origin {
        self.get(key).map_or(Origin::Default, |input| input.origin.clone())
    }
}

fn default(value: Value) -> Input {
    Input { value, origin: Origin::Default }
}
