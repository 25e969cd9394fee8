//! Holds `systemd/config.d/10-agent.toml`, the manual of the configuration, to the table of keys.

use super::keys::{Key, Preset, SECTIONS};
use super::{Inputs, Sources, load};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd/config.d/10-agent.toml");

const HEAD: &str = "\
Configuration of devbox-agent, with every key, its default and what it is for.

The agent reads all *.toml files of these directories, sorted by file name; a file in a later directory replaces one of the same name, and an empty one there disables it:

    /usr/lib/devbox-agent/config.d    the package
    /run/devbox-agent/config.d        this boot
    /etc/devbox-agent/config.d        the administrator

A later file wins key by key. Copy what you change into a file of your own such as /etc/devbox-agent/config.d/50-site.toml. Files must belong to root (or to the user who runs the agent) and must not be writable by anyone else. `devbox-agent config check` says what is wrong, `devbox-agent config show` what is in force and where it came from.

Lines that begin with # and a letter are settings with their defaults; lines that begin with # and a space are text.";

/// Wide enough for a terminal of 80 columns.
const WIDTH: usize = 78;

fn comment(text: &str) -> String {
    let mut out = String::new();
    for paragraph in text.split('\n') {
        let mut line = String::from("#");
        // What is indented stands as it is.
        let words: Vec<&str> =
            if paragraph.starts_with(' ') { vec![paragraph] } else { paragraph.split_whitespace().collect() };
        for word in words {
            if line.len() + 1 + word.len() > WIDTH && line != "#" {
                out.push_str(&line);
                out.push('\n');
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn setting(key: Key, inputs: &Inputs) -> (String, &'static str) {
    let name = key.parts().1;
    match (key.preset(), inputs.get(key)) {
        (Preset::Unset(example), _) => (format!("#{name} = {example}\n"), "\nNot set by default; for example:"),
        (_, Some(input)) => (format!("#{name} = {}\n", input.value), ""),
        (preset, None) => panic!("{} has no default: {preset:?}", key.name()),
    }
}

fn expected_reference() -> String {
    let inputs = Inputs::merge([]);
    let mut out = comment(HEAD);
    for (section, about) in SECTIONS {
        out.push_str(&format!("\n{}[{section}]\n", comment(about)));
        for key in Key::of(section) {
            let (line, note) = setting(key, &inputs);
            out.push_str(&format!("\n{}", comment(&format!("{}\nTakes {}.{note}", key.doc(), key.expected()))));
            out.push_str(&line);
        }
    }
    out
}

#[test]
fn the_reference_file_is_what_the_table_says() {
    let expected = expected_reference();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(FILE, &expected).unwrap();
    }
    let written = std::fs::read_to_string(FILE).unwrap();
    for (number, (written, expected)) in written.lines().zip(expected.lines()).enumerate() {
        assert_eq!(written, expected, "{FILE}:{}; UPDATE_REFERENCE=1 writes it anew", number + 1);
    }
    assert_eq!(written, expected, "{FILE} is too short or too long; UPDATE_REFERENCE=1 writes it anew");
}

#[test]
fn every_setting_of_the_reference_is_valid_when_uncommented_and_defaults_change_nothing() {
    let text = std::fs::read_to_string(FILE).unwrap();
    let uncommented = |keep: &dyn Fn(Key) -> bool| {
        let mut section = "";
        let mut out = String::new();
        for line in text.lines() {
            section = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(section);
            let setting = line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic()));
            let key = setting.and_then(|rest| Key::find(&format!("{section}.{}", rest.split_once(" = ")?.0)));
            out.push_str(if key.is_some_and(keep) { setting.unwrap() } else { line });
            out.push('\n');
        }
        load_text(&out)
    };
    assert_eq!(uncommented(&|_| false), uncommented(&|key| !matches!(key.preset(), Preset::Unset(_))));
    // A bearer secret has no place beside the default endpoint, which is plain http.
    let without_bearer = uncommented(&|key| key != Key::MetadataBearer);
    assert!(without_bearer.is_ok(), "{without_bearer:?}");
}

fn load_text(text: &str) -> Result<super::Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("10-agent.toml");
    crate::files::write_atomic(&path, text.as_bytes(), 0o644).unwrap();
    let sources = Sources { dirs: vec![dir.path().into()], overrides: vec![], uid: nix::unistd::geteuid().as_raw() };
    load(&sources).map(|loaded| loaded.settings).map_err(|errors| errors.to_string())
}
