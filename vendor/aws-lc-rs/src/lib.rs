//! The API of aws-lc-rs 1.18 as far as rustls and webpki use it, on aws-lc-rs 1.17.
//!
//! aws-lc-rs 1.17 links the FIPS module 3.x, which has a certificate; 1.18 links 4.x, which has none yet. rustls and webpki
//! need 1.18 for the names of ML-DSA alone. This crate adds these names and no algorithm: an ML-DSA key is rejected, and no
//! signature by one verifies. It can go when 4.x has its certificate; docs/fips.md tells the whole story.

pub use validated::*;

/// Signatures, with the names of ML-DSA.
pub mod signature {
    pub use validated::signature::*;

    // The trait of verification algorithms is sealed, so these have to be one that is there. An ML-DSA public key is no
    // Ed25519 key: nothing that is signed by one verifies.
    pub use validated::signature::{ED25519 as ML_DSA_44, ED25519 as ML_DSA_65, ED25519 as ML_DSA_87};

    use validated::error::{KeyRejected, Unspecified};

    /// An ML-DSA parameter set, which no key has.
    #[derive(Debug)]
    pub struct PqdsaSigningAlgorithm(());

    /// See [`PqdsaKeyPair`].
    pub static ML_DSA_44_SIGNING: PqdsaSigningAlgorithm = PqdsaSigningAlgorithm(());
    /// See [`PqdsaKeyPair`].
    pub static ML_DSA_65_SIGNING: PqdsaSigningAlgorithm = PqdsaSigningAlgorithm(());
    /// See [`PqdsaKeyPair`].
    pub static ML_DSA_87_SIGNING: PqdsaSigningAlgorithm = PqdsaSigningAlgorithm(());

    impl PqdsaSigningAlgorithm {
        /// Of no signature.
        pub fn signature_len(&self) -> usize {
            0
        }
    }

    /// An ML-DSA key pair. There is none.
    #[derive(Debug)]
    pub enum PqdsaKeyPair {}

    impl PqdsaKeyPair {
        /// # Errors
        /// Always: the key is rejected.
        pub fn from_pkcs8(_: &'static PqdsaSigningAlgorithm, _: &[u8]) -> Result<PqdsaKeyPair, KeyRejected> {
            Err(KeyRejected::from(()))
        }

        /// Never called: there is no key pair.
        pub fn algorithm(&self) -> &'static PqdsaSigningAlgorithm {
            match *self {}
        }

        /// Never called: there is no key pair.
        ///
        /// # Errors
        /// None.
        pub fn sign(&self, _: &[u8], _: &mut [u8]) -> Result<usize, Unspecified> {
            match *self {}
        }
    }

    impl KeyPair for PqdsaKeyPair {
        type PublicKey = <Ed25519KeyPair as KeyPair>::PublicKey;

        fn public_key(&self) -> &Self::PublicKey {
            match *self {}
        }
    }
}
