//! System calls of one process answered by another (seccomp_unotify(2); Linux 5.9 for [`Listener::replace`], 5.14 for [`network_of`]).
#![expect(unsafe_code, reason = "the calls have no safe wrapper in the libraries used here")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use super::{descriptor, pidfd};

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Where `struct seccomp_data` has its parts.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

/// asm-generic/socket.h; not in libc.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Calls that are handed over: `number` with every condition true.
#[derive(Debug)]
pub struct Rule {
    /// The system call's number.
    pub number: libc::c_long,
    /// What its arguments must be.
    pub conditions: Vec<Condition>,
}

/// The lower half of an argument is `value`.
#[derive(Debug)]
pub struct Condition {
    /// Which argument, from 0.
    pub argument: u32,
    /// What it must be.
    pub value: u32,
}

/// Has the calls of `rules`, made by this process and what it becomes, answered by whoever holds the listener.
///
/// # Errors
/// Without the capability of an administrator in this user namespace, and where seccomp(2) itself is forbidden.
pub fn hand_over(rules: &[Rule]) -> io::Result<OwnedFd> {
    let mut program = program(rules);
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let prog = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: the program and the structure that points to it outlive the call, which only reads them.
    let number = unsafe { libc::syscall(libc::SYS_seccomp, libc::c_long::from(mode), flags, &prog) };
    let number = Errno::result(number)?;
    // SAFETY: the kernel just returned this descriptor, close-on-exec, to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number as i32) })
}

/// The rules as classic BPF. Calls of another architecture have other numbers, and are let through.
fn program(rules: &[Rule]) -> Vec<libc::sock_filter> {
    let mut program = vec![load(ARCHITECTURE_AT), equals(ARCHITECTURE, 1, 0), done(libc::SECCOMP_RET_ALLOW)];
    for rule in rules {
        program.extend(block(rule));
    }
    program.push(done(libc::SECCOMP_RET_ALLOW));
    program
}

/// Each comparison that fails passes over the rest of the block, to the next rule.
fn block(rule: &Rule) -> Vec<libc::sock_filter> {
    let arguments = rule.conditions.iter().map(|wanted| (ARGUMENTS_AT + 8 * wanted.argument, wanted.value));
    let wanted: Vec<(u32, u32)> = std::iter::once((NUMBER_AT, rule.number as u32)).chain(arguments).collect();
    let mut block = Vec::new();
    for (index, (at, value)) in wanted.iter().enumerate() {
        // Two instructions for each that follows, and the answer.
        let rest = 2 * (wanted.len() - index - 1) + 1;
        block.extend([load(*at), equals(*value, 0, rest as u8)]);
    }
    block.push(done(libc::SECCOMP_RET_USER_NOTIF));
    block
}

fn load(at: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: at }
}

fn equals(value: u32, then: u8, otherwise: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: then, jf: otherwise, k: value }
}

fn done(action: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: action }
}

/// A call that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    id: u64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// Where calls arrive.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl From<OwnedFd> for Listener {
    fn from(listener: OwnedFd) -> Self {
        Self(listener)
    }
}

impl Listener {
    /// Waits for a call; `None` when nobody is left who could make one.
    pub fn receive(&self) -> io::Result<Option<Call>> {
        loop {
            // SAFETY: the structure is plain data, for which zeroes are a value; the kernel asks for them.
            let mut notice: libc::seccomp_notif = unsafe { std::mem::zeroed() };
            // SAFETY: the request writes one seccomp_notif, which lives through the call.
            let answer = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, &mut notice) };
            match Errno::result(answer) {
                Ok(_) => return Ok(Some(Call { id: notice.id, arguments: notice.data.args })),
                Err(Errno::EINTR) => {}
                // The caller was killed or interrupted before its call was taken; POLLHUP tells that from the end of the last caller.
                Err(Errno::ENOENT) if !descriptor::hung_up(&self.0)? => {}
                Err(Errno::ENOENT) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Has the kernel carry the call out as if nobody had been asked.
    pub fn proceed(&self, call: Call) -> io::Result<()> {
        self.answer(call, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32)
    }

    /// Answers 0, or minus the error.
    pub fn answer_with(&self, call: Call, result: Result<(), Errno>) -> io::Result<()> {
        self.answer(call, result.err().map_or(0, |errno| -(errno as i32)), 0)
    }

    fn answer(&self, call: Call, error: i32, flags: u32) -> io::Result<()> {
        let response = libc::seccomp_notif_resp { id: call.id, val: 0, error, flags };
        // SAFETY: the request reads one seccomp_notif_resp, which lives through the call.
        gone(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, &response) })
    }

    /// Puts a descriptor of one's own in the place of the caller's `number`; the call itself still waits for its answer.
    pub fn replace(&self, call: Call, descriptor: &impl AsFd, number: u32) -> io::Result<()> {
        let addition = libc::seccomp_notif_addfd {
            id: call.id,
            flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
            srcfd: descriptor.as_fd().as_raw_fd() as u32,
            newfd: number,
            newfd_flags: libc::O_CLOEXEC as u32,
        };
        // SAFETY: the request reads one seccomp_notif_addfd, which lives through the call.
        gone(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD as _, &addition) })
    }
}

