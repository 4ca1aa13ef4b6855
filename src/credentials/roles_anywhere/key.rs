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
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};

    use super::*;

    /// Wrapped into lines, as openssl writes it.
    fn pem(label: &str, der: &[u8]) -> String {
        let text = STANDARD.encode(der);
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    }

    /// What stands within PKCS#8, behind a head of so many bytes.
    fn within(key: &KeyPair, head: usize) -> Vec<u8> {
        let der = key.serialize_der();
        assert_eq!(der[head], 0x30, "a sequence begins there");
        der[head..].to_vec()
    }

    #[test]
    fn keys_of_every_form_sign() {
        let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let curve = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        // openssl writes the curve's name before the key.
        let named = pem("EC PARAMETERS", &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]);
        for (form, text) in [
            ("PKCS#8, RSA", rsa.serialize_pem()),
            ("PKCS#1", pem("RSA PRIVATE KEY", &within(&rsa, 26))),
            ("PKCS#8, P-256", curve.serialize_pem()),
            ("SEC1", named + &pem("EC PRIVATE KEY", &within(&curve, 29))),
        ] {
            let key = PrivateKey::of_pem(&text).unwrap_or_else(|why| panic!("{form}: {why}"));
            let signature = key.sign(b"message").unwrap();
            let verified = match key {
                PrivateKey::Rsa(_) => {
                    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public()).verify(b"message", &signature)
                }
                PrivateKey::Ecdsa(_) => {
                    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public()).verify(b"message", &signature)
                }
            };
            assert!(verified.is_ok(), "{form}");
            assert_eq!(format!("{key:?}"), format!("PrivateKey({:?})", key.algorithm()));
        }
    }

    #[test]
    fn what_cannot_sign_is_told() {
        let refused = |pem: &str| PrivateKey::of_pem(pem).unwrap_err();
        assert_eq!(refused(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem()), P384);
        assert_eq!(refused(&KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_pem()), UNUSABLE);
        assert_eq!(refused(&pem("ENCRYPTED PRIVATE KEY", &[0; 99])), ENCRYPTED);
        assert_eq!(refused("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"), ENCRYPTED);
        assert_eq!(refused(""), "it holds no private key in PEM (PKCS#8, PKCS#1 or SEC1)");
        assert_eq!(refused(&pem("CERTIFICATE", &[0; 9])), refused(""));
        assert_eq!(refused("-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----"), "its PEM is damaged");
        assert_eq!(refused(&pem("PRIVATE KEY", &[0; 9])), UNUSABLE);
    }
}
