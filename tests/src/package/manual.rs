//! The manual: a page for each verb from the command line's definition, and one of the configuration from its table of keys.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use devbox_agent::cli::Cli;
use devbox_agent::cli::exit::ExitCode;
use devbox_agent::config::keys::{Key, Preset, SECTIONS};
use devbox_agent::config::{DIRECTORIES, Inputs};
use flate2::Compression;
use flate2::write::GzEncoder;

const NAME: &str = "devbox-agent";
const CONFIGURATION: &str = "devbox-agent.toml";
const MANUAL: &str = "devbox-agent";

/// Writes all pages, named `PAGE.SECTION.gz`: compressed as Debian wants them, because cargo-deb takes what it finds beside the binary as it is.
pub fn write(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(&command, NAME, &mut pages)?;
    pages.push((format!("{CONFIGURATION}.5"), configuration()?));
    for (name, page) in pages {
        let file = folder.join(format!("{name}.gz"));
        compress(&page, &file).with_context(|| format!("failed to write {}", file.display()))?;
    }
    Ok(())
}

fn compress(page: &[u8], file: &Path) -> io::Result<()> {
    let mut out = GzEncoder::new(File::create(file)?, Compression::best());
    out.write_all(page)?;
    out.finish().map(|_| ())
}

/// The pages of a command and of the verbs below it, but for hidden ones.
fn collect(command: &Command, name: &str, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    pages.push((format!("{name}.1"), verb(command.clone(), name)?));
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        collect(below, &format!("{name}-{}", below.get_name()), pages)?;
    }
    Ok(())
}

fn verb(command: Command, name: &str) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command).source(source()).manual(MANUAL).render(&mut page)?;
    let mut end = Roff::new();
    end.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in exit_codes(name) {
        item(&mut end, vec![bold(code)], meaning);
    }
    let others: &[_] = if name == NAME { &[(CONFIGURATION, 5)] } else { &[(NAME, 1), (CONFIGURATION, 5)] };
    also(&mut end, others);
    write!(page, "{}", end.to_roff())?;
    Ok(page)
}

/// What a verb ends with. `exec` has its command's codes, and those that a shell and timeout(1) have for a command.
fn exit_codes(name: &str) -> Vec<(String, &'static str)> {
    let own = ExitCode::ALL.iter().map(|code| (code.number().to_string(), code.meaning()));
    if name != "devbox-agent-exec" {
        return own.collect();
    }
    let commands = [
        ("124", "--timeout ended the command."),
        ("125", "exec itself failed; stderr says why."),
        ("126", "The command cannot be executed."),
        ("127", "There is no such command."),
        ("128+N", "Signal N killed the command."),
        ("any other", "The command's own."),
    ];
    let usage = own.filter(|(number, _)| *number == ExitCode::Usage.number().to_string());
    usage.chain(commands.map(|(code, meaning)| (code.to_owned(), meaning))).collect()
}

fn configuration() -> io::Result<Vec<u8>> {
    let inputs = Inputs::merge([]);
    let mut page = Roff::new();
    page.control("TH", [CONFIGURATION, "5", "", source().as_str(), MANUAL]);
    page.control("SH", ["NAME"]);
    page.text([roman(format!("{CONFIGURATION} - configuration of {NAME}"))]);
    page.control("SH", ["SYNOPSIS"]);
    for directory in DIRECTORIES {
        page.text([italic(format!("{directory}/*.toml"))]);
        page.control("br", []);
    }
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "TOML files, read in the order of their names; a later one wins key by key. A file in a later directory replaces one of the same name, \
         and an empty one there disables it. Files must belong to root and must not be writable by anyone else. \
         `devbox-agent config check` says what is wrong, `devbox-agent config show` what is in force and where it came from.",
    )]);
    for (section, about) in SECTIONS {
        page.control("SH", [format!("[{section}]").as_str()]);
        page.text([roman(*about)]);
        for key in Key::of(section) {
            let (name, value) = (key.parts().1, default(key, &inputs));
            item(&mut page, vec![bold(name), roman(value)], &format!("{}\nTakes {}.", key.doc(), key.expected()));
        }
    }
    also(&mut page, &[(NAME, 1), ("devbox-agent-config", 1)]);
    Ok(page.to_roff().into_bytes())
}

/// What every page says it comes from.
fn source() -> String {
    format!("{NAME} {}", env!("CARGO_PKG_VERSION"))
}

/// What stands behind a key's name: its default, or that it has none.
fn default(key: Key, inputs: &Inputs) -> String {
    match (key.preset(), inputs.get(key)) {
        (Preset::Unset(example), _) => format!(" (not set; for example {example})"),
        (_, Some(input)) => format!(" = {}", input.value),
        (_, None) => String::new(),
    }
}

fn item(page: &mut Roff, head: Vec<clap_mangen::roff::Inline>, text: &str) {
    page.control("TP", []);
    page.text(head);
    for (index, paragraph) in text.lines().enumerate() {
        if index > 0 {
            page.control("br", []);
        }
        page.text([roman(paragraph)]);
    }
}

fn also(page: &mut Roff, pages: &[(&str, u8)]) {
    page.control("SH", ["SEE ALSO"]);
    for (index, (name, section)) in pages.iter().enumerate() {
        let comma = if index + 1 < pages.len() { "," } else { "" };
        page.text([bold(*name), roman(format!("({section}){comma}"))]);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn pages() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(folder.path()).expect("written");
        folder
    }

    fn read(folder: &tempfile::TempDir, name: &str) -> String {
        // What roff would take for an option, a hyphen, is escaped.
        let file = File::open(folder.path().join(format!("{name}.gz"))).expect("a page");
        let mut text = String::new();
        GzDecoder::new(file).read_to_string(&mut text).expect("compressed text");
        text.replace("\\-", "-")
    }

    #[test]
    fn every_verb_that_is_not_hidden_has_a_page_with_its_options() {
        let folder = pages();
        assert!(read(&folder, "devbox-agent.1").contains("wait-online"));
        assert!(read(&folder, "devbox-agent-wait-online.1").contains("--timeout"));
        assert!(read(&folder, "devbox-agent-config-show.1").contains("effective value"));
        assert!(!folder.path().join("devbox-agent-helper.1.gz").exists());
    }

    #[test]
    fn every_page_says_what_the_exit_codes_mean() {
        let page = read(&pages(), "devbox-agent-status.1");
        let (_, status) = page.split_once("EXIT STATUS").expect("a section of its own");
        assert!(status.contains("69") && status.contains("cannot be reached"), "{status}");
    }

    #[test]
    fn exec_has_the_codes_of_its_command() {
        let page = read(&pages(), "devbox-agent-exec.1");
        let (_, status) = page.split_once("EXIT STATUS").expect("a section of its own");
        assert!(status.contains("128+N") && !status.contains("tailscaled cannot be reached"), "{status}");
    }

    #[test]
    fn every_key_stands_in_the_manual_with_its_default() {
        let page = read(&pages(), "devbox-agent.toml.5");
        for key in Key::ALL {
            assert!(page.contains(key.parts().1), "{}", key.name());
        }
        assert!(page.contains("= \"http://169.254.169.254\""));
    }
}
