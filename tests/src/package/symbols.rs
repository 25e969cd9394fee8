//! What a binary asks of the system's libraries, read from its symbol versions.

use std::fmt;

use anyhow::Context;
use object::Endianness;
use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn, FileHeader, SectionTable};

/// A version of glibc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number; always 2.
    pub major: u16,
    /// The second, which counts releases.
    pub minor: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

/// What a binary is linked with.
#[derive(Debug, PartialEq, Eq)]
pub struct Linkage {
    /// The libraries it is linked with.
    pub libraries: Vec<String>,
    /// The newest version of glibc's symbols among those it uses.
    pub glibc: Version,
}

type Header = FileHeader64<Endianness>;

impl Linkage {
    /// Reads an ELF file of 64 bits.
    ///
    /// # Errors
    /// When it is none, or has a version of glibc that is no number, such as `GLIBC_PRIVATE`.
    pub fn of(bytes: &[u8]) -> anyhow::Result<Self> {
        let header = Header::parse(bytes).context("failed to read it as an ELF file")?;
        let endian = header.endian()?;
        let sections = header.sections(endian, bytes)?;
        let libraries =
            libraries(&sections, endian, bytes).context("failed to read the libraries it is linked with")?;
        let names = version_names(&sections, endian, bytes).context("failed to read the versions of its symbols")?;
        let versions = names.iter().filter_map(|name| name.strip_prefix("GLIBC_").map(|version| (name, version)));
        let versions = versions
            .map(|(name, text)| parse(text).with_context(|| format!("failed to read the symbol version {name}")))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let glibc = versions.into_iter().max().context("failed to find a symbol of glibc")?;
        Ok(Self { libraries, glibc })
    }
}

/// Whether a library is one of glibc's own.
pub fn is_glibc(library: &str) -> bool {
    let name = library.split_once(".so").map_or(library, |(name, _)| name);
    matches!(name, "libc" | "libm" | "libpthread" | "libdl" | "librt" | "libresolv" | "libutil")
        || name.starts_with("ld-linux")
}

fn libraries(sections: &SectionTable<'_, Header>, endian: Endianness, bytes: &[u8]) -> object::Result<Vec<String>> {
    let Some((entries, link)) = sections.dynamic(endian, bytes)? else {
        return Ok(Vec::new());
    };
    let strings = sections.strings(endian, bytes, link)?;
    let needed = entries.iter().filter(|entry| entry.tag(endian) == DT_NEEDED);
    needed.map(|entry| entry.string(endian, strings).map(text)).collect()
}

fn version_names(sections: &SectionTable<'_, Header>, endian: Endianness, bytes: &[u8]) -> object::Result<Vec<String>> {
    let Some((mut needs, link)) = sections.gnu_verneed(endian, bytes)? else {
        return Ok(Vec::new());
    };
    let strings = sections.strings(endian, bytes, link)?;
    let mut names = Vec::new();
    while let Some((_, mut versions)) = needs.next()? {
        while let Some(version) = versions.next()? {
            names.push(text(version.name(endian, strings)?));
        }
    }
    Ok(names)
}

/// `2.31` or `2.2.5`; what was third stopped counting with 2.3.
fn parse(text: &str) -> Option<Version> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some(Version { major: numbers.next()??, minor: numbers.next()?? })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let version = |text| parse(text).expect("a version");
        assert!(version("2.4") < version("2.31") && version("2.2.5") < version("2.4"));
        assert_eq!(parse("PRIVATE"), None);
        assert_eq!(parse("2"), None);
    }

    #[test]
    fn a_program_asks_for_the_libraries_and_the_glibc_that_it_was_linked_with() {
        let own = std::fs::read(std::env::current_exe().expect("a test has a binary")).expect("it can be read");
        let linkage = Linkage::of(&own).expect("it is an ELF file");
        assert!(linkage.libraries.iter().any(|library| library == "libc.so.6"), "{linkage:?}");
        // std asks for 2.17 at least.
        assert!(linkage.glibc >= Version { major: 2, minor: 17 }, "{linkage:?}");
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert!(Linkage::of(b"#!/bin/sh\n").is_err());
    }

    #[test]
    fn only_the_libraries_that_come_with_glibc_are_its_own() {
        assert!(["libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"].iter().all(|library| is_glibc(library)));
        assert!(!["libgcc_s.so.1", "libssl.so.3", "libcrypt.so.1"].iter().any(|library| is_glibc(library)));
    }
}
