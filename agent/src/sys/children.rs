//! What the kernel does with children that end (signal(7), SIGCHLD).
#![expect(
    unsafe_code,
    reason = "what happens at a signal is changed for the whole process, and a handler could do anything"
)]

use std::io;

use nix::sys::signal::{SigHandler, Signal, signal};

/// Has ended children kept until they are waited for; says whether the caller of this process had them forgotten.
///
/// That is inherited, and whoever waits for children then waits in vain.
pub fn keep() -> io::Result<bool> {
    // SAFETY: no handler is set.
    let before = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(matches!(before, SigHandler::SigIgn))
}

/// Has ended children forgotten.
pub fn forget() -> io::Result<()> {
    // SAFETY: no handler is set.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
    Ok(())
}
