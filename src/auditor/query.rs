//! A query: which records, whose, and how many.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::error::{Refusal, RefusalKind};

/// Records of one answer, unless the query says otherwise, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// The records that a query is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// How far back.
    pub range: TimeRange,
    /// Only records that succeeded, or that did not.
    pub success: Option<bool>,
    /// Only records that went to this partition.
    pub partition: Partition,
    /// Only records of this model, as it was asked for.
    pub model_id: Option<String>,
    /// Only records of this caller.
    pub caller: Option<String>,
    /// Records on a page.
    pub limit: usize,
    /// Where the page before this one ended, as it said.
    pub next_token: Option<Vec<u8>>,
    /// Where the records are read.
    pub source: Source,
    /// Whether questions to the daemon about its records, which are no requests to a model, are found too.
    pub own: bool,
}

impl Default for Query {
    fn default() -> Query {
        Query {
            range: TimeRange::Day,
            success: None,
            partition: Partition::All,
            model_id: None,
            caller: None,
            limit: DEFAULT_LIMIT,
            next_token: None,
            source: Source::Ledger,
            own: false,
        }
    }
}

/// How far back a query looks, from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs, reason = "the names say it, and doc comments of variants would become help texts")]
pub enum TimeRange {
    #[value(name = "1h")]
    Hour,
    #[value(name = "24h")]
    Day,
    #[value(name = "7d")]
    Week,
    #[value(name = "30d")]
    Month,
    All,
}

/// By where requests went. All of them went from GovCloud to the commercial partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs, reason = "the names say it, and doc comments of variants would become help texts")]
pub enum Partition {
    All,
    Commercial,
    Govcloud,
}

/// Where a query looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Source {
    /// This host's records.
    Ledger,
    /// The table, with the records of every host that ships there.
    Dynamodb,
}

/// Whose records may be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's.
    All,
    /// Those with this caller's name, and on this host those of this uid.
    Own {
        /// None for someone whom the daemon does not know by name.
        caller: Option<String>,
        /// None when the kernel does not tell.
        uid: Option<u32>,
    },
}

impl TimeRange {
    const NAMES: [(&'static str, TimeRange); 5] = [
        ("1h", TimeRange::Hour),
        ("24h", TimeRange::Day),
        ("7d", TimeRange::Week),
        ("30d", TimeRange::Month),
        ("all", TimeRange::All),
    ];

    /// The name in URLs and in answers.
    pub(crate) fn as_str(self) -> &'static str {
        TimeRange::NAMES.iter().find(|(_, range)| *range == self).map_or("", |(name, _)| name)
    }

    /// The earliest start that belongs to it, in milliseconds since 1970.
    pub(crate) fn since_ms(self, now_ms: i64) -> i64 {
        let hours = match self {
            TimeRange::Hour => 1,
            TimeRange::Day => 24,
            TimeRange::Week => 7 * 24,
            TimeRange::Month => 30 * 24,
            TimeRange::All => return i64::MIN,
        };
        now_ms.saturating_sub(hours * 3_600_000)
    }
}

impl Partition {
    /// The name in URLs and in answers.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Partition::All => "all",
            Partition::Commercial => "commercial",
            Partition::Govcloud => "govcloud",
        }
    }

    /// The value of `destinationPartition` in the records that it finds; none if it finds all.
    pub(crate) fn destination(self) -> Option<&'static str> {
        (self != Partition::All).then(|| self.as_str())
    }

    /// Whether a record is among those that it finds.
    pub(crate) fn finds(self, item: &str) -> bool {
        self.member().is_none_or(|member| item.contains(&member))
    }

    /// How it stands in a record; none if it finds all. A text inside a record cannot hold this: its quotes are escaped.
    pub(crate) fn member(self) -> Option<String> {
        Some(format!("\"destinationPartition\":\"{}\"", self.destination()?))
    }
}

