//! `source = "roles_anywhere"`: a certificate of this host in place of a key.

use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;

use super::names::{any_region, serves};
use crate::config::{self, ConfigError, Endpoint, Source};
use crate::partition::Partition;

/// The SDKs' variable for the service's endpoint.
const ENDPOINT_VARIABLE: &str = "AWS_ENDPOINT_URL_ROLESANYWHERE";

/// Those of the table that it takes.
pub(super) const KEYS: [&str; 7] =
    ["region", "trust_anchor_arn", "profile_arn", "role_arn", "certificate_file", "private_key_file", "endpoint"];

/// Regions in which IAM Roles Anywhere has FIPS hosts, outside GovCloud (AWS's list of its endpoints).
const FIPS_REGIONS: [&str; 4] = ["us-east-1", "us-east-2", "us-west-1", "us-west-2"];

/// Whose certificate is exchanged for keys of which role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RolesAnywhere {
    pub trust_anchor_arn: String,
    pub profile_arn: String,
    pub role_arn: String,
    /// PEM: the host's certificate, and behind it those between it and the trust anchor.
    pub certificate_file: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub private_key_file: PathBuf,
    pub region: String,
    pub endpoint: Endpoint,
}

impl RolesAnywhere {
    /// The account of the role, whose keys the daemon gets.
    pub(crate) fn account(&self) -> &str {
        self.role_arn.split(':').nth(4).unwrap_or_default()
    }
}

/// `span` and `place` are those of the table.
pub(super) fn roles_anywhere(
    written: &config::Credentials,
    span: &Range<usize>,
    place: &str,
    source: &Source,
) -> Result<RolesAnywhere, ConfigError> {
    let missing = |key: &str| {
        source.error(span.clone(), format!("source = \"roles_anywhere\" needs {key} beside it in {place}."))
    };
    let of_service = |key: &str, written: &Option<Spanned<String>>, kind: &str| {
        let arn = written.as_ref().ok_or_else(|| missing(key))?;
        let region = region_of(arn.get_ref(), "rolesanywhere", kind).filter(|region| super::is_region(region));
        let region = region.ok_or_else(|| {
            let example = format!("arn:aws:rolesanywhere:us-east-1:123456789012:{kind}/…");
            source.error(arn.span(), format!("{key} is not the ARN of a {kind}; write it as {example}."))
        })?;
        Ok((arn.get_ref().clone(), Spanned::new(arn.span(), region.to_owned())))
    };
    let (trust_anchor_arn, of_anchor) = of_service("trust_anchor_arn", &written.trust_anchor_arn, "trust-anchor")?;
    let (profile_arn, of_profile) = of_service("profile_arn", &written.profile_arn, "profile")?;
    let region = any_region(written.region.as_ref().unwrap_or(&of_anchor), source)?;
    if Partition::of_region(&region) == Partition::Govcloud {
        let sentence = format!(
            "{region} is in GovCloud; the trust anchor has to be in the commercial partition, whose keys are wanted."
        );
        return Err(source.error(of_anchor.span(), sentence));
    }
    for (key, there) in [("trust_anchor_arn", &of_anchor), ("profile_arn", &of_profile)] {
        if *there.get_ref() != region {
            let sentence = format!(
                "{key} is in {}, but the region is {region}; trust anchor, profile and region have to be the same region's.",
                there.get_ref()
            );
            return Err(source.error(there.span(), sentence));
        }
    }
    let role = written.role_arn.as_ref().ok_or_else(|| missing("role_arn"))?;
    if region_of(role.get_ref(), "iam", "role") != Some("") {
        let sentence = "role_arn is not the ARN of a role; write it as arn:aws:iam::123456789012:role/….";
        return Err(source.error(role.span(), sentence));
    }
    let file = |key: &str, written: &Option<config::FilePath>| {
        written.as_ref().map(|file| file.0.clone()).ok_or_else(|| missing(key))
    };
    Ok(RolesAnywhere {
        trust_anchor_arn,
        profile_arn,
        role_arn: role.get_ref().clone(),
        certificate_file: file("certificate_file", &written.certificate_file)?,
        private_key_file: file("private_key_file", &written.private_key_file)?,
        endpoint: endpoint(written.endpoint.as_ref(), &region, span, source)?,
        region,
    })
}

/// The key, or else the SDKs' variable, or else AWS's own host.
fn endpoint(
    written: Option<&Spanned<Endpoint>>,
    region: &str,
    span: &Range<usize>,
    source: &Source,
) -> Result<Endpoint, ConfigError> {
    let by_variable = std::env::var(ENDPOINT_VARIABLE).ok().filter(|url| written.is_none() && !url.is_empty());
    let by_variable = by_variable.map(|url| {
        let endpoint = Endpoint::parse(&url)
            .map_err(|why| source.error(span.clone(), format!("{ENDPOINT_VARIABLE} is not an endpoint: {why}.")))?;
        Ok(Spanned::new(span.clone(), endpoint))
    });
    let by_variable = by_variable.transpose()?;
    if let Some(endpoint) = written.or(by_variable.as_ref()) {
        serves(endpoint, region, source)?;
        return Ok(endpoint.get_ref().clone());
    }
    let fips = if FIPS_REGIONS.contains(&region) { "-fips" } else { "" };
    Ok(Endpoint::https(format!("rolesanywhere{fips}.{region}.amazonaws.com")))
}

