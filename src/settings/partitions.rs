//! Which requests may go to which partition: `[policy.partitions]`, and what it takes to keep the partitions apart.

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use toml::Spanned;

use super::callers::{Place, classification_name, place};
use super::{SecretLocation, Upstream, names};
use crate::config::callers::{Commercial, PartitionLevels};
use crate::config::{ConfigError, Source};
use crate::partition::{Partition, Partitions};

/// What `[policy.partitions]` means.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    place: Place,
    /// Where the levels that it names may go.
    levels: HashMap<String, Partitions>,
    /// Where any other level may go, and a request without one.
    others: Partitions,
}

impl Reach {
    pub(super) fn new(
        written: Option<Spanned<PartitionLevels>>,
        order: &[String],
        warnings: &mut Vec<String>,
        source: &Source,
    ) -> Result<Option<Reach>, ConfigError> {
        let Some(written) = written else { return Ok(None) };
        let span = written.span();
        let PartitionLevels { commercial, govcloud } = written.into_inner();
        if commercial.is_none() {
            let sentence = "nothing may go to the commercial partition, because \"aws\" is not named here; write \"aws\" = [] if that is meant.";
            warnings.push(source.error(span.clone(), sentence).to_string());
        }
        // What is in GovCloud may stay there, unless it is said what alone may.
        let others = govcloud.is_none().then_some(Partition::Govcloud);
        let others: Partitions = others.into_iter().collect();
        let mut named = Vec::new();
        for (partition, levels) in [(Partition::Commercial, commercial), (Partition::Govcloud, govcloud)] {
            for level in levels.into_iter().flatten() {
                let (span, level) = (level.span(), classification_name(level, order, source)?);
                if named.contains(&(partition, level.clone())) {
                    let sentence = format!("data classification \"{level}\" is named twice for {partition}.");
                    return Err(source.error(span, sentence));
                }
                named.push((partition, level));
            }
        }
        let mut levels = HashMap::<String, Partitions>::new();
        for (_, level) in &named {
            let of_it = named.iter().filter(|(_, other)| other == level).map(|(partition, _)| *partition);
            let stays = Partition::ALL.into_iter().filter(|partition| others.has(*partition));
            levels.insert(level.clone(), of_it.chain(stays).collect());
        }
        Ok(Some(Reach { place: place(&span, source), levels, others }))
    }

    /// Where requests of a level may go. Without one they may stay in GovCloud, and go further only if their caller's entry
    /// says so.
    pub(crate) fn of(&self, level: Option<&str>, commercial: Option<Commercial>) -> Partitions {
        match level {
            Some(level) => self.levels.get(level).copied().unwrap_or(self.others),
            None if commercial == Some(Commercial::Allow) => Partitions::ALL,
            None => Partitions::only(Partition::Govcloud),
        }
    }

    /// Where it is written.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }
}

/// A key is of one partition: the other one must not be shown it, and has no use for it. `known` are the upstreams before.
pub(super) fn check_apart(
    upstream: &Upstream,
    known: &[Upstream],
    span: Range<usize>,
    source: &Source,
) -> Result<(), ConfigError> {
    let partition = upstream.partition();
    let location = &upstream.credentials.source;
    if partition == Partition::Govcloud && matches!(location, SecretLocation::RolesAnywhere(_)) {
        let sentence = format!(
            "IAM Roles Anywhere gives keys of the commercial partition, which {} must not be shown; write credentials = {{ source = \"host\" }} for it.",
            upstream.region
        );
        return Err(source.error(span, sentence));
    }
    // The chain by which this host's role is found reads this profile first.
    let own_profile = std::env::var("AWS_PROFILE").unwrap_or_else(|_| "default".to_owned());
    for other in known.iter().filter(|other| other.partition() != partition) {
        if let Some(sentence) = shown_to_the_other(upstream, other, &own_profile) {
            return Err(source.error(span, sentence));
        }
    }
    Ok(())
}

