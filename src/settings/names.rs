//! Names that AWS gives, or accepts: regions, tables, secrets.

use toml::Spanned;

use crate::config::{ConfigError, Endpoint, Source};
use crate::partition::Partition;

/// The spelling of an AWS region, such as `us-east-1`.
pub(crate) fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.len() >= 3
        && parts
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
        && parts.last().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
}

/// A region that serves Bedrock, in the commercial partition or in GovCloud. `written` is what is said of its partition.
pub(super) fn upstream_region(
    region: &Spanned<String>,
    written: Option<&Spanned<Partition>>,
    source: &Source,
) -> Result<String, ConfigError> {
    let name = region.get_ref();
    if !is_region(name) {
        return Err(
            source.error(region.span(), format!("\"{name}\" is not an AWS region; write for example \"us-east-1\"."))
        );
    }
    if name.starts_with("cn-") {
        return Err(source.error(
            region.span(),
            format!(
                "{name} is neither in the commercial partition nor in GovCloud; upstreams are regions such as \"us-east-1\" or \"us-gov-west-1\"."
            ),
        ));
    }
    let partition = Partition::of_region(name);
    match written {
        Some(written) if *written.get_ref() != partition => Err(source.error(
            written.span(),
            format!("{name} is in the partition {partition}; write that, or leave partition out."),
        )),
        _ => Ok(name.clone()),
    }
}

/// A region of any partition.
pub(super) fn any_region(region: &Spanned<String>, source: &Source) -> Result<String, ConfigError> {
    let name = region.get_ref();
    if is_region(name) {
        return Ok(name.clone());
    }
    Err(source.error(region.span(), format!("\"{name}\" is not an AWS region; write for example \"us-gov-west-1\".")))
}

/// A host of AWS's own serves one region, and takes only what is signed for it. Other hosts tell nothing by their names.
pub(super) fn serves(endpoint: &Spanned<Endpoint>, region: &str, source: &Source) -> Result<(), ConfigError> {
    // The final dot of a whole name changes no host.
    let host = endpoint.get_ref().host.trim_end_matches('.').to_ascii_lowercase();
    if !host.ends_with(".amazonaws.com") && !host.ends_with(".api.aws") {
        return Ok(());
    }
    match host.split('.').find(|label| is_region(label)) {
        Some(other) if partition_of(other) != partition_of(region) => Err(source.error(
            endpoint.span(),
            format!("{host} is not in {}, whose key it must never see; name a host of {region}.", place_of(region)),
        )),
        Some(other) if other != region => Err(source.error(
            endpoint.span(),
            format!("{host} serves {other}, and refuses what is signed for {region}; name a host of {region}, or change region."),
        )),
        _ => Ok(()),
    }
}

/// A DynamoDB table, by name or ARN.
pub(super) fn table(table: &Spanned<String>, region: &str, source: &Source) -> Result<String, ConfigError> {
    let name = table.get_ref();
    let of_name = match arn(name, "dynamodb") {
        Some((there, _)) if there != region => return Err(elsewhere(table, "the table", there, region, source)),
        Some((_, resource)) => resource.strip_prefix("table/").unwrap_or_default(),
        None => name,
    };
    let fits = (3..=255).contains(&of_name.len())
        && of_name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if fits {
        return Ok(name.clone());
    }
    Err(source.error(
        table.span(),
        format!("\"{name}\" is not a DynamoDB table; names have 3 to 255 letters, digits or any of \"._-\"."),
    ))
}

/// A secret of Secrets Manager, by name or ARN, and its region: an ARN says where the secret is.
pub(super) fn secret(
    id: &Spanned<String>,
    region: Option<&Spanned<String>>,
    source: &Source,
) -> Result<(String, String), ConfigError> {
    let name = id.get_ref();
    let written = region.map(|region| any_region(region, source)).transpose()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/_+=.@-".contains(&b);
    let (of_name, region) = match (arn(name, "secretsmanager"), written) {
        (Some((there, _)), Some(written)) if there != written => {
            return Err(elsewhere(id, "the secret", there, &written, source));
        }
        (Some((there, resource)), _) => (resource.strip_prefix("secret:").unwrap_or_default(), there.to_owned()),
        (None, written) => (name.as_str(), written.unwrap_or_else(|| "us-gov-west-1".to_owned())),
    };
    if of_name.is_empty() || of_name.len() > 512 || !of_name.bytes().all(plain) {
        let sentence = format!(
            "\"{name}\" is not a secret of Secrets Manager; names have 1 to 512 letters, digits or any of \"/_+=.@-\"."
        );
        return Err(source.error(id.span(), sentence));
    }
    Ok((name.clone(), region))
}

/// Whether two ids of a region name one secret: by its name, or by an ARN, which ends in six characters of AWS's own or leaves
/// them out.
pub(super) fn is_same_secret(one: &str, two: &str) -> bool {
    let parts = |id: &str| {
        let of_arn =
            arn(id, "secretsmanager").map(|(_, resource)| resource.strip_prefix("secret:").unwrap_or(resource));
        let account = of_arn.and_then(|_| id.split(':').nth(4)).map(str::to_owned);
        (of_arn.unwrap_or(id).to_owned(), account)
    };
    let ((one, of_one), (two, of_two)) = (parts(one), parts(two));
    let is_with_suffix = |long: &str, short: &str| {
        let suffix = long.strip_prefix(short).and_then(|rest| rest.strip_prefix('-'));
        suffix.is_some_and(|suffix| suffix.len() == 6 && suffix.bytes().all(|b| b.is_ascii_alphanumeric()))
    };
    let is_one_account = of_one.is_none() || of_two.is_none() || of_one == of_two;
    // Only an ARN has the characters that AWS adds.
    let is_one_name = one == two
        || (of_one.is_some() && is_with_suffix(&one, &two))
        || (of_two.is_some() && is_with_suffix(&two, &one));
    is_one_account && is_one_name
}

/// Of any partition, also of one that no upstream can be in.
fn partition_of(region: &str) -> &'static str {
    if region.starts_with("cn-") { "aws-cn" } else { Partition::of_region(region).as_str() }
}

fn place_of(region: &str) -> &'static str {
    match Partition::of_region(region) {
        Partition::Commercial => "the commercial partition",
        Partition::Govcloud => "GovCloud",
    }
}

/// Region and resource of an ARN of a service.
fn arn<'a>(text: &'a str, service: &str) -> Option<(&'a str, &'a str)> {
    let mut parts = text.splitn(6, ':');
    (parts.next()? == "arn").then_some(())?;
    let _partition = parts.next()?;
    (parts.next()? == service).then_some(())?;
    let region = parts.next().filter(|region| is_region(region))?;
    let _account = parts.next()?;
    Some((region, parts.next()?))
}

fn elsewhere(name: &Spanned<String>, what: &str, there: &str, region: &str, source: &Source) -> ConfigError {
    source
        .error(name.span(), format!("{what} is in {there} by its ARN, but region is \"{region}\"; make them the same."))
}
