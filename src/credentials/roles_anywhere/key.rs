//! The private key of a certificate. It is read for one signature and wiped after it.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA256_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair, RSA_PKCS1_SHA256,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// A key that signs with SHA-256. AWS-LC wipes its memory when it is dropped.
pub(super) enum PrivateKey {
    Rsa(rsa::KeyPair),
    Ecdsa(EcdsaKeyPair),
}

/// Where a key stands in a PEM file, by its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Pkcs8,
    /// PKCS#1, which is RSA's alone.
    Pkcs1,
    /// SEC1, which is that of elliptic curves alone.
    Sec1,
}

const FORMS: [(&str, Form); 3] =
    [("PRIVATE KEY", Form::Pkcs8), ("RSA PRIVATE KEY", Form::Pkcs1), ("EC PRIVATE KEY", Form::Sec1)];

const ENCRYPTED: &str = "it is encrypted, and the daemon has no passphrase; store it decrypted, readable for the daemon's user only (openssl pkey -in OLD -out NEW)";
const UNUSABLE: &str =
    "its key is none that IAM Roles Anywhere knows; use an RSA key of 2048 bits or more, or one on the curve P-256";
const P384: &str = "its key is on the curve P-384, with which the daemon's cryptographic module makes no signatures over SHA-256; use an RSA key or one on the curve P-256";

impl PrivateKey {
    /// The first key of a PEM file's text.
    ///
    /// # Errors
    /// Half a sentence; it quotes nothing of the text.
    pub(super) fn of_pem(text: &str) -> Result<PrivateKey, &'static str> {
        if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(ENCRYPTED);
        }
        let (form, der) = first_key(text)?;
        let rsa = match form {
            Form::Pkcs8 => rsa::KeyPair::from_pkcs8(&der).ok(),
            Form::Pkcs1 => rsa::KeyPair::from_der(&der).ok(),
            Form::Sec1 => None,
        };
        if let Some(key) = rsa {
            return Ok(PrivateKey::Rsa(key));
        }
        let on_curve = |curve: &'static EcdsaSigningAlgorithm| match form {
            Form::Pkcs8 => EcdsaKeyPair::from_pkcs8(curve, &der).ok(),
            Form::Sec1 => EcdsaKeyPair::from_private_key_der(curve, &der).ok(),
            Form::Pkcs1 => None,
        };
        let key = on_curve(&ECDSA_P256_SHA256_ASN1_SIGNING).or_else(|| on_curve(&ECDSA_P521_SHA256_ASN1_SIGNING));
        match key {
            Some(key) => Ok(PrivateKey::Ecdsa(key)),
            None if on_curve(&ECDSA_P384_SHA384_ASN1_SIGNING).is_some() => Err(P384),
            None => Err(UNUSABLE),
        }
    }

    /// The name of the signatures that it makes, in a request.
    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            PrivateKey::Rsa(_) => "AWS4-X509-RSA-SHA256",
            PrivateKey::Ecdsa(_) => "AWS4-X509-ECDSA-SHA256",
        }
    }

    /// The public key, as a certificate holds it.
    pub(super) fn public(&self) -> &[u8] {
        match self {
            PrivateKey::Rsa(key) => key.public_key().as_ref(),
            PrivateKey::Ecdsa(key) => key.public_key().as_ref(),
        }
    }

    /// PKCS#1 v1.5 by RSA, or ASN.1 by ECDSA.
    ///
    /// # Errors
    /// The module has not made a signature.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        let random = SystemRandom::new();
        let signed = match self {
            PrivateKey::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map(|()| signature)
            }
            PrivateKey::Ecdsa(key) => key.sign(&random, message).map(|signature| signature.as_ref().to_vec()),
        };
        signed.map_err(|_| "the cryptographic module has made no signature".to_owned())
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PrivateKey").field(&self.algorithm()).finish()
    }
}

/// Decoded here, so that nothing of the key stays behind: readers of PEM do not wipe what they read it through.
fn first_key(text: &str) -> Result<(Form, Zeroizing<Vec<u8>>), &'static str> {
    let sections = text.split("-----BEGIN ").skip(1).filter_map(|section| section.split_once("-----"));
    let mut keys = sections.filter_map(|(label, rest)| {
        let (_, form) = FORMS.iter().find(|(known, _)| *known == label)?;
        Some((*form, rest.split_once("-----END ")?.0))
    });
    let (form, body) = keys.next().ok_or("it holds no private key in PEM (PKCS#8, PKCS#1 or SEC1)")?;
    let mut line = Zeroizing::new(String::with_capacity(body.len()));
    line.extend(body.split_ascii_whitespace());
    let mut der = Zeroizing::new(vec![0; line.len()]);
    let length = STANDARD.decode_slice(line.as_bytes(), &mut der).map_err(|_| "its PEM is damaged")?;
    der.truncate(length);
    Ok((form, der))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    fn openssl(words: &str) -> String {
        let output = Command::new("openssl").args(words.split(' ')).output().unwrap();
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// As openssl writes them, each in both of its forms.
    fn keys() -> Vec<(&'static str, String)> {
        vec![
            ("RSA PRIVATE KEY", openssl("genrsa -traditional 2048")),
            ("PRIVATE KEY", openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048")),
            ("EC PRIVATE KEY", openssl("ecparam -name prime256v1 -genkey")),
            ("PRIVATE KEY", openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256")),
        ]
    }

    #[test]
    fn keys_of_every_form_sign() {
        for (label, pem) in keys() {
            assert!(pem.contains(&format!("-----BEGIN {label}-----")), "{label}");
            let key = PrivateKey::of_pem(&pem).unwrap();
            let signature = key.sign(b"message").unwrap();
            let verified = match key {
                PrivateKey::Rsa(_) => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public())
                    .verify(b"message", &signature),
                PrivateKey::Ecdsa(_) => {
                    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public()).verify(b"message", &signature)
                }
            };
            assert!(verified.is_ok(), "{label}");
            assert_eq!(format!("{key:?}"), format!("PrivateKey({:?})", key.algorithm()));
        }
    }

    #[test]
    fn what_cannot_sign_is_told() {
        let refused = |pem: &str| PrivateKey::of_pem(pem).unwrap_err();
        assert_eq!(refused(&openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384")), P384);
        assert_eq!(refused(&openssl("ecparam -name secp384r1 -genkey")), P384);
        assert_eq!(refused(&openssl("genpkey -algorithm ed25519")), UNUSABLE);
        assert_eq!(refused(&openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes256 -pass pass:x")), ENCRYPTED);
        assert_eq!(refused(""), "it holds no private key in PEM (PKCS#8, PKCS#1 or SEC1)");
        assert_eq!(refused("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"), refused(""));
        assert_eq!(refused("-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----"), "its PEM is damaged");
        assert_eq!(refused("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"), UNUSABLE);
    }
}
