//! Unguessable names for tokens and token ids.

use std::fmt::Write as _;
use std::io;

/// Returns 32 hexadecimal digits from the kernel's generator: 128 bits, as RFC 9068 asks of a token that cannot be guessed.
pub fn hex() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::from)?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
