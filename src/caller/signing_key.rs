//! A caller's secret access key, and the SigV4 keys derived from it.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;

use crate::settings::callers::Secret;
use crate::sigv4::DerivedKeys;

pub struct SigningKeys {
    secret: Secret,
    derived: DerivedKeys,
}

impl SigningKeys {
    pub fn new(secret: Secret) -> SigningKeys {
        SigningKeys { secret, derived: DerivedKeys::default() }
    }

    /// The signing key of a scope: `date/region/service/aws4_request`.
    pub fn of_scope(&self, scope: &str) -> Arc<hmac::Key> {
        self.derived.of_scope(self.secret.expose(), scope)
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
    fn the_secret_is_masked() {
        let keys = SigningKeys::new(Secret::new("not-to-be-seen-anywhere"));
        keys.of_scope("20260101/us-gov-west-1/bedrock/aws4_request");
        assert!(!format!("{keys:?}").contains("seen"));
    }
}
