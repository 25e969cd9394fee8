//! Credentials as a type that cannot be printed.

use std::sync::Arc;

use zeroize::Zeroizing;

/// A credential: a JWT, an access token, an auth key or a session token.
///
/// It implements neither `Debug`, `Display` nor `Serialize`, so it cannot reach a log, an error text or a file by accident, and its
/// memory is wiped when the last clone is dropped.
#[derive(Clone)]
pub struct Secret<T: zeroize::Zeroize>(Arc<Zeroizing<T>>);

impl<T: zeroize::Zeroize> Secret<T> {
    /// Takes ownership of a credential, so that the only copy is the wiped one.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Zeroizing::new(value)))
    }

    /// Lends the credential to the one place that sends it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}
