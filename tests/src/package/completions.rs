//! What shells complete of the command line.

use std::fs;
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::{Shell, generate_to};
use devbox_agent::cli::Cli;

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Writes a file for each shell, named as the shell wants it.
pub fn write(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    for shell in SHELLS {
        generate_to(shell, &mut Cli::command(), "devbox-agent", folder)
            .with_context(|| format!("failed to write what {shell} completes"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_completes_the_verbs() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(folder.path()).expect("written");
        for name in ["devbox-agent.bash", "_devbox-agent", "devbox-agent.fish"] {
            let text = fs::read_to_string(folder.path().join(name)).expect("a file for the shell");
            assert!(text.contains("wait-online") && text.contains("status"), "{name}");
        }
    }
}
