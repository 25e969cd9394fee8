//! `config show`: the effective configuration as TOML.

use std::io::{self, Write};

use super::inputs::Inputs;
use super::keys::{Key, SECTIONS};
use super::problem::Origin;
use crate::core::reason::printable;

/// The longest path shown; Linux's `PATH_MAX`.
const PATH_SHOWN: usize = 4096;

/// Writes every key with its value and its origin, as TOML that means the same when it is read again.
pub fn write(inputs: &Inputs, out: &mut dyn Write) -> io::Result<()> {
    for (index, (section, _)) in SECTIONS.iter().enumerate() {
        let gap = if index == 0 { "" } else { "\n" };
        writeln!(out, "{gap}[{section}]")?;
        for key in Key::of(section) {
            writeln!(out, "{}", line(inputs, key))?;
        }
    }
    Ok(())
}

fn line(inputs: &Inputs, key: Key) -> String {
    let name = key.parts().1;
    inputs.get(key).map_or_else(
        || format!("# {name} is not set"),
        |input| format!("{name} = {}  # {}", input.value, from(&input.origin)),
    )
}

/// Without the line, which changes with every edit; a newline in a file's name must not end the comment.
fn from(origin: &Origin) -> String {
    match origin {
        Origin::File { path, .. } => format!("from {}", printable(&path.display().to_string(), PATH_SHOWN)),
        Origin::CommandLine => "from the command line".into(),
        Origin::Default => "default".into(),
    }
}