impl Query {
    /// Reads the query of a URL, such as `timeRange=24h&success=false`.
    ///
    /// # Errors
    /// A refusal (400) that names the first parameter that is unknown or has an invalid value.
    pub fn parse(raw_query: &str) -> Result<Query, Refusal> {
        let mut query = Query::default();
        for pair in raw_query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value).ok_or_else(|| invalid(key, "be text in UTF-8"))?;
            if value.is_empty() {
                continue;
            }
            match key {
                "timeRange" => {
                    query.range = TimeRange::NAMES
                        .iter()
                        .find(|(name, _)| *name == value)
                        .map(|(_, range)| *range)
                        .ok_or_else(|| invalid(key, "be 1h, 24h, 7d, 30d or all"))?;
                }
                "success" => {
                    query.success = match value.as_str() {
                        "all" => None,
                        "true" => Some(true),
                        "false" => Some(false),
                        _ => return Err(invalid(key, "be all, true or false")),
                    }
                }
                "partition" => {
                    query.partition = match value.as_str() {
                        "all" => Partition::All,
                        "commercial" => Partition::Commercial,
                        "govcloud" => Partition::Govcloud,
                        _ => return Err(invalid(key, "be all, commercial or govcloud")),
                    }
                }
                "source" => {
                    query.source = match value.as_str() {
                        "ledger" => Source::Ledger,
                        "dynamodb" => Source::Dynamodb,
                        _ => return Err(invalid(key, "be ledger or dynamodb")),
                    }
                }
                "limit" => {
                    query.limit = value
                        .parse()
                        .ok()
                        .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                        .ok_or_else(|| invalid(key, "be a number from 1 to 1000"))?;
                }
                "modelId" => query.model_id = Some(value),
                "caller" => query.caller = Some(value),
                "nextToken" => {
                    let token = URL_SAFE_NO_PAD.decode(&value).map_err(|_| invalid_token())?;
                    query.next_token = Some(token);
                }
                _ => {
                    return Err(invalid(
                        key,
                        "not be there: it is no filter; known are timeRange, success, partition, modelId, caller, limit, nextToken and source",
                    ));
                }
            }
        }
        Ok(query)
    }

    /// Whether the daemon's own records are among what is sought: they went to no partition.
    pub(crate) fn finds_own(&self) -> bool {
        self.own && self.partition == Partition::All
    }

    /// The filters as an answer repeats them.
    pub(crate) fn filters(&self) -> Value {
        json!({
            "partition": self.partition.as_str(),
            "timeRange": self.range.as_str(),
            "success": match self.success { None => "all", Some(true) => "true", Some(false) => "false" },
            "modelId": self.model_id,
            "caller": self.caller,
            "limit": self.limit,
            "source": match self.source { Source::Ledger => "ledger", Source::Dynamodb => "dynamodb" },
        })
    }
}

/// Records that were found, newest first.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) items: Vec<Value>,
    /// How many records the filters let through, on all pages; from DynamoDB, on this one.
    pub(crate) total: u64,
    /// Where the next page begins, while there is one.
    pub(crate) next: Option<Vec<u8>>,
    /// The table had no index for this, and was scanned.
    pub(crate) is_scanned: bool,
}

/// The refusal of a token that no answer can have held.
pub(crate) fn invalid_token() -> Refusal {
    Refusal::new(RefusalKind::Validation, "nextToken has to be the nextToken of an answer to the same question")
}

pub(super) fn invalid(key: &str, has_to: &str) -> Refusal {
    let key: String = key.chars().filter(|c| c.is_ascii_graphic()).take(40).collect();
    Refusal::new(RefusalKind::Validation, format!("the query parameter {key} has to {has_to}"))
}

pub(super) fn decoded(value: &str) -> Option<String> {
    let spaced = value.replace('+', " ");
    Some(percent_decode_str(&spaced).decode_utf8().ok()?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_and_nonsense_is_refused_by_name() {
        let query =
            Query::parse("timeRange=7d&success=false&modelId=a%3A1&caller=b+c&limit=5&partition=commercial").unwrap();
        assert_eq!(query.range, TimeRange::Week);
        assert_eq!(query.success, Some(false));
        assert_eq!(query.model_id.as_deref(), Some("a:1"));
        assert_eq!(query.caller.as_deref(), Some("b c"));
        assert_eq!((query.limit, query.partition), (5, Partition::Commercial));
        assert_eq!(Query::parse("").unwrap(), Query::default());
        for (raw, name) in [
            ("timeRange=2h", "timeRange"),
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("success=yes", "success"),
            ("color=red", "color"),
            ("modelId=%FF", "modelId"),
        ] {
            let refusal = Query::parse(raw).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Validation);
            assert!(refusal.message.contains(name), "{}", refusal.message);
        }
        assert!(Query::parse("nextToken=%%%").is_err());
    }
}
