//! The last lines that a program of the sandbox wrote.

use std::io::PipeReader;
use std::time::Duration;

use tokio::net::unix::pipe;

use crate::exec::control::{Ended, Part};
use crate::exec::failure::Failure;
use crate::tailscaled::child::tail::{Tail, told};

/// What an ended program wrote is in the pipe already; that the sandbox has it open too keeps the end of it away.
const REST: Duration = Duration::from_millis(10);

/// The failure that the end of a part is, with its last words: tailscaled's output is the first, and the second is that of the others.
pub(super) async fn lost(outputs: &mut [Lines; 2], part: Part, ended: Ended) -> Failure {
    let said = outputs[usize::from(part != Part::Tailscaled)].told().await;
    Failure::lost(part, ended, said)
}

/// The reading end of a program's output, and the end of what it wrote.
pub(super) struct Lines {
    tail: Tail,
    pipe: pipe::Receiver,
}

impl Lines {
    pub fn of(pipe: PipeReader) -> Result<Self, Failure> {
        let pipe = pipe::Receiver::from_owned_fd(pipe.into());
        Ok(Self { tail: Tail::default(), pipe: pipe.map_err(Failure::own("read what the sandbox's programs say"))? })
    }

    /// Takes in what is written; returns when nobody can write any more.
    pub async fn follow(&mut self) {
        self.tail.follow(&mut self.pipe).await;
    }

    /// What was written last, as part of a sentence.
    pub async fn told(&mut self) -> String {
        let _ = tokio::time::timeout(REST, self.follow()).await;
        told(&std::mem::take(&mut self.tail).into_lines())
    }
}
