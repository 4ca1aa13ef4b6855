//! Signing keys. To derive one costs four HMACs; it serves for a day, a region and a service, so it is kept as long as the
//! secret that it comes from. AWS-LC wipes it when it is dropped.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_credential_types::Credentials;
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// So many keys of one secret are kept: two days around midnight, for more regions than anybody sends to. More push the
/// oldest out; a caller chooses the scope of a signature, within what `caller::sigv4` accepts.
const KEPT: usize = 32;

/// The signing keys that were derived from one secret, each with its scope: `date/region/service/aws4_request`.
#[derive(Default)]
pub(crate) struct DerivedKeys(Mutex<Vec<(String, Arc<hmac::Key>)>>);

impl DerivedKeys {
    /// The signing key of a scope. `secret` is the same at each call.
    pub(crate) fn of_scope(&self, secret: &str, scope: &str) -> Arc<hmac::Key> {
        // A poisoned cache is still a cache: entries are only ever added whole.
        let mut derived = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, key)) = derived.iter().find(|(known, _)| known == scope) {
            return Arc::clone(key);
        }
        let key = Arc::new(derive(secret, scope));
        if derived.len() >= KEPT {
            derived.remove(0);
        }
        derived.push((scope.to_owned(), Arc::clone(&key)));
        key
    }
}

impl fmt::Debug for DerivedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DerivedKeys(secret)")
    }
}

/// The key of a scope: four HMACs.
fn derive(secret: &str, scope: &str) -> hmac::Key {
    let seed = Zeroizing::new(["AWS4", secret].concat());
    scope.split('/').fold(hmac::Key::new(hmac::HMAC_SHA256, seed.as_bytes()), |key, part| {
        hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref())
    })
}

/// AWS keys to sign with. Other keys, as after a rotation, are other `SigningCredentials`.
pub(crate) struct SigningCredentials {
    keys: Credentials,
    derived: DerivedKeys,
}

impl SigningCredentials {
    pub(crate) fn new(keys: Credentials) -> SigningCredentials {
        SigningCredentials { keys, derived: DerivedKeys::default() }
    }

    pub(crate) fn keys(&self) -> &Credentials {
        &self.keys
    }

    /// The signing key of a scope.
    pub(crate) fn signing_key(&self, scope: &str) -> Arc<hmac::Key> {
        self.derived.of_scope(self.keys.secret_access_key(), scope)
    }
}

impl fmt::Debug for SigningCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningCredentials(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: &str = "20120215/us-east-1/iam/aws4_request";
    const DOCUMENTED: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn credentials(secret: &str) -> SigningCredentials {
        SigningCredentials::new(Credentials::new("AKIDEXAMPLE", secret, None, None, "test"))
    }

    /// What a key signs tells keys apart.
    fn trace(key: &hmac::Key) -> Vec<u8> {
        hmac::sign(key, b"").as_ref().to_vec()
    }

    #[test]
    fn keys_are_derived_as_aws_documents_it() {
        // kSigning of AWS's documentation.
        let documented = "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d";
        let byte = |at| u8::from_str_radix(&documented[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..documented.len()).step_by(2).map(byte).collect();
        let expected = trace(&hmac::Key::new(hmac::HMAC_SHA256, &bytes));
        let keys = DerivedKeys::default();
        for _ in 0..2 {
            assert_eq!(trace(&keys.of_scope(DOCUMENTED, SCOPE)), expected);
        }
    }

    #[test]
    fn a_key_is_derived_once_for_a_day_a_region_and_a_service_of_one_secret() {
        let held = credentials(DOCUMENTED);
        let scopes = [
            SCOPE,
            "20120216/us-east-1/iam/aws4_request",
            "20120215/us-west-2/iam/aws4_request",
            "20120215/us-east-1/bedrock/aws4_request",
        ];
        let keys = scopes.map(|scope| held.signing_key(scope));
        for (at, (key, scope)) in keys.iter().zip(scopes).enumerate() {
            assert!(Arc::ptr_eq(key, &held.signing_key(scope)), "{scope}: kept");
            assert_eq!(trace(key), trace(&derive(DOCUMENTED, scope)), "{scope}: its own");
            assert!(keys[..at].iter().all(|other| trace(other) != trace(key)), "{scope}");
        }
        // A rotation.
        let key = credentials("another secret").signing_key(SCOPE);
        assert_eq!(trace(&key), trace(&derive("another secret", SCOPE)));
        assert_ne!(trace(&key), trace(&keys[0]));
    }

    #[test]
    fn what_is_kept_is_bounded_and_hidden_and_ends_with_its_credentials() {
        let held = credentials("not-to-be-seen");
        let first = held.signing_key(SCOPE);
        for day in 0..100 {
            held.signing_key(&format!("202601{day:02}/us-gov-west-1/bedrock/aws4_request"));
        }
        assert_eq!(held.derived.0.lock().unwrap().len(), KEPT);
        assert_eq!(Arc::strong_count(&first), 1, "pushed out");
        assert!(!format!("{held:?} {:?}", held.derived).contains("seen"));
        let last = Arc::downgrade(&held.signing_key(SCOPE));
        drop(held);
        assert!(last.upgrade().is_none(), "dropped, and with that wiped");
    }
}
