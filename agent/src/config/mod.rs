//! Configuration in three stages: fragment (what a file may say), inputs (merged), settings (valid and typed).

pub mod fragment;
pub mod inputs;
pub mod keys;
pub mod problem;
mod resolve;
mod scan;
pub mod settings;
pub mod show;
#[cfg(test)]
pub(crate) mod testing;
pub mod values;

use std::path::PathBuf;

pub use self::inputs::Inputs;
use self::keys::Key;
pub use self::problem::{ConfigErrors, Origin, Problem};
use self::settings::ProviderSettings;
pub use self::settings::Settings;

/// Where an installed agent's drop-ins are: the package's, the running system's, the administrator's.
pub const DIRECTORIES: [&str; 3] =
    ["/usr/lib/devbox-agent/config.d", "/run/devbox-agent/config.d", "/etc/devbox-agent/config.d"];

/// Where configuration comes from; everything that [`load`] depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// The drop-in directories; a file of a later one replaces one of the same name.
    pub dirs: Vec<PathBuf>,
    /// The arguments of `--set`, in order; they win over files.
    pub overrides: Vec<String>,
    /// The effective uid. Files must belong to root or to it: with the child supervisor the agent can do no more than their owner.
    pub uid: u32,
}

impl Sources {
    /// An installed agent's, for this effective uid.
    pub fn installed(overrides: Vec<String>, uid: u32) -> Self {
        Self { dirs: DIRECTORIES.map(PathBuf::from).to_vec(), overrides, uid }
    }
}

/// Configuration that has no problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What the agent runs with.
    pub settings: Settings,
    /// The same before typing: each key's value and where it came from.
    pub origins: Inputs,
}

/// Reads, merges and checks the configuration; what is wrong is said all at once.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigErrors> {
    let mut problems = Vec::new();
    let files = scan::drop_ins(&sources.dirs, &mut problems);
    let owners = [0, sources.uid];
    let mut layers: Vec<_> = files.iter().map(|file| scan::read(file, &owners, &mut problems)).collect();
    layers.extend(sources.overrides.iter().map(|argument| fragment::parse_override(argument, &mut problems)));
    let origins = Inputs::merge(layers);
    match resolve::resolve(&origins, &mut problems) {
        Some(settings) if problems.is_empty() => Ok(Loaded { settings, origins }),
        _ => Err(ConfigErrors(problems)),
    }
}

impl Sources {
    /// The same without what is on disk: the defaults, and what the command line says over them.
    pub fn without_files(&self) -> Self {
        Self { dirs: Vec::new(), ..self.clone() }
    }
}

/// The same as [`load`] for the agent itself, which cannot be the agent that it asks.
pub fn load_for_agent(sources: &Sources) -> Result<Loaded, ConfigErrors> {
    let loaded = load(sources)?;
    if !matches!(loaded.settings.metadata.provider, ProviderSettings::Agent { .. }) {
        return Ok(loaded);
    }
    let key = Key::MetadataProvider;
    let conflict = "the agent cannot ask itself; \"agent\" is for devbox-agent exec --provider".to_owned();
    Err(ConfigErrors(vec![Problem::Conflict { origin: loaded.origins.origin(key), key, conflict }]))
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// The control server as preferences and records spell it: without a trailing slash, which tailscaled would keep (federation trap `//api`).
pub fn control_url(settings: &Settings) -> String {
    settings.tailnet.control_url.as_str().trim_end_matches('/').to_owned()
}
