//! The cryptographic module that this program is linked with, and the TLS provider on it. docs/fips.md tells what goes
//! through the module and what does not.

use std::sync::{Arc, LazyLock};

use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use rustls::SignatureScheme::{ML_DSA_44, ML_DSA_65, ML_DSA_87};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::alg_id;

/// What the AWS SDKs' own connections use.
#[cfg(feature = "fips")]
pub(crate) const SDK_CRYPTO: CryptoMode = CryptoMode::AwsLcFips;
/// What the AWS SDKs' own connections use.
#[cfg(not(feature = "fips"))]
pub(crate) const SDK_CRYPTO: CryptoMode = CryptoMode::AwsLc;

/// A certificate of NIST's CMVP for a statically linked AWS-LC FIPS module.
#[derive(Debug, PartialEq, Eq)]
struct Certificate {
    /// The line of releases, `3` for 3.x.
    module: u32,
    /// The version that was validated. AWS mends later versions of the line; see docs/fips.md.
    validated: &'static str,
    number: u32,
}

/// The table of docs/fips.md.
const CERTIFICATES: &[Certificate] = &[Certificate { module: 3, validated: "3.1.0", number: 5314 }];

/// Whether the linked AWS-LC is a FIPS module and has passed its self-tests.
pub(crate) fn is_fips() -> bool {
    aws_lc_rs::try_fips_mode().is_ok()
}

/// The module by its own account, and its certificate: `AWS-LC FIPS 3.6.0 (certificate #5314, validated at 3.1.0)`.
pub(crate) fn module() -> String {
    describe(is_fips(), aws_lc_rs::awslc_version())
}

fn describe(is_fips: bool, version: &str) -> String {
    if !is_fips {
        return format!("AWS-LC {version} (not the FIPS module)");
    }
    match certificate(version) {
        Some(Certificate { validated, number, .. }) => {
            format!("AWS-LC FIPS {version} (certificate #{number}, validated at {validated})")
        }
        None => format!("AWS-LC FIPS {version} (no certificate known)"),
    }
}

/// The certificate of a module's line, if `version` is none before the validated one.
fn certificate(version: &str) -> Option<&'static Certificate> {
    let parts = |version: &str| version.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>().ok();
    let version = parts(version)?;
    CERTIFICATES.iter().find(|certificate| {
        version.first() == Some(&certificate.module)
            && parts(certificate.validated).is_some_and(|first| version >= first)
    })
}

/// For `--version`.
pub(crate) fn long_version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{}\n{}", env!("CARGO_PKG_VERSION"), module()));
    &TEXT
}

/// A build with the FIPS module must run in FIPS mode.
///
/// # Errors
/// A sentence for the admin.
pub(crate) fn check() -> Result<(), String> {
    require(is_fips(), "AWS-LC")?;
    require(provider().fips(), "the TLS library")
}

/// In a build with the FIPS module, refuses `what` unless it is in FIPS mode.
///
/// # Errors
/// A sentence for the admin.
pub(crate) fn require(is_fips: bool, what: &str) -> Result<(), String> {
    promised(cfg!(feature = "fips"), is_fips, what)
}

fn promised(fips_build: bool, is_fips: bool, what: &str) -> Result<(), String> {
    if is_fips || !fips_build {
        return Ok(());
    }
    Err(format!("this is a FIPS build and {what} is not in FIPS mode, so it does not start; install the package anew"))
}

/// What TLS is made of on both sides. In a build with the FIPS module these are approved suites and groups alone.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.signature_verification_algorithms = without_ml_dsa(provider.signature_verification_algorithms);
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}