/// Why two upstreams in different partitions would be shown the same key; none if they are not.
fn shown_to_the_other(upstream: &Upstream, other: &Upstream, own_profile: &str) -> Option<String> {
    let (one, region) = (&upstream.credentials.source, &upstream.region);
    let (two, elsewhere) = (&other.credentials.source, &other.region);
    if upstream.endpoints.iter().any(|endpoint| other.endpoints.iter().any(|theirs| theirs == endpoint)) {
        return Some(format!(
            "{region} and {elsewhere} have the same endpoint, and the key of one would be shown to the other; give each partition its own."
        ));
    }
    let is_host = |location: &SecretLocation| matches!(location, SecretLocation::Host { .. });
    let is_found_first =
        |location: &SecretLocation| matches!(location, SecretLocation::Profile(name) if name == own_profile);
    if (is_host(one) && is_found_first(two)) || (is_found_first(one) && is_host(two)) {
        return Some(format!(
            "{region} and {elsewhere} would both use the AWS profile {own_profile}, behind which this host's role cannot be found; give the commercial key by a profile of another name."
        ));
    }
    if !is_same_source(one, two) {
        return None;
    }
    let (gov, commercial) = match upstream.partition() {
        Partition::Govcloud => (region, elsewhere),
        Partition::Commercial => (elsewhere, region),
    };
    let what = match one {
        SecretLocation::Environment => "the environment".to_owned(),
        other => other.to_string(),
    };
    Some(format!(
        "{gov} and {commercial} would both use {what}, and no key is good in GovCloud and in the commercial partition; write credentials = {{ source = \"host\" }} for {gov}."
    ))
}

/// Whether two sources are one, also where they are spelled differently.
fn is_same_source(one: &SecretLocation, two: &SecretLocation) -> bool {
    match (one, two) {
        (SecretLocation::File(one), SecretLocation::File(two)) => one == two || is_same_file(one, two),
        (
            SecretLocation::SecretsManager { secret_id: one, region },
            SecretLocation::SecretsManager { secret_id: two, region: elsewhere },
        ) => region == elsewhere && names::is_same_secret(one, two),
        _ => one == two,
    }
}

/// By what stands behind links of any kind. Of a file that is not there nothing can be told.
fn is_same_file(one: &Path, two: &Path) -> bool {
    let place = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    place(one).is_some_and(|place_of_one| place(two) == Some(place_of_one))
}

