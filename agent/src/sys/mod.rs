//! What the kernel offers and no safe wrapper covers; the only place with `unsafe`.

/// Waiting for a descriptor.
pub mod async_fd;
/// Noticing that the wall clock was set.
pub mod clock_step;
/// Descriptors that were left open for this process.
pub mod descriptor;
/// Keeping secrets out of core dumps.
pub mod dumpable;
/// Handing a descriptor to a child process.
pub mod inherit;
/// A socket that the service manager listens on for us.
pub mod listener;
/// The groups of a peer on a unix socket.
pub mod peer_groups;
/// Signalling a process that cannot be mistaken for another.
pub mod pidfd;
/// Ending zombies as PID 1.
pub mod reaper;
/// Waiting without waking in between.
pub mod timer;
