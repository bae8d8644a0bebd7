//! The arithmetic of TLS that is spoken here, and no more: X25519, ed25519, and the ciphers of TLS 1.3. What rustls offers by
//! default brings other curves and their tables into every device: 190 kB of its compressed image.

use rustix::rand::{GetRandomFlags, getrandom};
use tokio_rustls::rustls::{
    Error, SignatureScheme,
    crypto::{
        CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, WebPkiSupportedAlgorithms,
        ring::{cipher_suite::*, kx_group},
    },
    pki_types::PrivateKeyDer,
    sign::SigningKey,
};

/// What signatures are checked with.
pub(super) static SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::ring::ED25519],
    mapping: &[(SignatureScheme::ED25519, &[webpki::ring::ED25519])],
};

pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_256_GCM_SHA384,
            TLS13_AES_128_GCM_SHA256,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519],
        signature_verification_algorithms: SIGNATURES,
        secure_random: &Kernel,
        key_provider: &Kernel,
    }
}

/// Random numbers are the kernel's; keys are handed over ready, so that none is ever read from a file here.
#[derive(Debug)]
struct Kernel;

impl SecureRandom for Kernel {
    fn fill(&self, mut octets: &mut [u8]) -> Result<(), GetRandomFailed> {
        while !octets.is_empty() {
            match getrandom(&mut *octets, GetRandomFlags::empty()) {
                Ok(count) => octets = &mut octets[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Err(GetRandomFailed),
            }
        }
        Ok(())
    }
}

impl KeyProvider for Kernel {
    fn load_private_key(
        &self,
        _key: PrivateKeyDer<'static>,
    ) -> Result<std::sync::Arc<dyn SigningKey>, Error> {
        Err(Error::General("keys are not loaded here".to_owned()))
    }
}
