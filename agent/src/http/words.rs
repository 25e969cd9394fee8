//! Quoting a server without quoting our own credentials back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::core::reason::printable;
use crate::secret::Secret;

/// The most of a server's own words that is kept, in characters: enough for an error message, too little for a page.
const QUOTE_MAX: usize = 256;

/// A piece of a credential this long is taken for it: servers cut what they echo, and shorter pieces occur in ordinary words.
const PIECE_MIN: usize = 12;

/// The most of a text that is searched, in characters; far more than is kept, so that what is cut off here never shows.
const SEARCH_MAX: usize = 4096;

const MARK: &str = "[redacted]";

/// Takes the credentials that were sent out of what came back.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Vec<Secret<String>>,
}

impl Redactor {
    /// Takes out `secrets`, whole or cut.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret<String>>) -> Self {
        Self { secrets: secrets.into_iter().filter(|secret| !secret.expose().is_empty()).cloned().collect() }
    }

    /// Takes out `user` as well as the form that it has in a Basic `Authorization` header without a password (RFC 7617).
    pub fn basic(user: &Secret<String>) -> Self {
        let header = Secret::new(STANDARD.encode(Zeroizing::new(format!("{}:", user.expose())).as_bytes()));
        Self::new([user, &header])
    }

    /// Quotes a server: redacted, then bounded, control characters escaped. In that order, so that no cut leaves half a credential.
    pub fn quote(&self, text: &str) -> String {
        printable(&self.redact(text), QUOTE_MAX)
    }

    fn redact(&self, text: &str) -> String {
        let mut text: String = text.chars().take(SEARCH_MAX).collect();
        for secret in &self.secrets {
            text = text.replace(secret.expose().as_str(), MARK);
        }
        // What we did not send may be secret too: a key that was made for us, or a URL that logs this machine in.
        crate::tailscaled::redact(&self.redact_pieces(&text))
    }

    /// Replaces every maximal run of credential characters that is part of a secret.
    fn redact_pieces(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(is_token) {
            let (before, from) = rest.split_at(start);
            let (run, after) = from.split_at(from.find(|c| !is_token(c)).unwrap_or(from.len()));
            out.push_str(before);
            out.push_str(if self.holds_piece(run) { MARK } else { run });
            rest = after;
        }
        out.push_str(rest);
        out
    }

    fn holds_piece(&self, run: &str) -> bool {
        self.secrets.iter().any(|secret| {
            // Credential characters are ASCII, so every byte window is a valid slice of the run.
            run.as_bytes().windows(PIECE_MIN).any(|piece| contains(secret.expose().as_bytes(), piece))
        })
    }
}

fn contains(whole: &[u8], piece: &[u8]) -> bool {
    whole.windows(piece.len()).any(|window| window == piece)
}

/// The characters of base64, base64url, JWT and auth keys (RFC 6750 `b64token`).
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~+/=".contains(c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redactor(secret: &str) -> Redactor {
        Redactor::new([&Secret::new(secret.to_owned())])
    }

    #[test]
    fn a_credential_is_taken_out_wherever_it_stands() {
        let quote =
            redactor("eyJhbGciOi.payload.sig").quote("bad jwt \"eyJhbGciOi.payload.sig\", eyJhbGciOi.payload.sig!");
        assert_eq!(quote, "bad jwt \"[redacted]\", [redacted]!");
    }

    #[test]
    fn a_credential_that_the_server_cut_is_taken_out_too() {
        assert_eq!(redactor("abcdefghijklmnopqrstuvwxyz").quote("got ghijklmnopqrstuv... no"), "got [redacted] no");
    }

    #[test]
    fn the_basic_form_of_a_token_is_taken_out() {
        let redactor = Redactor::basic(&Secret::new("tskey-access-0123456789".to_owned()));
        let header = STANDARD.encode("tskey-access-0123456789:");
        assert_eq!(redactor.quote(&format!("Authorization: Basic {header}")), "Authorization: Basic [redacted]");
    }

    #[test]
    fn a_quote_is_bounded_and_harmless_on_a_terminal() {
        let quote = Redactor::default().quote(&format!("\u{1b}[31m{}", "x".repeat(10_000)));
        assert!(quote.starts_with("\\u{1b}[31m"));
        assert!(quote.chars().count() < QUOTE_MAX + 16);
    }

    proptest! {
        #[test]
        fn no_random_credential_survives(before in "\\PC{0,300}", secret in "[A-Za-z0-9._-]{16,600}", after in "\\PC{0,300}") {
            let quote = redactor(&secret).quote(&format!("{before}{secret}{after}"));
            for piece in secret.as_bytes().windows(PIECE_MIN) {
                prop_assert!(!contains(quote.as_bytes(), piece));
            }
        }
    }
}
