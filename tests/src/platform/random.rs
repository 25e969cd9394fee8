//! Unguessable names for tokens and token ids.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};

/// Returns 32 hexadecimal digits from the kernel's generator: 128 bits, as RFC 9068 asks of a token that cannot be guessed.
pub fn hex() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
