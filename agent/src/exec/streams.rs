//! The caller's standard streams, in processes that are not the command.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::unistd::{dup2_stdin, dup2_stdout};

/// Gives standard input and output back: whoever reads the command's output sees its end when the command ends, and whoever writes to it too.
pub(super) fn give_back() -> io::Result<()> {
    let null = null()?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(())
}

/// `/dev/null`, to read and to write.
pub(super) fn null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}
