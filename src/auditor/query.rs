//! A query: which records, whose, and how many.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::error::{Refusal, RefusalKind};
use crate::record::Outcome;

/// Records of one answer, unless the query says otherwise, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
/// How far the time in a request's id may be from its record's, in milliseconds.
const ID_SPREAD_MS: i64 = 10_000;
/// What a request's id has to be.
pub(crate) const REQUEST_ID: &str = "be the id of a request, as records and x-bedrock-sidecar-request-id name it";

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
    /// Only records of connections that this local user made.
    pub caller_uid: Option<u32>,
    /// Only records of this operation.
    pub operation: Option<String>,
    /// Only records with this `destinationRegion`.
    pub region: Option<String>,
    /// Only records that ended so.
    pub outcome: Option<Outcome>,
    /// Only records whose client got this status.
    pub status_code: Option<u16>,
    /// Only the record of this request, whenever that was.
    pub request_id: Option<Uuid>,
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
            caller_uid: None,
            operation: None,
            region: None,
            outcome: None,
            status_code: None,
            request_id: None,
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
    #[value(name = "15m")]
    QuarterHour,
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
    const NAMES: [(&'static str, TimeRange); 6] = [
        ("15m", TimeRange::QuarterHour),
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
        let minutes = match self {
            TimeRange::QuarterHour => 15,
            TimeRange::Hour => 60,
            TimeRange::Day => 24 * 60,
            TimeRange::Week => 7 * 24 * 60,
            TimeRange::Month => 30 * 24 * 60,
            TimeRange::All => return i64::MIN,
        };
        now_ms.saturating_sub(minutes * 60_000)
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
        for parameter in parameters(raw_query) {
            let (key, value) = parameter?;
            match key {
                "timeRange" => {
                    query.range = TimeRange::NAMES
                        .iter()
                        .find(|(name, _)| *name == value)
                        .map(|(_, range)| *range)
                        .ok_or_else(|| invalid(key, "be 15m, 1h, 24h, 7d, 30d or all"))?;
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
                "callerUid" => {
                    query.caller_uid = Some(value.parse().map_err(|_| invalid(key, "be the number of a user"))?);
                }
                "operation" => query.operation = Some(value),
                "region" => query.region = Some(value),
                "outcome" => {
                    query.outcome = Some(Outcome::named(&value).ok_or_else(|| {
                        invalid(key, "be completed, upstream_error, refused, client_disconnected, client_stalled, upstream_broke or interrupted")
                    })?);
                }
                "statusCode" => {
                    query.status_code = Some(value.parse().map_err(|_| invalid(key, "be an HTTP status"))?);
                }
                "requestId" => {
                    query.request_id = Some(request_id(&value).ok_or_else(|| invalid(key, REQUEST_ID))?);
                }
                "nextToken" => {
                    let token = URL_SAFE_NO_PAD.decode(&value).map_err(|_| invalid_token())?;
                    query.next_token = Some(token);
                }
                _ => {
                    return Err(invalid(
                        key,
                        "not be there: it is no filter; known are timeRange, success, partition, modelId, caller, callerUid, operation, region, outcome, statusCode, requestId, limit, nextToken and source",
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

    /// What the records hold that are sought, beside what the index has columns for: members of the item, as they are written
    /// there. A text inside a record cannot hold them: its quotes are escaped.
    pub(crate) fn members(&self) -> impl Iterator<Item = String> {
        let request_id = self.request_id.map(|id| id.to_string());
        let named = [
            ("operation", self.operation.as_deref()),
            ("destinationRegion", self.region.as_deref()),
            ("outcome", self.outcome.map(Outcome::as_str)),
            ("requestId", request_id.as_deref()),
        ];
        let named = named.map(|(name, value)| Some(format!("\"{name}\":{}", Value::from(value?))));
        self.partition.member().into_iter().chain(named.into_iter().flatten())
    }

    /// Whether a record holds these.
    pub(crate) fn finds_members(&self, item: &str) -> bool {
        let has_status = |status| [',', '}'].iter().any(|end| item.contains(&format!("\"statusCode\":{status}{end}")));
        self.members().all(|member| item.contains(&member)) && self.status_code.is_none_or(has_status)
    }

    /// When the records began that are sought, in milliseconds since 1970: the earliest start, and the latest if there is one.
    /// The id of a request tells when that began.
    pub(crate) fn starts(&self, now_ms: i64) -> (i64, Option<i64>) {
        let Some(began) = self.request_id.and_then(began_ms) else { return (self.range.since_ms(now_ms), None) };
        (began.saturating_sub(ID_SPREAD_MS), Some(began.saturating_add(ID_SPREAD_MS)))
    }

    /// The filters as an answer repeats them.
    pub(crate) fn filters(&self) -> Value {
        json!({
            "partition": self.partition.as_str(),
            "timeRange": self.range.as_str(),
            "success": match self.success { None => "all", Some(true) => "true", Some(false) => "false" },
            "modelId": self.model_id,
            "caller": self.caller,
            "callerUid": self.caller_uid,
            "operation": self.operation,
            "region": self.region,
            "outcome": self.outcome.map(Outcome::as_str),
            "statusCode": self.status_code,
            "requestId": self.request_id.map(|id| id.to_string()),
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

/// Reads the id of a request.
pub(crate) fn request_id(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok().filter(|id| began_ms(*id).is_some())
}

/// When a request of this id began, in milliseconds since 1970.
fn began_ms(id: Uuid) -> Option<i64> {
    let (seconds, nanoseconds) = id.get_timestamp()?.to_unix();
    i64::try_from(seconds).ok()?.checked_mul(1000)?.checked_add(i64::from(nanoseconds / 1_000_000))
}

pub(super) fn invalid(key: &str, has_to: &str) -> Refusal {
    let key: String = key.chars().filter(|c| c.is_ascii_graphic()).take(40).collect();
    Refusal::new(RefusalKind::Validation, format!("the query parameter {key} has to {has_to}"))
}

/// The parameters of a URL's query that have a value, decoded.
pub(crate) fn parameters(raw_query: &str) -> impl Iterator<Item = Result<(&str, String), Refusal>> {
    raw_query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match decoded(value) {
            None => Some(Err(invalid(key, "be text in UTF-8"))),
            Some(value) if value.is_empty() => None,
            Some(value) => Some(Ok((key, value))),
        }
    })
}

fn decoded(value: &str) -> Option<String> {
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
            ("outcome=fine", "outcome"),
            ("statusCode=x", "statusCode"),
            ("callerUid=-1", "callerUid"),
            ("requestId=1", "requestId"),
            ("requestId=00000000-0000-4000-8000-000000000000", "requestId"),
        ] {
            let refusal = Query::parse(raw).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Validation);
            assert!(refusal.message.contains(name), "{}", refusal.message);
        }
        assert!(Query::parse("nextToken=%%%").is_err());
    }
}
