//! The lab's certificate authority, and the certificates that the API server shows: good ones, and bad ones on purpose.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// What kind of certificate the server shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// Signed by the lab's CA, valid, for the server's address and `localhost`.
    Good,
    /// As good, but it ended in 2001.
    Expired,
    /// As good, but for another host.
    WrongHost,
    /// For the right host, but signed by nobody who is trusted.
    SelfSigned,
}

/// A certificate with its private key, both PEM.
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key (PKCS #8).
    pub key: String,
}

/// A certificate authority that lives as long as the platform.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Generates an authority.
    ///
    /// # Errors
    /// When no key can be generated.
    pub fn generate() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "devbox lab CA");
        let key = KeyPair::generate().context("failed to generate the key of the lab's CA")?;
        let issuer = CertifiedIssuer::self_signed(params, key).context("failed to sign the lab's CA")?;
        Ok(Self { issuer })
    }

    /// Returns the authority's own certificate as PEM: what clients must trust.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Makes a certificate for a server at an address.
    ///
    /// # Errors
    /// When no key can be generated.
    pub fn identity(&self, address: IpAddr, kind: Certificate) -> Result<Identity> {
        let key = KeyPair::generate().context("failed to generate a server's key")?;
        let names = match kind {
            Certificate::WrongHost => vec!["elsewhere.invalid".to_owned()],
            _ => vec![address.to_string(), "localhost".to_owned()],
        };
        let mut params = CertificateParams::new(names).context("failed to name a server's certificate")?;
        params.distinguished_name.push(DnType::CommonName, "devbox lab API");
        if kind == Certificate::Expired {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        let signed = match kind {
            Certificate::SelfSigned => params.self_signed(&key),
            _ => params.signed_by(&key, &self.issuer),
        };
        let certificate = signed.context("failed to sign a server's certificate")?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}