/// The region in an ARN of the commercial partition, which is empty for roles; none if it is of another form.
fn region_of<'a>(arn: &'a str, service: &str, kind: &str) -> Option<&'a str> {
    let ["arn", "aws", of, region, account, resource] = arn.splitn(6, ':').collect::<Vec<_>>()[..] else { return None };
    let is_account = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    let name = resource.strip_prefix(kind)?.strip_prefix('/')?;
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_+=.@,-".contains(&b));
    (of == service && is_account && is_name).then_some(region)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Source;
    use crate::settings::{SecretLocation, Settings};

    const ANCHOR: &str = "arn:aws:rolesanywhere:us-east-1:123456789012:trust-anchor/a-1";
    const PROFILE: &str = "arn:aws:rolesanywhere:us-east-1:123456789012:profile/p-1";
    const ROLE: &str = "arn:aws:iam::123456789012:role/path/hosts";

    fn table(anchor: &str, profile: &str, role: &str, more: &str) -> String {
        format!(
            "[credentials]\nsource = \"roles_anywhere\"\ntrust_anchor_arn = \"{anchor}\"\nprofile_arn = \"{profile}\"\nrole_arn = \"{role}\"\n\
             certificate_file = \"/etc/host.pem\"\nprivate_key_file = \"/etc/host.key\"\n{more}\n"
        )
    }

    fn load(text: &str) -> Result<Settings, String> {
        Settings::from_source(&Source::new(Path::new("c"), text.to_owned())).map_err(|error| error.to_string())
    }

    #[test]
    fn the_host_is_a_fips_host_where_there_is_one() {
        for (region, host) in [
            ("us-east-1", "https://rolesanywhere-fips.us-east-1.amazonaws.com"),
            ("us-west-1", "https://rolesanywhere-fips.us-west-1.amazonaws.com"),
            ("ca-central-1", "https://rolesanywhere.ca-central-1.amazonaws.com"),
        ] {
            let there = |arn: &str| arn.replace("us-east-1", region);
            let settings = load(&table(&there(ANCHOR), &there(PROFILE), ROLE, "")).unwrap();
            let SecretLocation::RolesAnywhere(known) = &settings.credentials.source else { panic!("{settings:?}") };
            assert_eq!((known.region.as_str(), known.endpoint.to_string().as_str()), (region, host));
            assert_eq!(known.account(), "123456789012");
        }
        let settings = load(&table(ANCHOR, PROFILE, ROLE, "endpoint = \"https://localhost:1\"")).unwrap();
        let SecretLocation::RolesAnywhere(known) = &settings.credentials.source else { panic!("{settings:?}") };
        assert_eq!(known.endpoint.to_string(), "https://localhost:1");
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_place() {
        let elsewhere = PROFILE.replace("us-east-1", "us-west-2");
        let govcloud = |arn: &str| arn.replace("arn:aws:", "arn:aws-us-gov:").replace("us-east-1", "us-gov-west-1");
        let missing = "[credentials]\nsource = \"roles_anywhere\"";
        for (text, expected) in [
            (
                missing.to_owned(),
                "c:1:1: source = \"roles_anywhere\" needs trust_anchor_arn beside it in [credentials].",
            ),
            (
                table(PROFILE, PROFILE, ROLE, ""),
                "c:3:20: trust_anchor_arn is not the ARN of a trust-anchor; write it as arn:aws:rolesanywhere:us-east-1:123456789012:trust-anchor/….",
            ),
            (
                table(&govcloud(ANCHOR), PROFILE, ROLE, ""),
                "c:3:20: trust_anchor_arn is not the ARN of a trust-anchor; write it as arn:aws:rolesanywhere:us-east-1:123456789012:trust-anchor/….",
            ),
            (
                table(ANCHOR, &elsewhere, ROLE, ""),
                "c:4:15: profile_arn is in us-west-2, but the region is us-east-1; trust anchor, profile and region have to be the same region's.",
            ),
            (
                table(ANCHOR, PROFILE, ROLE, "region = \"us-west-2\""),
                "c:3:20: trust_anchor_arn is in us-east-1, but the region is us-west-2; trust anchor, profile and region have to be the same region's.",
            ),
            (
                table(ANCHOR, PROFILE, "arn:aws:iam::1:role/x", ""),
                "c:5:12: role_arn is not the ARN of a role; write it as arn:aws:iam::123456789012:role/….",
            ),
            (
                table(ANCHOR, PROFILE, ROLE, "endpoint = \"https://rolesanywhere.us-gov-west-1.amazonaws.com\""),
                "c:8:12: rolesanywhere.us-gov-west-1.amazonaws.com is not in the commercial partition, whose key it must never see; name a host of us-east-1.",
            ),
            (
                table(ANCHOR, PROFILE, ROLE, "file = \"/x\""),
                "c:1:1: file has no meaning with source = \"roles_anywhere\"; remove it from [credentials].",
            ),
            (
                "[credentials]\nsource = \"environment\"\nrole_arn = \"x\"".to_owned(),
                "c:1:1: role_arn has no meaning with source = \"environment\"; remove it from [credentials].",
            ),
        ] {
            assert_eq!(load(&text).map(|_| ()).unwrap_err(), expected, "{text}");
        }
    }
}
