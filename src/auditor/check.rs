//! `bedrock-sidecar check --online`: whether the table is as the ledger needs it, and the command that repairs it.
//! Nothing is written.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{PointInTimeRecoveryStatus, TableDescription, TableStatus, TimeToLiveStatus};

use crate::ledger::StateDir;
use crate::ledger::dynamo::{self, FailureClass, TimeIndex, TimeIndexHash};
use crate::settings;

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it should be.
    Good,
    /// The daemon works, something else does not.
    Advice,
    /// Records would not be shipped.
    Bad,
    /// It could not be found out.
    Unknown,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckLine {
    /// The outcome.
    pub verdict: Verdict,
    /// What was found, in a sentence.
    pub finding: String,
    /// What to do about it, a command where there is one.
    pub remedy: Option<String>,
}

impl CheckLine {
    fn new(verdict: Verdict, finding: impl Into<String>) -> CheckLine {
        CheckLine { verdict, finding: finding.into(), remedy: None }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> CheckLine {
        self.remedy = Some(remedy.into());
        self
    }
}

/// A sentence if the ledger ends up where an admin would not look for it.
pub fn odd_place(settings: &settings::Audit) -> Option<String> {
    let root = StateDir::find(settings).root;
    StateDir::is_in_roots_home(settings).then(|| {
        format!(
            "run by root without audit.state_dir, the daemon keeps its ledger in {}; run it as a user of its own, with a directory of that user",
            root.display()
        )
    })
}

/// Checks the state directory and the table, with the environment's credentials.
pub async fn check_online(settings: &settings::Audit) -> Vec<CheckLine> {
    let mut lines = vec![state_directory(settings)];
    match &settings.table {
        None => lines.push(CheckLine::new(
            Verdict::Good,
            "audit.table is not set: records stay on this host, and go after audit.retention",
        )),
        Some(table) => {
            let client = dynamo::client(&settings.region).await;
            lines.extend(check_table(&client, table, &settings.region).await);
        }
    }
    lines
}

fn state_directory(settings: &settings::Audit) -> CheckLine {
    let root = StateDir::find(settings).root;
    let nearest = root.ancestors().find(|path| path.exists());
    let writable = nearest.is_some_and(|path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok());
    if writable {
        return CheckLine::new(Verdict::Good, format!("the ledger is kept in {}", root.display()));
    }
    let finding = format!("this user may not write to the ledger's directory {}", root.display());
    CheckLine::new(Verdict::Unknown, finding)
        .remedy("run the check as the daemon's user, or set audit.state_dir to a directory of that user")
}

/// Checks the table, which is in `region`, with this client.
pub async fn check_table(client: &Client, table: &str, region: &str) -> Vec<CheckLine> {
    let described = match client.describe_table().table_name(table).send().await {
        Ok(answer) => answer.table,
        Err(error) => {
            let failure = dynamo::classify(error, table);
            return vec![match failure.class {
                FailureClass::NoTable => CheckLine::new(Verdict::Bad, format!("the table {table} does not exist in {region}")).remedy(format!(
                    "aws dynamodb create-table --region {region} --table-name {table} --billing-mode PAY_PER_REQUEST \
                     --attribute-definitions AttributeName=requestId,AttributeType=S AttributeName=timestamp,AttributeType=S \
                     --key-schema AttributeName=requestId,KeyType=HASH AttributeName=timestamp,KeyType=RANGE \
                     (or packaging/aws, which also sets expiry and backups)"
                )),
                FailureClass::Credentials => CheckLine::new(Verdict::Unknown, format!("the table {table} cannot be described: {}", failure.sentence))
                    .remedy("give the host's role the policy in packaging/aws"),
                FailureClass::Transient | FailureClass::Rejected => CheckLine::new(Verdict::Bad, failure.sentence)
                    .remedy("look at the network, at a VPC endpoint for DynamoDB, and at AWS_ENDPOINT_URL_DYNAMODB"),
            }];
        }
    };
    let Some(described) = described else {
        return vec![CheckLine::new(Verdict::Unknown, format!("DynamoDB says nothing of the table {table}"))];
    };
    vec![keys(&described, table), expiry(client, table, region).await, backups(client, table, region).await]
}

fn keys(described: &TableDescription, table: &str) -> CheckLine {
    match dynamo::table_keys(described) {
        Err(why) => CheckLine::new(Verdict::Bad, format!("the table {table} cannot hold records: {why}"))
            .remedy("keys cannot be changed: create another table (packaging/aws) and name it in audit.table"),
        Ok(keys) => {
            let status = described.table_status().cloned().unwrap_or(TableStatus::Active);
            let named = if keys.has_sort_key { "requestId and timestamp" } else { "requestId" };
            let index = match keys.time_indexes.first() {
                Some(TimeIndex { name, hash: TimeIndexHash::TimeShard }) => {
                    format!("; the index {name} answers questions by time")
                }
                Some(TimeIndex { name, hash }) => format!(
                    "; the index {name} answers questions by time; all records share one value of its key {}, so the fleet writes at most about 1,000 a second; an index on timeShard (packaging/aws) takes more",
                    hash.name()
                ),
                None => {
                    "; it has no index by time, so questions to the fleet scan it; packaging/aws has one".to_owned()
                }
            };
            let verdict = if status == TableStatus::Active { Verdict::Good } else { Verdict::Advice };
            CheckLine::new(verdict, format!("the table {table} is {status} and keyed on {named}{index}"))
        }
    }
}

async fn expiry(client: &Client, table: &str, region: &str) -> CheckLine {
    let command = format!(
        "aws dynamodb update-time-to-live --region {region} --table-name {table} --time-to-live-specification Enabled=true,AttributeName=ttl"
    );
    match client.describe_time_to_live().table_name(table).send().await {
        Ok(answer) => {
            let ttl = answer.time_to_live_description;
            let status = ttl.as_ref().and_then(|ttl| ttl.time_to_live_status().cloned());
            let on = matches!(status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling));
            match ttl.as_ref().and_then(|ttl| ttl.attribute_name()).filter(|_| on) {
                Some("ttl") => CheckLine::new(Verdict::Good, "items expire by their attribute ttl"),
                Some(other) => CheckLine::new(
                    Verdict::Advice,
                    format!("items expire by the attribute {other}, not by ttl, which is the one that records carry"),
                )
                .remedy(command),
                None => CheckLine::new(Verdict::Advice, "items never expire: expiry by the attribute ttl is off")
                    .remedy(command),
            }
        }
        Err(error) => CheckLine::new(
            Verdict::Unknown,
            format!("whether items expire cannot be found out: {}", dynamo::classify(error, table).sentence),
        )
        .remedy("allow dynamodb:DescribeTimeToLive, see packaging/aws"),
    }
}

async fn backups(client: &Client, table: &str, region: &str) -> CheckLine {
    match client.describe_continuous_backups().table_name(table).send().await {
        Ok(answer) => {
            let backups = answer.continuous_backups_description;
            let recovery = backups.as_ref().and_then(|backups| backups.point_in_time_recovery_description());
            let status = recovery.and_then(|recovery| recovery.point_in_time_recovery_status());
            if status == Some(&PointInTimeRecoveryStatus::Enabled) {
                return CheckLine::new(Verdict::Good, "the table can be restored to any moment of the last days");
            }
            CheckLine::new(Verdict::Advice, "records that are deleted from the table cannot be restored: point-in-time recovery is off").remedy(format!(
                "aws dynamodb update-continuous-backups --region {region} --table-name {table} --point-in-time-recovery-specification PointInTimeRecoveryEnabled=true"
            ))
        }
        Err(error) => CheckLine::new(
            Verdict::Unknown,
            format!(
                "whether the table can be restored cannot be found out: {}",
                dynamo::classify(error, table).sentence
            ),
        )
        .remedy("allow dynamodb:DescribeContinuousBackups, see packaging/aws"),
    }
}
