//! What may be asked of the records: which, of whom, and how many.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use super::Audit;
use super::keeper::Task;
use crate::error::{Kind, Refusal};

/// Records of one answer, unless the question says otherwise, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// The records that a question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub range: TimeRange,
    pub success: Option<bool>,
    pub partition: Partition,
    pub model_id: Option<String>,
    pub caller: Option<String>,
    pub limit: usize,
    /// Where the answer before this one ended.
    pub next_token: Option<Vec<u8>>,
    pub source: Source,
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
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
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
pub enum Partition {
    All,
    Commercial,
    Govcloud,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Source {
    /// This host's records.
    Ledger,
    /// The table, with the records of every host that ships there.
    Dynamodb,
}

/// Whose records the one who asks may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    All,
    /// Those with this caller's name, and on this host those of this uid.
    Own {
        caller: Option<String>,
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

    pub fn as_str(self) -> &'static str {
        TimeRange::NAMES.iter().find(|(_, range)| *range == self).map_or("", |(name, _)| name)
    }

    /// The earliest start that belongs to it, in milliseconds since 1970.
    pub fn since_ms(self, now_ms: i64) -> i64 {
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
    pub fn as_str(self) -> &'static str {
        match self {
            Partition::All => "all",
            Partition::Commercial => "commercial",
            Partition::Govcloud => "govcloud",
        }
    }
}

impl Query {
    /// Reads the query of a URL, such as `timeRange=24h&success=false`. Values that mean nothing are refused by name.
    pub fn parse(raw_query: &str) -> Result<Query, Refusal> {
        let mut query = Query::default();
        for pair in raw_query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value).ok_or_else(|| wrong(key, "be text in UTF-8"))?;
            if value.is_empty() {
                continue;
            }
            match key {
                "timeRange" => {
                    query.range = TimeRange::NAMES
                        .iter()
                        .find(|(name, _)| *name == value)
                        .map(|(_, range)| *range)
                        .ok_or_else(|| wrong(key, "be 1h, 24h, 7d, 30d or all"))?;
                }
                "success" => {
                    query.success = match value.as_str() {
                        "all" => None,
                        "true" => Some(true),
                        "false" => Some(false),
                        _ => return Err(wrong(key, "be all, true or false")),
                    }
                }
                "partition" => {
                    query.partition = match value.as_str() {
                        "all" => Partition::All,
                        "commercial" => Partition::Commercial,
                        "govcloud" => Partition::Govcloud,
                        _ => return Err(wrong(key, "be all, commercial or govcloud")),
                    }
                }
                "source" => {
                    query.source = match value.as_str() {
                        "ledger" => Source::Ledger,
                        "dynamodb" => Source::Dynamodb,
                        _ => return Err(wrong(key, "be ledger or dynamodb")),
                    }
                }
                "limit" => {
                    query.limit = value
                        .parse()
                        .ok()
                        .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                        .ok_or_else(|| wrong(key, "be a number from 1 to 1000"))?;
                }
                "modelId" => query.model_id = Some(value),
                "caller" => query.caller = Some(value),
                "nextToken" => {
                    let token = URL_SAFE_NO_PAD.decode(&value).map_err(|_| bad_token())?;
                    query.next_token = Some(token);
                }
                _ => {
                    return Err(wrong(
                        key,
                        "not be there: it is no filter; known are timeRange, success, partition, modelId, caller, limit, nextToken and source",
                    ));
                }
            }
        }
        Ok(query)
    }

    fn filters(&self) -> Value {
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
pub struct Found {
    pub items: Vec<Value>,
    /// How many the filters let through, on all pages; from DynamoDB, on this one.
    pub total: u64,
    pub next: Option<Vec<u8>>,
}

impl Audit {
    /// Answers in the seed's shape: `requests`, `totalCount`, `filters`, and `nextToken` while there is more.
    pub async fn answer(&self, query: &Query, who: Scope) -> Result<Value, Refusal> {
        let found = match query.source {
            Source::Ledger => {
                self.flush().await;
                let (path, query, since) =
                    (self.core.home.database(), query.clone(), query.range.since_ms(super::now_ms()));
                tokio::task::spawn_blocking(move || super::store::select::select(&path, &query, &who, since))
                    .await
                    .map_err(|error| unavailable(&error))?
                    .map_err(|error| {
                        let refusal = unavailable(&error);
                        if error.is_corrupt() {
                            self.core.tell(Task::Damaged(error));
                        }
                        refusal
                    })?
            }
            Source::Dynamodb => {
                let settings = self.core.settings.load();
                let Some(table) = &settings.table else {
                    return Err(Refusal::new(
                        Kind::Validation,
                        "source=dynamodb needs a table, and audit.table is not set",
                    ));
                };
                let client = self.clients.client().await;
                let found =
                    super::fleet::select(&client, table, query, &who, &self.core.host_id, super::now_ms()).await;
                if found.is_err() {
                    self.clients.forget().await;
                }
                found?
            }
        };
        let mut answer = Map::new();
        answer.insert("requests".into(), Value::Array(found.items));
        answer.insert("totalCount".into(), found.total.into());
        answer.insert("filters".into(), query.filters());
        if let Some(next) = found.next {
            answer.insert("nextToken".into(), URL_SAFE_NO_PAD.encode(next).into());
        }
        Ok(Value::Object(answer))
    }
}

/// A token that none of our answers held.
pub fn bad_token() -> Refusal {
    Refusal::new(Kind::Validation, "nextToken has to be the nextToken of an answer to the same question")
}

fn unavailable(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(Kind::ServiceUnavailable, format!("the ledger cannot be read: {error}"))
        .retry_after(Duration::from_secs(5))
}

fn wrong(key: &str, has_to: &str) -> Refusal {
    let key: String = key.chars().filter(|c| c.is_ascii_graphic()).take(40).collect();
    Refusal::new(Kind::Validation, format!("the query parameter {key} has to {has_to}"))
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
        ] {
            let refusal = Query::parse(raw).unwrap_err();
            assert_eq!(refusal.kind, Kind::Validation);
            assert!(refusal.message.contains(name), "{}", refusal.message);
        }
        assert!(Query::parse("nextToken=%%%").is_err());
    }
}
