//! Each source of credentials: whether it gives some, and how long what it gives, and what it is given for, still holds.

use std::path::Path;
use std::time::SystemTime;

use super::{bad, good};
use crate::auditor::check::{CheckLine, Verdict};
use crate::cli::words;
use crate::credentials::roles_anywhere::{END_IS_NEAR, certificate_left};
use crate::road::Account;
use crate::settings::SecretLocation;
use crate::settings::tls::{certificates, out_of_date};

/// Reads the source.
pub(super) async fn source(account: &Account) -> Vec<CheckLine> {
    account.credentials.load().await;
    let source = account.settings.source.to_string();
    let now = SystemTime::now();
    let mut lines = vec![match account.credentials.current(now) {
        Ok(credential) => {
            let left = credential.expiry.and_then(|expiry| expiry.duration_since(now).ok());
            let verb = if credential.has() == "have" { "expire" } else { "expires" };
            let end = left.map(|left| format!(", which {verb} in {}", words::time(left.as_secs()))).unwrap_or_default();
            good(&source, &format!("{}{end}", credential.description()))
        }
        Err(refusal) => bad(&source, &refusal.message),
    }];
    if let SecretLocation::RolesAnywhere(known) = &account.settings.source {
        lines.push(certificate(&known.certificate_file, now));
    }
    lines
}

fn certificate(path: &Path, now: SystemTime) -> CheckLine {
    let what = format!("certificate {}", path.display());
    let left = match certificate_left(path, now) {
        Ok(left) => left,
        Err(why) => return CheckLine::new(Verdict::Bad, why),
    };
    let days = format!("{what}: {} days left", left.as_secs() / 86_400);
    match left {
        left if left.is_zero() => bad(&what, "it has expired").remedy("renew it"),
        left if left < END_IS_NEAR => CheckLine::new(Verdict::Advice, days).remedy("renew it"),
        _ => CheckLine::new(Verdict::Good, days),
    }
}

/// What is only odd about the certificate of a source.
pub(super) fn warnings(source: &SecretLocation, now: SystemTime) -> Vec<String> {
    let SecretLocation::RolesAnywhere(known) = source else { return Vec::new() };
    out_of_date(&known.certificate_file, &certificates(&known.certificate_file).unwrap_or_default(), now)
}
