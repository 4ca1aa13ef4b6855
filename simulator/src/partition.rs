//! Commercial AWS and GovCloud: a region is in one of them, and so are the names that its services give.

/// Whether a region is in GovCloud.
pub(crate) fn is_govcloud(region: &str) -> bool {
    region.starts_with("us-gov-")
}

/// How ARNs of a region begin: `arn:aws` or `arn:aws-us-gov`.
pub(crate) fn arn(region: &str) -> &'static str {
    if is_govcloud(region) { "arn:aws-us-gov" } else { "arn:aws" }
}