/// Tells the sources that are this host's own role if they would find the commercial key in the environment.
pub(super) fn note_environment(upstreams: &mut [Upstream]) {
    let is_commercial = |upstream: &Upstream| upstream.partition() == Partition::Commercial;
    let by_environment = |upstream: &Upstream| upstream.credentials.source == SecretLocation::Environment;
    let holds_commercial = upstreams.iter().any(|upstream| is_commercial(upstream) && by_environment(upstream));
    for upstream in upstreams {
        if let SecretLocation::Host { beside_environment, .. } = &mut upstream.credentials.source {
            *beside_environment = holds_commercial;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Plane;
    use crate::settings::Settings;

    fn load(text: &str) -> Result<Settings, String> {
        let source = Source::new(Path::new("c.toml"), text.to_owned());
        Settings::from_source(&source).map_err(|error| error.to_string())
    }

    fn refused(text: &str) -> String {
        load(text).unwrap_err()
    }

    const GOV: &str = "[[upstreams]]\nregion = \"us-gov-west-1\"\ncredentials = { source = \"host\" }\n";
    const BOTH: &str = "[[upstreams]]\nregion = \"us-gov-west-1\"\npartition = \"aws-us-gov\"\ncredentials = { source = \"host\" }\n[[upstreams]]\nregion = \"us-east-1\"\n";

    #[test]
    fn upstreams_are_of_the_partition_of_their_region_and_use_its_fips_hosts() {
        let settings = load(BOTH).unwrap();
        let [gov, commercial] = &settings.upstreams[..] else { panic!("two") };
        assert_eq!((gov.partition(), commercial.partition()), (Partition::Govcloud, Partition::Commercial));
        assert_eq!(gov.endpoint(Plane::Runtime).host, "bedrock-runtime-fips.us-gov-west-1.amazonaws.com");
        assert_eq!(gov.endpoint(Plane::Control).host, "bedrock-fips.us-gov-west-1.amazonaws.com");
        let host = |beside_environment| SecretLocation::Host { region: "us-gov-west-1".to_owned(), beside_environment };
        assert_eq!(gov.credentials.source, host(true), "the commercial key may be in the environment");
        assert_eq!(load(GOV).unwrap().upstreams[0].credentials.source, host(false));
        assert_eq!(commercial.credentials.source, SecretLocation::Environment);
        assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
        let says = "c.toml:3:13: us-gov-west-1 is in the partition aws-us-gov; write that, or leave partition out.";
        assert_eq!(refused("[[upstreams]]\nregion = \"us-gov-west-1\"\npartition = \"aws\""), says);
        let says = refused("[[upstreams]]\nregion = \"us-gov-west-1\"\npartition = \"aws-cn\"");
        assert!(says.contains("aws-us-gov"), "{says}");
    }

    #[test]
    fn nothing_shows_a_key_to_the_other_partition() {
        let says = refused(&BOTH.replace(
            "[[upstreams]]\nregion = \"us-east-1\"",
            "[[upstreams]]\nregion = \"us-east-1\"\ncredentials = { source = \"profile\", profile = \"default\" }",
        ));
        assert!(says.contains("would both use the AWS profile default"), "{says}");
        let says = refused(&GOV.replace(
            "credentials",
            "runtime_endpoint = \"https://bedrock-runtime.us-east-1.amazonaws.com.\"\ncredentials",
        ));
        assert!(says.contains("is not in GovCloud, whose key it must never see"), "{says}");
        let one = "runtime_endpoint = \"https://bedrock.internal\"\n";
        let says = refused(&format!("{GOV}{one}[[upstreams]]\nregion = \"us-east-1\"\n{one}"));
        assert!(says.contains("have the same endpoint"), "{says}");
        let other_plane = one.replace("runtime", "control");
        let says = refused(&format!("{GOV}{one}[[upstreams]]\nregion = \"us-east-1\"\n{other_plane}"));
        assert!(says.contains("have the same endpoint"), "{says}");
        let anywhere = "credentials = { source = \"roles_anywhere\", trust_anchor_arn = \"arn:aws:rolesanywhere:REGION:123456789012:trust-anchor/a\", profile_arn = \"arn:aws:rolesanywhere:REGION:123456789012:profile/p\", role_arn = \"arn:aws:iam::123456789012:role/r\", certificate_file = \"/c\", private_key_file = \"/k\" }";
        let gov = GOV.replace("credentials = { source = \"host\" }", anywhere);
        let says = refused(&gov.replace("REGION", "us-east-1"));
        assert!(says.contains("keys of the commercial partition"), "{says}");
        let says = refused(&gov.replace("REGION", "us-gov-west-1"));
        assert!(says.contains("has to be in the commercial partition"), "{says}");
    }

    #[test]
    fn no_key_is_for_both_partitions() {
        let says = refused("[[upstreams]]\nregion = \"us-east-1\"\n[[upstreams]]\nregion = \"us-gov-west-1\"");
        assert!(says.starts_with("c.toml:3:1: us-gov-west-1 and us-east-1 would both use the environment"), "{says}");
        for text in [
            "[credentials]\nsource = \"host\"",
            "[[upstreams]]\nregion = \"us-east-1\"\ncredentials = { source = \"host\" }",
        ] {
            assert!(refused(text).contains("which only GovCloud knows"), "{text}");
        }
        let says = refused(&GOV.replace("\"host\"", "\"host\", region = \"us-gov-west-1\""));
        assert!(says.contains("region has no meaning with source = \"host\""), "{says}");
        let says = refused(&GOV.replace(
            "credentials",
            "runtime_endpoint = \"https://bedrock-runtime.us-east-1.amazonaws.com\"\ncredentials",
        ));
        assert!(says.contains("is not in GovCloud, whose key it must never see"), "{says}");
    }

    #[test]
    fn one_source_under_two_spellings_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link, hard) = (folder.path().join("key"), folder.path().join("link"), folder.path().join("hard"));
        let other = folder.path().join("other");
        std::fs::write(&file, "x").unwrap();
        std::fs::write(&other, "x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        std::fs::hard_link(&file, &hard).unwrap();
        let of_file = |path: &Path| format!("source = \"file\", file = \"{}\"", path.display());
        let secret =
            |id: &str| format!("source = \"secrets_manager\", secret_id = \"{id}\", region = \"us-gov-west-1\"");
        let arn =
            |rest: &str| secret(&format!("arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret:{rest}"));
        let both = |gov: &str, commercial: &str| {
            load(&format!(
                "[[upstreams]]\nregion = \"us-gov-west-1\"\ncredentials = {{ {gov} }}\n[[upstreams]]\nregion = \"us-east-1\"\ncredentials = {{ {commercial} }}\n"
            ))
        };
        let twice = format!("source = \"file\", file = \"{}//key\"", folder.path().display());
        for (gov, commercial) in [
            (of_file(&file), of_file(&link)),
            (of_file(&file), of_file(&hard)),
            (of_file(&file), twice),
            (secret("keys"), arn("keys-AbCd12")),
            (arn("keys"), arn("keys-AbCd12")),
            (arn("a/keys-2-AbCd12"), secret("a/keys-2")),
        ] {
            let says = both(&gov, &commercial).unwrap_err();
            assert!(says.contains("would both use"), "{says}");
            assert!(both(&commercial, &gov).is_err(), "in either order");
        }
        for (gov, commercial) in [
            (of_file(&file), of_file(&other)),
            (of_file(&file), of_file(&folder.path().join("absent"))),
            (secret("keys"), arn("keys-2-AbCd12")),
            (secret("keys"), secret("keys-AbCd12").replace("us-gov-west-1", "us-gov-east-1")),
            (arn("keys-AbCd12"), arn("keys-AbCd12").replace("123456789012", "210987654321")),
        ] {
            assert!(both(&gov, &commercial).is_ok(), "{gov} {commercial}");
        }
    }

    #[test]
    fn levels_go_where_the_table_says_and_what_it_does_not_name_stays() {
        let reach = |text: &str| load(text).unwrap().policy.partitions.unwrap();
        let both = reach("[policy.partitions]\n\"aws\" = [\"public\"]\n\"aws-us-gov\" = [\"public\", \"cui\"]");
        let gov = Partitions::only(Partition::Govcloud);
        assert_eq!(both.of(Some("public"), None), Partitions::ALL);
        assert_eq!(both.of(Some("cui"), Some(Commercial::Allow)), gov);
        assert!(both.of(Some("secret"), Some(Commercial::Allow)).is_empty());
        assert_eq!(both.of(None, None), gov);
        assert_eq!(both.of(None, Some(Commercial::Allow)), Partitions::ALL);
        let aws = reach("[policy.partitions]\n\"aws\" = [\"public\"]");
        assert_eq!((aws.of(Some("public"), None), aws.of(Some("cui"), None)), (Partitions::ALL, gov));
        let settings = load("[policy.partitions]\n\"aws-us-gov\" = [\"cui\"]").unwrap();
        assert_eq!(settings.policy.partitions.unwrap().of(Some("cui"), None), gov);
        assert!(settings.warnings[0].contains("\"aws\" is not named here"), "{:?}", settings.warnings);
    }

    #[test]
    fn levels_are_those_of_the_order_and_pins_need_an_upstream() {
        let says = refused("[policy]\ndata_classifications = [\"public\"]\n[policy.partitions]\n\"aws\" = [\"cui\"]");
        assert!(says.starts_with("c.toml:4:10: ") && says.contains("policy.data_classifications"), "{says}");
        let says = refused("[policy.partitions]\n\"aws\" = [\"a\", \"a\"]");
        assert!(says.contains("named twice for aws"), "{says}");
        let says = refused("[models.partition]\n\"anthropic.*\" = \"aws-us-gov\"");
        assert_eq!(
            says,
            "c.toml:2:17: no upstream is in the partition aws-us-gov; add one under [[upstreams]], or remove the line."
        );
        let pins = load(&format!("{BOTH}[models.partition]\n\"z.*\" = \"aws\"\n\"a.*\" = \"aws-us-gov\"")).unwrap();
        let pins: Vec<String> = pins.models.pins.iter().map(|pin| pin.pattern.to_string()).collect();
        assert_eq!(pins, ["z.*", "a.*"], "in the order of the file");
    }
}
