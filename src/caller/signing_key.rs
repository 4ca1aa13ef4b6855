//! A secret access key and the SigV4 keys derived from it. Derivation costs four HMACs; a key serves for a day, a region
//! and a service, so it is kept.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::hmac;

use crate::settings::callers::Secret;
use crate::sigv4::signing_key;

/// Scopes are chosen by the client, within what `sigv4` accepts: two days and a few regions. More push the oldest out.
const KEPT: usize = 8;

pub struct SigningKeys {
    secret: Secret,
    derived: Mutex<Vec<(String, hmac::Key)>>,
}

impl SigningKeys {
    pub fn new(secret: Secret) -> SigningKeys {
        SigningKeys { secret, derived: Mutex::new(Vec::new()) }
    }

    /// The signing key of a scope: `date/region/service/aws4_request`.
    pub fn of_scope(&self, scope: &str) -> hmac::Key {
        // A poisoned cache is still a cache: entries are only ever added whole.
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, key)) = derived.iter().find(|(known, _)| known == scope) {
            return key.clone();
        }
        let key = signing_key(self.secret.expose(), scope);
        if derived.len() >= KEPT {
            derived.remove(0);
        }
        derived.push((scope.to_owned(), key.clone()));
        key
    }

    /// Whether this is the same secret; used when credentials are refreshed, not on requests.
    pub fn is(&self, secret: &Secret) -> bool {
        use subtle::ConstantTimeEq;
        self.secret.expose().as_bytes().ct_eq(secret.expose().as_bytes()).into()
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKeys(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_derived_as_aws_documents_it() {
        let keys = SigningKeys::new(Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"));
        let signed = hmac::sign(&keys.of_scope("20120215/us-east-1/iam/aws4_request"), b"");
        let again = hmac::sign(&keys.of_scope("20120215/us-east-1/iam/aws4_request"), b"");
        assert_eq!(signed.as_ref(), again.as_ref());
        // kSigning of AWS's documentation, used as a key over the empty text.
        let documented = super::super::sigv4::unhex("f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d");
        let expected = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &documented.unwrap()), b"");
        assert_eq!(signed.as_ref(), expected.as_ref());
    }

    #[test]
    fn the_cache_is_bounded_and_the_secret_masked() {
        let keys = SigningKeys::new(Secret::new("not-to-be-seen-anywhere"));
        for day in 0..100 {
            keys.of_scope(&format!("202601{day:02}/us-gov-west-1/bedrock/aws4_request"));
        }
        assert_eq!(keys.derived.lock().unwrap().len(), KEPT);
        assert!(!format!("{keys:?}").contains("seen"));
    }
}
