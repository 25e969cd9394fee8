//! Descriptors that whoever started this process left open in it, known by their numbers.
#![expect(unsafe_code, reason = "a number is no proof that the descriptor is open, so no safe type stands for it")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The first number that is not standard input, output or error.
pub const FIRST: RawFd = 3;

/// What [`close_on_exec`] has marked: from then on it looks like one of our own.
static MARKED: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Withholds the descriptor `number` from every program that is executed from now on.
///
/// What comes through an exec is not closed by one, while everything that this program opens itself is. So a number that is taken, and closed on
/// exec, is something of ours that nobody meant.
///
/// # Errors
/// When nobody left such a descriptor open.
pub fn close_on_exec(number: RawFd) -> io::Result<()> {
    let mut marked = MARKED.lock().unwrap_or_else(PoisonError::into_inner);
    if marked.contains(&number) {
        return Ok(());
    }
    // SAFETY: F_GETFD touches no memory of this process, and a number that is not open is an error.
    let flags = Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(Errno::EBADF.into());
    }
    mark(number)?;
    marked.push(number);
    Ok(())
}

/// Withholds every descriptor but the standard streams from the program that this process becomes (close_range(2)). Where the kernel (before 5.11) or
/// a filter of system calls does not let it, the descriptors are marked one by one: no other thread may open any meanwhile.
///
/// # Errors
/// When they cannot be listed, as without `/proc`.
pub fn close_all_on_exec() -> io::Result<()> {
    // SAFETY: the flag only marks descriptors; none is closed in this process.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, FIRST, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    match Errno::result(marked) {
        Ok(_) => Ok(()),
        Err(Errno::ENOSYS | Errno::EINVAL | Errno::EPERM) => open_ones()?.into_iter().try_for_each(mark_if_open),
        Err(errno) => Err(errno.into()),
    }
}

/// The numbers of this process's descriptors but the standard streams; one is of the folder that was read for it, and closed by now.
fn open_ones() -> io::Result<Vec<RawFd>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let number: Option<RawFd> = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        numbers.extend(number.filter(|number| *number >= FIRST));
    }
    Ok(numbers)
}

fn mark_if_open(number: RawFd) -> io::Result<()> {
    match mark(number) {
        Err(Errno::EBADF) => Ok(()),
        marked => Ok(marked?),
    }
}

fn mark(number: RawFd) -> nix::Result<()> {
    // SAFETY: F_SETFD touches no memory of this process, and a number that is not open is an error.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }).map(drop)
}

/// Whether whoever is at the other end has ended.
pub fn hung_up(descriptor: &impl AsFd) -> io::Result<bool> {
    let mut descriptors = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    poll(&mut descriptors, PollTimeout::ZERO)?;
    Ok(descriptors[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)))
}

/// A copy of the descriptor `number`, withheld from every program that is executed; the number itself stays open.
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
    fn what_was_left_open_is_withheld_and_what_is_our_own_is_refused() {
        let (reader, _writer) = std::io::pipe().unwrap();
        assert!(close_on_exec(reader.as_raw_fd()).is_err(), "std closes on exec what it opens");
        fcntl(&reader, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        for _ in 0..2 {
            close_on_exec(reader.as_raw_fd()).unwrap();
        }
        assert_eq!(fcntl(&reader, FcntlArg::F_GETFD).unwrap(), FdFlag::FD_CLOEXEC.bits());
    }

    #[test]
    fn a_number_that_is_not_open_is_an_error() {
        // No process of these tests may open as many.
        let number = i32::MAX;
        assert!(close_on_exec(number).is_err() && copy(number).is_err());
    }

    #[test]
    fn without_close_range_every_descriptor_is_found_and_marked() {
        let (reader, _writer) = std::io::pipe().unwrap();
        fcntl(&reader, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let found = open_ones().unwrap();
        assert!(found.contains(&reader.as_raw_fd()) && !found.contains(&2), "{found:?}");
        // Those of other tests are left as they are.
        for number in [reader.as_raw_fd(), i32::MAX] {
            mark_if_open(number).unwrap();
        }
        assert_eq!(fcntl(&reader, FcntlArg::F_GETFD).unwrap(), FdFlag::FD_CLOEXEC.bits());
    }
}
