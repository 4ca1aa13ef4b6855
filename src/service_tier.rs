//! Bedrock's service tiers: the one that a request asks for, and the form of their names.
//!
//! Bedrock has `priority`, `default`, `flex` and `reserved`; Anthropic's answers say `standard`, `priority` or `batch`.
//! Names are kept as they come, so that a new tier needs no new version of the daemon.

use http::header::{HeaderMap, HeaderName};

/// Of InvokeModel, on the request and on its answer.
const HEADER: HeaderName = HeaderName::from_static("x-amzn-bedrock-service-tier");

/// Longest name of a tier, in bytes.
const MAX_NAME: usize = 64;

/// The tier that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AskedTier<'a> {
    /// It says nothing, which means Bedrock's default.
    #[default]
    Unsaid,
    /// This one.
    Named(&'a str),
    /// It says something that cannot be read, or two things at once: the dearest that could be meant counts.
    Unclear,
}

impl<'a> AskedTier<'a> {
    /// What a text says that stands where a tier is named.
    pub(crate) fn of(text: &'a [u8]) -> AskedTier<'a> {
        std::str::from_utf8(text).ok().and_then(name).map_or(AskedTier::Unclear, AskedTier::Named)
    }

    /// What two places say together.
    pub(crate) fn and(self, other: AskedTier<'a>) -> AskedTier<'a> {
        match (self, other) {
            (AskedTier::Unsaid, one) | (one, AskedTier::Unsaid) => one,
            (one, other) if one == other => one,
            _ => AskedTier::Unclear,
        }
    }

    /// The name, if it is clear.
    pub(crate) fn name(self) -> Option<&'a str> {
        match self {
            AskedTier::Named(name) => Some(name),
            AskedTier::Unsaid | AskedTier::Unclear => None,
        }
    }
}

/// A tier's name, if the text can be one: at most 64 of `a-z`, `0-9`, `_` and `-`.
pub(crate) fn name(text: &str) -> Option<&str> {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    ((1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_part)).then_some(text)
}

/// What the headers of a request ask for.
pub(crate) fn asked_by(headers: &HeaderMap) -> AskedTier<'_> {
    let values = headers.get_all(HEADER).iter();
    values.map(|value| AskedTier::of(value.as_bytes())).fold(AskedTier::Unsaid, AskedTier::and)
}

/// What the headers of an answer report.
pub(crate) fn reported_by(headers: &HeaderMap) -> Option<&str> {
    served(headers.get(HEADER)?.to_str().ok()?)
}

/// A tier that served a request. `auto` is a wish, which some answers repeat.
pub(crate) fn served(text: &str) -> Option<&str> {
    name(text).filter(|name| *name != "auto")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        let longest = "a".repeat(64);
        for good in ["flex", "standard_only", "tier-2", &longest] {
            assert_eq!(name(good), Some(good));
        }
        for bad in ["", "Flex", "flex ", "fl\u{e9}x", "a\"b", &"a".repeat(65)] {
            assert_eq!(name(bad), None, "{bad}");
        }
        assert_eq!((served("flex"), served("auto"), served("")), (Some("flex"), None, None));
    }

    #[test]
    fn places_that_say_different_things_are_unclear() {
        use AskedTier::{Named, Unclear, Unsaid};
        for (one, other, together) in [
            (Unsaid, Unsaid, Unsaid),
            (Unsaid, Named("flex"), Named("flex")),
            (Named("flex"), Named("flex"), Named("flex")),
            (Named("flex"), Named("priority"), Unclear),
            (Unclear, Unsaid, Unclear),
            (Unclear, Named("flex"), Unclear),
        ] {
            assert_eq!(one.and(other), together);
            assert_eq!(other.and(one), together);
        }
        let mut headers = HeaderMap::new();
        assert_eq!(asked_by(&headers), Unsaid);
        headers.append(HEADER, "flex".parse().unwrap());
        assert_eq!((asked_by(&headers), reported_by(&headers)), (Named("flex"), Some("flex")));
        headers.append(HEADER, "priority".parse().unwrap());
        assert_eq!(asked_by(&headers), Unclear);
        headers.insert(HEADER, "FLEX".parse().unwrap());
        assert_eq!((asked_by(&headers), reported_by(&headers)), (Unclear, None));
    }
}
