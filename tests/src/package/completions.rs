//! What shells complete of the command line.

use std::fs;
use std::io;
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
        let file = generate_to(shell, &mut Cli::command(), "devbox-agent", folder)
            .with_context(|| format!("failed to write what {shell} completes"))?;
        if shell == Shell::Bash {
            mend(&file).with_context(|| format!("failed to mend {}", file.display()))?;
        }
    }
    Ok(())
}

/// clap_complete 4.6 takes the hyphen of a program's name for the space before a verb in one of two places, so that no verb's options would be
/// completed.
fn mend(file: &Path) -> io::Result<()> {
    let text = fs::read_to_string(file)?;
    fs::write(file, text.replace("devbox__subcmd__agent", "devbox__agent"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn bash_completes_the_options_of_a_verb() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(folder.path()).expect("written");
        let script = "source $0/devbox-agent.bash; COMP_WORDS=(devbox-agent exec --ta); COMP_CWORD=2; \
            _devbox__agent devbox-agent --ta exec; echo ${COMPREPLY[*]}";
        let output = Command::new("bash").args(["-c", script]).arg(folder.path()).output().expect("bash runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim(), "--tag --tailnet-only", "{}", String::from_utf8_lossy(&output.stderr));
    }

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
