//! Keeping secrets out of core dumps.

use std::io;

use nix::sys::prctl::set_dumpable;

/// Forbids core dumps of this process, and tracing it and reading its memory through `/proc` by others of the same uid (`PR_SET_DUMPABLE`,
/// prctl(2)). Children inherit it; a program that is executed starts without it, so tailscaled is not affected.
///
/// Called before the first credential is fetched. A process for which it is in force cannot write its own uid map.
pub fn forbid() -> io::Result<()> {
    Ok(set_dumpable(false)?)
}

/// Takes [`forbid`] back, for a process that has a uid map to write.
pub fn allow() -> io::Result<()> {
    Ok(set_dumpable(true)?)
}

#[cfg(test)]
mod tests {
    use nix::sys::prctl::get_dumpable;

    use super::*;

    #[test]
    fn the_process_is_dumpable_only_while_that_is_allowed() {
        forbid().expect("prctl");
        assert!(!get_dumpable().expect("prctl"));
        allow().expect("the other tests of this process are as before");
        assert!(get_dumpable().expect("prctl"));
    }
}
