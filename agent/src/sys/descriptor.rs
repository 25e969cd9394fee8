//! Descriptors that whoever started this process left open in it, known by their numbers.
#![expect(unsafe_code, reason = "a number is no proof that the descriptor is open, so no safe type stands for it")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

/// The first number that is not standard input, output or error.
pub const FIRST: RawFd = 3;

/// Keeps the descriptor `number` from every program that is executed from now on.
///
/// # Errors
/// When there is no such descriptor.
pub fn keep(number: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD touches no memory of this process, and a number that is not open is an error.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    Ok(())
}

/// A copy of the descriptor `number`, kept from every program that is executed; the number itself stays open.
///
/// # Errors
/// When there is no such descriptor.
pub fn copy(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC touches no memory of this process, and a number that is not open is an error.
    let copy = Errno::result(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, FIRST) })?;
    // SAFETY: the kernel has just opened it for this call, so that nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::*;

    #[test]
    fn a_copy_reads_what_the_number_was_given() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut copy = std::fs::File::from(copy(reader.as_raw_fd()).unwrap());
        writer.write_all(b"given").unwrap();
        drop(writer);
        let mut text = String::new();
        copy.read_to_string(&mut text).unwrap();
        assert_eq!(text, "given");
    }

    #[test]
    fn what_is_kept_is_closed_on_exec() {
        let (reader, _writer) = std::io::pipe().unwrap();
        fcntl(&reader, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        keep(reader.as_raw_fd()).unwrap();
        assert_eq!(fcntl(&reader, FcntlArg::F_GETFD).unwrap(), FdFlag::FD_CLOEXEC.bits());
    }

    #[test]
    fn a_number_that_is_not_open_is_an_error() {
        // No process of these tests may open as many.
        let number = i32::MAX;
        assert!(keep(number).is_err() && copy(number).is_err());
    }
}
