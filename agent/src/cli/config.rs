//! `config show` and `config check`.

use std::io::{self, Write};

use crate::config::{self, ConfigErrors, Sources};

/// Why a `config` verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration has problems: one a line, for stderr.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
    /// Standard output cannot be written.
    #[error("failed to write the configuration")]
    Output(#[from] io::Error),
}

/// Prints the effective value of every key and where it came from, as TOML.
pub fn show(sources: &Sources, out: &mut dyn Write) -> Result<(), Error> {
    let loaded = config::load(sources)?;
    config::show::write(&loaded.origins, out)?;
    out.flush()?;
    Ok(())
}

/// Says nothing when the configuration is right, and everything that is wrong when it is not.
pub fn check(sources: &Sources) -> Result<(), Error> {
    config::load_for_agent(sources)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(overrides: &[&str]) -> Sources {
        Sources { dirs: vec![], overrides: overrides.iter().map(|text| (*text).to_owned()).collect(), uid: 0 }
    }

    #[test]
    fn show_says_where_each_value_comes_from() {
        let mut out = Vec::new();
        show(&sources(&["tailnet.hostname=web"]), &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("hostname = \"web\"  # from the command line\n"), "{out}");
        assert!(out.contains("port = 41641  # default\n"), "{out}");
        assert!(out.contains("# proxy is not set\n"), "{out}");
    }

    #[test]
    fn check_is_silent_about_a_right_configuration_and_exits_78_with_a_wrong_one() {
        assert!(check(&sources(&[])).is_ok());
        let error = check(&sources(&["daemon.port=x", "daemon.prot=1"])).unwrap_err();
        assert_eq!(error.to_string().lines().count(), 2, "{error}");
    }

    #[test]
    fn show_prints_no_half_of_a_wrong_configuration() {
        let mut out = Vec::new();
        assert!(matches!(show(&sources(&["log.level=loud"]), &mut out), Err(Error::Invalid(_))));
        assert!(out.is_empty());
    }

    #[test]
    fn a_full_disk_behind_stdout_is_no_configuration_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = show(&sources(&[]), &mut Full).unwrap_err();
        assert!(matches!(error, Error::Output(_)), "{error:?}");
    }
}