/// The linked AWS-LC has no ML-DSA: a server must not be told otherwise, or it may sign with it.
fn without_ml_dsa(offered: WebPkiSupportedAlgorithms) -> WebPkiSupportedAlgorithms {
    let ids = [alg_id::ML_DSA_44, alg_id::ML_DSA_65, alg_id::ML_DSA_87];
    let all = offered.all.iter().copied().filter(|algorithm| !ids.contains(&algorithm.public_key_alg_id()));
    let is_there = |scheme| !matches!(scheme, ML_DSA_44 | ML_DSA_65 | ML_DSA_87);
    let mapping = offered.mapping.iter().copied().filter(|(scheme, _)| is_there(*scheme));
    WebPkiSupportedAlgorithms { all: all.collect::<Vec<_>>().leak(), mapping: mapping.collect::<Vec<_>>().leak() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of docs/fips.md: module, version that was validated, certificate.
    fn documented() -> Vec<Certificate> {
        let rows = include_str!("../docs/fips.md").lines().filter(|line| line.contains("/certificate/"));
        let row = |line: &'static str| {
            let cells: Vec<&str> = line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
            let [module, validated, number] = cells[..3] else { panic!("{line}") };
            let digits = |text: &str| text.chars().skip_while(|c| !c.is_ascii_digit()).collect::<String>();
            Certificate {
                module: digits(module).trim_end_matches(".x").parse().unwrap(),
                validated,
                number: digits(number).split(']').next().unwrap().parse().unwrap(),
            }
        };
        rows.map(row).collect()
    }

    #[test]
    fn the_certificates_are_those_of_the_manual() {
        assert_eq!(documented(), CERTIFICATES);
    }

    #[test]
    fn the_linked_module_is_named_by_its_own_account() {
        assert_eq!(is_fips(), cfg!(feature = "fips"));
        let version = aws_lc_rs::awslc_version();
        if cfg!(feature = "fips") {
            let certificate = certificate(version).unwrap();
            assert_eq!(aws_lc_rs::fips_version(), Some(certificate.module));
            assert!(documented().contains(certificate));
            assert!(module().starts_with(&format!("AWS-LC FIPS {version} (certificate #")), "{}", module());
        } else {
            assert_eq!(module(), format!("AWS-LC {version} (not the FIPS module)"));
        }
        assert!(long_version().starts_with(env!("CARGO_PKG_VERSION")) && long_version().ends_with(&module()));
    }

    #[test]
    fn a_certificate_covers_its_line_from_the_validated_version_on() {
        for (version, number) in [
            ("3.1.0", Some(5314)),
            ("3.10.2", Some(5314)),
            ("3.0.9", None),
            ("4.0.0", None),
            ("2.0.17", None),
            ("", None),
        ] {
            assert_eq!(certificate(version).map(|certificate| certificate.number), number, "{version}");
        }
        assert_eq!(describe(true, "4.0.0"), "AWS-LC FIPS 4.0.0 (no certificate known)");
    }

    #[test]
    fn a_fips_build_that_is_not_in_fips_mode_says_so() {
        assert_eq!(promised(false, false, "x"), Ok(()));
        assert_eq!(promised(true, true, "x"), Ok(()));
        let refused = promised(true, false, "the TLS library").unwrap_err();
        assert!(refused.starts_with("this is a FIPS build and the TLS library is not in FIPS mode"), "{refused}");
        assert_eq!(check(), Ok(()));
    }

    #[test]
    fn nothing_is_offered_that_the_module_lacks() {
        let provider = provider();
        let groups: Vec<_> = provider.kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups.first(), Some(&rustls::NamedGroup::X25519MLKEM768));
        assert_eq!(groups.contains(&rustls::NamedGroup::X25519), !cfg!(feature = "fips"));
        let schemes = provider.signature_verification_algorithms.supported_schemes();
        assert!(!schemes.is_empty() && !schemes.iter().any(|scheme| format!("{scheme:?}").starts_with("ML_DSA")));
        assert_eq!(provider.signature_verification_algorithms.all.len(), 19);
        let suites = provider.cipher_suites.iter().map(|suite| format!("{:?}", suite.suite()));
        assert_eq!(suites.filter(|suite| suite.contains("CHACHA20")).count(), if is_fips() { 0 } else { 3 });
    }

    #[test]
    fn keys_and_signatures_of_ml_dsa_are_rejected() {
        use aws_lc_rs::signature::{ML_DSA_65, ML_DSA_65_SIGNING, PqdsaKeyPair, UnparsedPublicKey};
        assert!(PqdsaKeyPair::from_pkcs8(&ML_DSA_65_SIGNING, &[0; 64]).is_err());
        // The sizes of ML-DSA-65.
        assert!(UnparsedPublicKey::new(&ML_DSA_65, [1; 1952]).verify(b"message", &[1; 3309]).is_err());
    }
}
