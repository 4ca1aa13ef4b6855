//! The partitions of AWS that this program sends to. An account, a key and the name of a resource belong to one of them.

use std::fmt;

use serde::Deserialize;

/// A partition, by the name that it has in ARNs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize)]
pub(crate) enum Partition {
    /// Commercial AWS.
    #[default]
    #[serde(rename = "aws")]
    Commercial,
    /// AWS GovCloud (US).
    #[serde(rename = "aws-us-gov")]
    Govcloud,
}

impl Partition {
    /// Both.
    pub(crate) const ALL: [Partition; 2] = [Partition::Commercial, Partition::Govcloud];

    /// The partition of a region, by the region's name.
    pub(crate) fn of_region(region: &str) -> Partition {
        if region.starts_with("us-gov-") { Partition::Govcloud } else { Partition::Commercial }
    }

    /// The partition in which a model, profile or other resource of this name is at home; none where the name is good in
    /// both, such as `anthropic.claude-…`.
    pub(crate) fn of_name(name: &str) -> Option<Partition> {
        match name.strip_prefix("arn:") {
            Some(arn) => match arn.split(':').next() {
                Some("aws") => Some(Partition::Commercial),
                Some("aws-us-gov") => Some(Partition::Govcloud),
                _ => None,
            },
            None => name.starts_with("us-gov.").then_some(Partition::Govcloud),
        }
    }

    /// As ARNs and the configuration name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Partition::Commercial => "aws",
            Partition::Govcloud => "aws-us-gov",
        }
    }

    /// As records name it.
    pub(crate) fn in_records(self) -> &'static str {
        match self {
            Partition::Commercial => "commercial",
            Partition::Govcloud => "govcloud",
        }
    }

    /// The other one.
    pub(crate) fn other(self) -> Partition {
        match self {
            Partition::Commercial => Partition::Govcloud,
            Partition::Govcloud => Partition::Commercial,
        }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Some of the partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Partitions {
    commercial: bool,
    govcloud: bool,
}

impl Partitions {
    /// Both.
    pub(crate) const ALL: Partitions = Partitions { commercial: true, govcloud: true };

    /// This one alone.
    pub(crate) fn only(partition: Partition) -> Partitions {
        [partition].into_iter().collect()
    }

    /// Whether it is one of them.
    pub(crate) fn has(self, partition: Partition) -> bool {
        match partition {
            Partition::Commercial => self.commercial,
            Partition::Govcloud => self.govcloud,
        }
    }

    /// The one that there is; none if there are both, or none.
    pub(crate) fn single(self) -> Option<Partition> {
        match (self.commercial, self.govcloud) {
            (true, false) => Some(Partition::Commercial),
            (false, true) => Some(Partition::Govcloud),
            _ => None,
        }
    }

    /// Those that are among the others, too.
    pub(crate) fn and(self, other: Partitions) -> Partitions {
        Partitions { commercial: self.commercial && other.commercial, govcloud: self.govcloud && other.govcloud }
    }

    /// None.
    pub(crate) fn is_empty(self) -> bool {
        self == Partitions::default()
    }
}

impl FromIterator<Partition> for Partitions {
    fn from_iter<I: IntoIterator<Item = Partition>>(partitions: I) -> Partitions {
        partitions.into_iter().fold(Partitions::default(), |known, partition| match partition {
            Partition::Commercial => Partitions { commercial: true, ..known },
            Partition::Govcloud => Partitions { govcloud: true, ..known },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_regions_tell_their_partition() {
        for (region, partition) in [
            ("us-gov-west-1", Partition::Govcloud),
            ("us-gov-east-1", Partition::Govcloud),
            ("us-east-1", Partition::Commercial),
        ] {
            assert_eq!(Partition::of_region(region), partition);
        }
        for (name, partition) in [
            ("arn:aws-us-gov:bedrock:us-gov-west-1:1:guardrail/x", Some(Partition::Govcloud)),
            ("us-gov.anthropic.claude-v1", Some(Partition::Govcloud)),
            ("arn:aws:bedrock:us-east-1:1:guardrail/x", Some(Partition::Commercial)),
            ("arn:aws-cn:bedrock:cn-north-1::foundation-model/x", None),
            ("anthropic.claude-v1", None),
            ("us.anthropic.claude-v1", None),
        ] {
            assert_eq!(Partition::of_name(name), partition, "{name}");
        }
    }
}
