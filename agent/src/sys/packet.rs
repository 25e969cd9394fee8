//! Messages between related processes, with descriptors and senders' pids (unix(7), SOCK_SEQPACKET).
#![expect(unsafe_code, reason = "a descriptor that was received is known only by its number")]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixCredentials, recvmsg,
    sendmsg, setsockopt, socketpair,
};

/// The longest message.
const MESSAGE_MAX: usize = 4096;

/// A message that was received.
#[derive(Debug)]
pub struct Packet {
    /// What it says.
    pub bytes: Vec<u8>,
    /// The descriptor that came with it.
    pub descriptor: Option<OwnedFd>,
    /// Who sent it, in this process's numbering; only where it was asked for with [`with_senders`].
    pub sender: Option<i32>,
}

/// Two connected sockets; the end of one side is seen at the other.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Has the kernel say with each message received here who sent it: it translates the pid from one pid namespace to another.
pub fn with_senders(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(&socket.as_fd(), PassCred, &true)?)
}

/// Sends a message, with a descriptor if there is one.
pub fn send(socket: &impl AsFd, bytes: &[u8], descriptor: Option<RawFd>) -> io::Result<()> {
    let descriptors: Vec<RawFd> = descriptor.into_iter().collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)?;
    Ok(())
}

/// Receives a message; `None` when the other side has ended.
pub fn receive(socket: &impl AsFd, flags: MsgFlags) -> io::Result<Option<Packet>> {
    let mut bytes = vec![0; MESSAGE_MAX];
    let mut control = cmsg_space!([RawFd; 1], UnixCredentials);
    let (length, descriptor, sender) = {
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut buffers, Some(&mut control), flags)?;
        let (mut descriptor, mut sender) = (None, None);
        for part in message.cmsgs()? {
            match part {
                // SAFETY: the kernel just gave this process these descriptors, and nothing else knows of them.
                ControlMessageOwned::ScmRights(numbers) => {
                    numbers.into_iter().for_each(|number| descriptor = Some(unsafe { OwnedFd::from_raw_fd(number) }))
                }
                ControlMessageOwned::ScmCredentials(credentials) => sender = Some(credentials.pid()),
                _ => {}
            }
        }
        (message.bytes, descriptor, sender)
    };
    if length == 0 {
        return Ok(None);
    }
    bytes.truncate(length);
    Ok(Some(Packet { bytes, descriptor, sender }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_message_brings_its_descriptor_and_who_sent_it() {
        let (here, there) = pair().expect("sockets");
        with_senders(&here).expect("an option");
        let (mut read, write) = io::pipe().expect("a pipe");
        send(&there, b"hello", Some(write.as_raw_fd())).expect("sent");
        drop(write);
        let packet = receive(&here, MsgFlags::empty()).expect("received").expect("a message");
        assert_eq!(packet.bytes, b"hello");
        assert_eq!(packet.sender, Some(std::process::id() as i32));
        drop(packet.descriptor.expect("a descriptor"));
        assert_eq!(read.read(&mut [0]).expect("the last writer is gone"), 0);
        drop(there);
        assert!(receive(&here, MsgFlags::empty()).expect("received").is_none(), "the other side has ended");
    }
}
