//! Keeping secrets out of core dumps.

use std::io;

/// Forbids core dumps of this process and reading its memory through `/proc` by others of the same uid (`PR_SET_DUMPABLE`, prctl(2)).
///
/// Called before the first credential is fetched. Programs that are executed later start dumpable again, so tailscaled is not affected;
/// writing uid maps is, which is why the process that builds namespaces must not hold credentials.
pub fn forbid() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_no_longer_dumpable() {
        forbid().expect("prctl");
        assert!(!nix::sys::prctl::get_dumpable().expect("prctl"));
        nix::sys::prctl::set_dumpable(true).expect("the other tests of this process are as before");
    }
}
