//! The signature of a CreateSession: SigV4's canonical request, signed by the key of the certificate that comes with it.

use rustls::SignatureScheme;
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::auth::{Presented, check_date, check_signed_headers, check_time, header, invalid_signature};
use crate::reply::AwsError;
use crate::sigv4::{Parts, Scope, canonical_request, sha256_hex};

/// The serial number of the certificate, in decimal digits, if its key has signed this request.
pub(super) fn verify(
    request: &Presented<'_>,
    certificate: &CertificateDer<'_>,
    region: &str,
    now: i64,
) -> Result<String, AwsError> {
    let authorization = header(request.headers, "authorization").unwrap_or_default();
    let (algorithm, rest) = authorization.split_once(' ').unwrap_or_default();
    let scheme = match algorithm {
        "AWS4-X509-RSA-SHA256" => SignatureScheme::RSA_PKCS1_SHA256,
        "AWS4-X509-ECDSA-SHA256" => SignatureScheme::ECDSA_NISTP256_SHA256,
        _ => return Err(invalid_signature(format!("'{algorithm}' is no algorithm of IAM Roles Anywhere"))),
    };
    let fields: Vec<(&str, &str)> = rest.split(", ").filter_map(|field| field.split_once('=')).collect();
    let [("Credential", credential), ("SignedHeaders", signed), ("Signature", presented)] = fields[..] else {
        return Err(AwsError::new(
            403,
            "IncompleteSignatureException",
            "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature'.",
        ));
    };
    let (id, scope) = Scope::parse(credential).ok_or_else(|| invalid_signature("Credential has 5 elements"))?;
    if scope.service != "rolesanywhere" || scope.region != region {
        return Err(invalid_signature(format!(
            "Credential should be scoped to rolesanywhere in {region}, not '{}'",
            scope.text()
        )));
    }
    let time = header(request.headers, "x-amz-date").unwrap_or_default();
    check_date(&scope, time)?;
    let signed: Vec<&str> = signed.split(';').collect();
    check_signed_headers(&signed, request.headers)?;
    check_time(now, time)?;

    let untrusted = |_| AwsError::new(403, "AccessDeniedException", "Untrusted signing certificate");
    let end_entity = EndEntityCert::try_from(certificate).map_err(untrusted)?;
    let serial = decimal(end_entity.serial());
    if id != serial {
        return Err(invalid_signature(format!(
            "Credential names the serial number {id}, and the certificate has {serial}"
        )));
    }
    let payload_hash = sha256_hex(request.body);
    let parts = Parts {
        method: request.method,
        raw_path: request.raw_path,
        raw_query: request.raw_query,
        headers: request.headers,
        payload_hash: &payload_hash,
    };
    let canonical = canonical_request(&parts, &signed);
    let to_sign = format!("{algorithm}\n{time}\n{}\n{}", scope.text(), sha256_hex(canonical.as_bytes()));
    let wrong = || invalid_signature("The request signature does not match the certificate's key.");
    let signature = bytes(presented).ok_or_else(wrong)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let known = provider.signature_verification_algorithms.mapping.iter().find(|(known, _)| *known == scheme);
    let fits = known
        .into_iter()
        .flat_map(|(_, algorithms)| algorithms.iter())
        .any(|algorithm| end_entity.verify_signature(*algorithm, to_sign.as_bytes(), &signature).is_ok());
    if fits { Ok(serial) } else { Err(wrong()) }
}

/// Lower-case hexadecimal digits.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}

/// A positive number of any length, big end first.
fn decimal(number: &[u8]) -> String {
    let mut digits = vec![0_u32];
    for byte in number {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            let value = *digit * 256 + carry;
            *digit = value % 10;
            carry = value / 10;
        }
        while carry > 0 {
            digits.push(carry % 10);
            carry /= 10;
        }
    }
    digits.iter().rev().filter_map(|digit| char::from_digit(*digit, 10)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_of_any_length_are_told_in_decimal_digits() {
        for (bytes, expected) in [
            (&[0][..], "0"),
            (&[0, 255], "255"),
            (&[1, 0, 0, 0, 0, 0, 0, 0, 0], "18446744073709551616"),
            // That of the certificate in AWS's user guide: 1f:71:c5:11:4a:11:9f:c0:cc:5a:5a:52:fb:37:20:ad.
            (
                &[0x1f, 0x71, 0xc5, 0x11, 0x4a, 0x11, 0x9f, 0xc0, 0xcc, 0x5a, 0x5a, 0x52, 0xfb, 0x37, 0x20, 0xad],
                "41796794418840706582093025104159514797",
            ),
        ] {
            assert_eq!(decimal(bytes), expected);
        }
    }

    #[test]
    fn signatures_are_lower_case_hexadecimal() {
        assert_eq!(bytes("00ff1a"), Some(vec![0, 255, 26]));
        for wrong in ["0", "FF", "0x", "g0"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