/// A caller that has gone meanwhile needs no answer.
fn gone(answer: libc::c_int) -> io::Result<()> {
    match Errno::result(answer) {
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// A process whose descriptors can be looked at; the right is that of ptrace(2).
#[derive(Debug)]
pub struct Owner(OwnedFd);

impl Owner {
    /// Opens the process `pid` (pidfd_open(2)).
    pub fn open(pid: i32) -> io::Result<Self> {
        Ok(Self(pidfd::open(pid)?))
    }

    /// The process's descriptor `number` (pidfd_getfd(2), Linux 5.6).
    pub fn descriptor(&self, number: u64) -> io::Result<OwnedFd> {
        // SAFETY: pidfd_getfd takes three integers, the first of a descriptor that lives as long as `self`.
        let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.0.as_raw_fd(), number as libc::c_int, 0) };
        let copy = Errno::result(copy)?;
        // SAFETY: the kernel just returned this descriptor to us alone.
        Ok(unsafe { OwnedFd::from_raw_fd(copy as i32) })
    }
}

/// Which network namespace a socket belongs to: a number that no other has (Linux 5.14).
pub fn network_of(socket: &impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    let (descriptor, value) = (socket.as_fd().as_raw_fd(), std::ptr::from_mut(&mut cookie).cast());
    // SAFETY: the kernel writes at most `length` bytes, the size of the number, and both live through the call.
    let answer = unsafe { libc::getsockopt(descriptor, libc::SOL_SOCKET, SO_NETNS_COOKIE, value, &mut length) };
    Errno::result(answer).map(|_| cookie).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers, by an interpreter of the three instructions that it is made of.
    fn run(program: &[libc::sock_filter], number: u32, arguments: [u32; 6]) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let instruction = program[at];
            at += 1;
            match u32::from(instruction.code) & 0x07 {
                libc::BPF_LD => {
                    accumulator = match instruction.k {
                        NUMBER_AT => number,
                        ARCHITECTURE_AT => ARCHITECTURE,
                        at => arguments[((at - ARGUMENTS_AT) / 8) as usize],
                    }
                }
                libc::BPF_JMP => {
                    let jump = if accumulator == instruction.k { instruction.jt } else { instruction.jf };
                    at += usize::from(jump);
                }
                _ => return instruction.k,
            }
        }
    }

    #[test]
    fn a_call_is_handed_over_when_every_condition_is_true_and_let_through_otherwise() {
        let rules = [
            Rule {
                number: 41,
                conditions: vec![Condition { argument: 0, value: 2 }, Condition { argument: 1, value: 10 }],
            },
            Rule { number: 42, conditions: Vec::new() },
        ];
        let program = program(&rules);
        let asks = |number, arguments| run(&program, number, arguments) == libc::SECCOMP_RET_USER_NOTIF;
        assert!(asks(41, [2, 10, 7, 0, 0, 0]), "both conditions");
        assert!(!asks(41, [1, 10, 0, 0, 0, 0]), "the first condition fails");
        assert!(!asks(41, [2, 1, 0, 0, 0, 0]), "the second condition fails");
        assert!(asks(42, [0; 6]), "no condition");
        assert!(!asks(43, [2, 2, 0, 0, 0, 0]), "another call");
    }
}
