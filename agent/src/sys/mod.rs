//! What the kernel offers and no safe wrapper covers; the only place with `unsafe`.

/// Waiting for a descriptor.
pub mod async_fd;
/// What the kernel does with children that end.
pub mod children;
/// Noticing that the wall clock was set.
pub mod clock_step;
/// Descriptors that were left open for this process.
pub mod descriptor;
/// Keeping secrets out of core dumps.
pub mod dumpable;
/// Processes made by fork, also in namespaces of their own.
pub mod fork;
/// Handing a descriptor to a child process.
pub mod inherit;
/// Network interfaces, by ioctl.
pub mod interface;
/// A socket that the service manager listens on for us.
pub mod listener;
/// Mounts moved from one mount namespace to another.
pub mod mount_tree;
/// Messages with descriptors and senders' pids.
pub mod packet;
/// The groups of a peer on a unix socket.
pub mod peer_groups;
/// Signalling a process that cannot be mistaken for another.
pub mod pidfd;
/// Ending zombies as PID 1.
pub mod reaper;
/// System calls of one process answered by another.
pub mod seccomp;
/// Waiting without waking in between.
pub mod timer;
