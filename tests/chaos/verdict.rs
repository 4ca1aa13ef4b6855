//! What has to hold when all is over: of every request, what the client saw, what the upstreams saw and what was recorded
//! are put side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use simulator::Ended;
use test_support::metric;

use crate::book::{Answer, Book, End, Entry, Saw};
use crate::evidence::Evidence;
use crate::growth;
use crate::stage::{Death, Stage, tail};

/// How soon the backlog has to be in the table: its shipper pauses longer and longer while the table is away.
const SHIPPED: Duration = Duration::from_secs(180);
/// Refusals that share a record are written when their minute is over, so a kill takes them.
const MINUTE: Duration = Duration::from_secs(70);

/// Everything that does not hold.
pub(crate) async fn judge(stage: &Stage, book: &Book) -> Vec<String> {
    let shipped = shipped(stage).await;
    let mut evidence = Evidence::gather(stage, book).await;
    evidence.failures.extend(shipped.err());
    evidence.answers_are_true();
    evidence.failures_have_a_cause();
    evidence.breaks_are_proved();
    evidence.nothing_was_sent_twice();
    evidence.each_request_has_one_record();
    evidence.records_say_what_was_seen();
    evidence.refusals_are_counted();
    evidence.tell();
    let Evidence { mut failures, item_count, .. } = evidence;
    failures.extend(growth::judge(&stage.samples.lock().unwrap()));
    failures.extend(verified(stage, item_count).await);
    failures
}

/// Waits until DynamoDB has confirmed every record.
async fn shipped(stage: &Stage) -> Result<(), String> {
    let start = Instant::now();
    loop {
        let audit = stage.with_daemon(async |daemon| daemon.admin_get("/status").await.json()["audit"].take()).await;
        if audit["pending"] == 0 && audit["open"] == 0 {
            let page = stage.with_daemon(async |daemon| daemon.metrics().await).await;
            let unrecorded = metric(&page, "bedrock_sidecar_audit_unrecorded_total");
            return if unrecorded == Some(0.0) { Ok(()) } else { Err(format!("unrecorded: {unrecorded:?}")) };
        }
        if start.elapsed() > SHIPPED {
            return Err(format!("not shipped within {SHIPPED:?}: {audit}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// `audit verify`, of the ledger and of the table.
async fn verified(stage: &Stage, items: usize) -> Vec<String> {
    let log = stage.with_daemon(async |daemon| tail(daemon)).await;
    let setup = stage.stop().await;
    let mut failures = Vec::new();
    for source in ["ledger", "dynamodb"] {
        let output = setup.command(&["audit", "verify", "--source", source]).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        println!("audit verify --source {source}: {}", String::from_utf8_lossy(&output.stdout).trim());
        if output.status.code() != Some(0) {
            failures.push(format!("audit verify --source {source}: {said}\n{log}"));
        }
        // Refusals that share a record may be written at the stop.
        let counted = said.split(" records checked; whole").next().and_then(|text| text.split_whitespace().last());
        let counted: usize = counted.and_then(|text| text.parse().ok()).unwrap_or_default();
        if !(items..items + 64).contains(&counted) {
            failures
                .push(format!("audit verify --source {source} has {counted} records, the table had {items}: {said}"));
        }
    }
    failures
}

impl Answer {
    /// The daemon's own, with its sentence.
    pub(crate) fn own_sentence(&self) -> Option<String> {
        let body: Value = serde_json::from_slice(self.body.as_ref()?).ok()?;
        let message = body["message"].as_str()?;
        message.starts_with("bedrock-sidecar: ").then(|| message.to_owned())
    }
}

impl Evidence {
    /// A client is not told what is not so.
    fn answers_are_true(&mut self) {
        for (length, entry) in self.entries.clone() {
            let Some((ended, saw)) = &entry.saw else {
                self.fail(format!("{length}: never ended: {entry:?}"));
                continue;
            };
            let context = format!("{length}: {entry:?}");
            match saw {
                Saw::Left => {}
                Saw::Hung(missing) => self.fail(format!("hung, {missing}: {context}")),
                Saw::Unconnected(why) => {
                    self.fail(format!("sockets that outlive the daemon refuse nobody: {why}: {context}"))
                }
                Saw::Nothing(why) => {
                    let changes = self.changes_during(entry.began, *ended).count();
                    // A kept connection may end as the next request is sent on it.
                    // The end of an answer that breaks off at once may overtake its head: a reset clears what an HTTP/2
                    // stream has queued, and HTTP/1.1 may close before it has written.
                    let excused = self.broken_attempt(length, *ended).is_some()
                        || self.died(entry.began, *ended)
                        || (changes > 0 && entry.reused && !self.received.contains_key(&length));
                    if !excused {
                        self.fail(format!("no answer ({why}), though the daemon lived: {context}"));
                    }
                }
                Saw::Answer(answer) => {
                    if let Some(why) = self.untrue(length, &entry, *ended, answer) {
                        self.fail(format!("{why}: {context}, upstream: {:?}", self.upstream(length)));
                    }
                }
            }
        }
    }

    fn untrue(&self, length: usize, entry: &Entry, ended: Instant, answer: &Answer) -> Option<&'static str> {
        if answer.id.is_none() {
            return Some("an answer without x-bedrock-sidecar-request-id");
        }
        match &answer.end {
            End::Left => return None,
            End::Cut(_) => {
                let broken = self.broken_attempt(length, ended);
                let excused = broken.is_some_and(|last| answer.upstream_id.as_ref() == Some(&last.request_id))
                    || entry.slow
                    || self.died(entry.began, ended);
                return (!excused).then_some("cut, and nothing had cut it");
            }
            End::Whole => {}
        }
        if let Some(sentence) = answer.own_sentence() {
            let of_status: &[&str] = match answer.status {
                400 => &["ValidationException"],
                403 => &["AccessDeniedException"],
                404 => &["UnknownOperationException", "ResourceNotFoundException"],
                408 => &["RequestTimeoutException"],
                429 => &["ThrottlingException"],
                503 => &["ServiceUnavailableException"],
                _ => return Some("an own error of an odd status"),
            };
            let shaped = answer.error_type.as_deref().is_some_and(|kind| of_status.contains(&kind))
                && answer.content_type.as_deref() == Some("application/json")
                && answer.upstream_id == answer.id
                && sentence.ends_with('.');
            return (!shaped).then_some("an own error that is not AWS-shaped");
        }
        let Some(sent) = self
            .received
            .get(&length)
            .and_then(|all| all.iter().find(|request| Some(&request.request_id) == answer.upstream_id.as_ref()))
        else {
            return Some("an answer that no upstream gave to this request");
        };
        let same = sent.status == Some(answer.status)
            && sent.bytes_sent == answer.bytes
            && sent.sent_crc32 == answer.crc32
            && Some(&sent.region) == answer.region.as_ref();
        if !same {
            return Some("another answer than the upstream's");
        }
        // An answer of a known length is whole when that has come, however the connection ends then.
        let is_whole = sent.ended == Ended::Completed
            || (sent.bytes_sent == sent.answer_length
                && !(entry.operation.ends_with("Stream") && answer.status == 200));
        (!is_whole).then_some("an answer that looks whole and is not")
    }

    /// A request that a model may have seen is not sent again.
    fn nothing_was_sent_twice(&mut self) {
        let mut failures = Vec::new();
        for (length, all) in &self.received {
            for request in &all[..all.len() - 1] {
                // Refused: for want of a profile, of a valid key, or of room; or by an error of the service.
                if !matches!(request.status, Some(400 | 403 | 429 | 500 | 503)) {
                    failures.push(format!("{length}: sent again: {:?}", self.upstream(*length)));
                }
            }
        }
        self.failures.extend(failures);
    }

    /// No request that reached an upstream lacks a record, and none has two.
    fn each_request_has_one_record(&mut self) {
        let mut failures = Vec::new();
        let mut by_length: BTreeMap<usize, &Value> = BTreeMap::new();
        for item in self.items.values().filter(|item| item["requestSize"] != 0) {
            let length = usize::try_from(item["requestSize"].as_u64().unwrap()).unwrap();
            if let Some(other) = by_length.insert(length, item) {
                failures.push(format!("{length}: two records: {other} and {item}"));
            }
            if !self.entries.contains_key(&length) {
                failures.push(format!("{length}: nobody sent this: {item}"));
            }
        }
        let mut compared = 0;
        for (length, all) in &self.received {
            let Some(item) = by_length.get(length) else {
                failures.push(format!(
                    "{length}: LOST: no record of {:?}: {:?}",
                    self.upstream(*length),
                    self.entries.get(length)
                ));
                continue;
            };
            let last = all.last().unwrap();
            let says =
                |name: &str, expected: Value| (item[name] != expected).then(|| format!("{name} is not {expected}"));
            let wrong = match item["outcome"].as_str().unwrap_or_default() {
                "completed" => [
                    says("upstreamRequestId", last.request_id.clone().into()),
                    says("destinationRegion", last.region.clone().into()),
                    says("statusCode", last.status.into()),
                    says("responseSize", last.bytes_sent.into()),
                    says("inputTokens", last.input_tokens.into()),
                    says("outputTokens", last.output_tokens.into()),
                ]
                .into_iter()
                .flatten()
                .next(),
                _ => None,
            };
            let (attempts, seen) = (item["attempts"].as_u64().unwrap_or_default(), all.len() as u64);
            // Where every attempt must have arrived, none is made up.
            let all_seen = self.entries.get(length).is_some_and(|entry| match &entry.saw {
                Some((ended, Saw::Answer(answer))) => {
                    answer.end == End::Whole && !self.attempts_unseen(entry.began, *ended)
                }
                _ => false,
            });
            compared += usize::from(all_seen);
            let is_wrong = attempts < seen || (all_seen && attempts > seen);
            let wrong = wrong.or_else(|| is_wrong.then(|| format!("{attempts} attempts")));
            if let Some(wrong) = wrong {
                failures.push(format!("{length}: {wrong} in {item}: {:?}", self.upstream(*length)));
            }
        }
        println!("{compared} of {} requests must have as many attempts as arrived", self.received.len());
        self.failures.extend(failures);
    }

    /// What a client saw stands in the record of its request.
    fn records_say_what_was_seen(&mut self) {
        let mut failures = Vec::new();
        let mut ids = BTreeSet::new();
        for (length, entry) in &self.entries {
            let Some((ended, Saw::Answer(answer))) = &entry.saw else { continue };
            let Some(id) = &answer.id else { continue };
            if !ids.insert(id.clone()) {
                failures.push(format!("{length}: the id of another request: {entry:?}"));
            }
            let Some(item) = self.items.get(id) else { continue };
            if let Some(wrong) = self.wrong(*length, entry, *ended, answer, item) {
                failures.push(format!("{length}: {wrong} in {item}: {entry:?}"));
            }
        }
        self.failures.extend(failures);
    }

    fn wrong(&self, length: usize, entry: &Entry, ended: Instant, answer: &Answer, item: &Value) -> Option<String> {
        let says = |name: &str, expected: Value| (item[name] != expected).then(|| format!("{name} is not {expected}"));
        let outcome = item["outcome"].as_str().unwrap_or_default();
        let named = [
            says("operation", entry.operation.into()),
            says("caller", entry.caller.into()).filter(|_| entry.operation != "Unknown"),
            says("modelId", entry.model.into()).filter(|_| entry.operation != "Unknown"),
        ];
        if let Some(wrong) = named.into_iter().flatten().next() {
            return Some(wrong);
        }
        let among = |all: &[&str]| (!all.contains(&outcome)).then(|| format!("the outcome {outcome}"));
        match &answer.end {
            End::Left => says("statusCode", answer.status.into())
                .filter(|_| item["statusCode"] != 499 && outcome != "interrupted"),
            End::Cut(_) if self.died(entry.began, ended) => None,
            End::Cut(_) => {
                let fewer = item["responseSize"].as_u64().unwrap_or_default() < answer.bytes;
                among(&["upstream_broke", "client_stalled", "client_disconnected"])
                    .or_else(|| says("statusCode", answer.status.into()).filter(|_| item["statusCode"] != 499))
                    .or_else(|| fewer.then(|| "fewer bytes than the client has".to_owned()))
            }
            End::Whole => {
                let size = || says("responseSize", answer.bytes.into());
                let status = || says("statusCode", answer.status.into());
                if let Some(sentence) = answer.own_sentence() {
                    let said = item["errorMessage"].as_str().unwrap_or_default();
                    let other = !sentence.starts_with(said);
                    return among(&["refused", "upstream_broke"])
                        .or_else(status)
                        .or_else(size)
                        .or_else(|| other.then(|| format!("another message than {sentence}")));
                }
                let excepted = answer
                    .body
                    .as_ref()
                    .is_some_and(|body| body.windows(15).any(|window| window == b":exception-type"));
                let expected = if answer.status == 200 && !excepted { "completed" } else { "upstream_error" };
                let size_in = says("requestSize", (length as u64).into());
                let tokens = answer.tokens.and_then(|(input, output)| {
                    says("inputTokens", input.into()).or_else(|| says("outputTokens", output.into()))
                });
                among(&[expected])
                    .or_else(status)
                    .or_else(size)
                    .or(size_in)
                    .or_else(|| says("upstreamRequestId", answer.upstream_id.clone().into()))
                    .or_else(|| says("destinationRegion", answer.region.clone().into()))
                    .or(tokens)
            }
        }
    }

    /// A refusal without a record of its own is counted by another one.
    fn refusals_are_counted(&mut self) {
        let mut missing: BTreeMap<u16, Vec<(Instant, String)>> = BTreeMap::new();
        for (length, entry) in &self.entries {
            let Some((ended, Saw::Answer(answer))) = &entry.saw else { continue };
            let Some(id) = answer.id.as_ref().filter(|id| !self.items.contains_key(*id)) else { continue };
            let context = format!("{length}: LOST: no record of {id}: {entry:?}");
            if answer.own_sentence().is_none() {
                self.failures.push(context);
            } else {
                missing.entry(answer.status).or_default().push((*ended, context));
            }
        }
        for (status, missing) in missing {
            let of_status = self.items.values().filter(|item| item["statusCode"] == status);
            let counted: u64 = of_status.filter_map(|item| item["repeated"].as_u64()).sum();
            let killed = missing.iter().filter(|(at, _)| {
                self.changes
                    .iter()
                    .any(|change| change.death == Death::Killed && *at < change.ended && *at + MINUTE > change.began)
            });
            // The first of those that share a record is that record, under its own id.
            let allowed = usize::try_from(counted).unwrap() + killed.count();
            if missing.len() > allowed {
                let (total, (_, example)) = (missing.len(), &missing[0]);
                self.failures.push(format!("{total} refusals with {status}, {counted} counted: {example}"));
            }
        }
    }

    /// A line on what there was, so that a run in which nothing happened does not look like one in which all went well.
    fn tell(&self) {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for entry in self.entries.values() {
            let name = match &entry.saw {
                Some((_, Saw::Answer(answer))) => {
                    let whose = if answer.own_sentence().is_some() { "own " } else { "" };
                    match &answer.end {
                        End::Whole => format!("{whose}{}", answer.status),
                        End::Cut(_) => format!("{} cut", answer.status),
                        End::Left => "left amid it".to_owned(),
                    }
                }
                Some((_, Saw::Left)) => "left".to_owned(),
                Some((_, Saw::Nothing(_))) => "no answer".to_owned(),
                other => format!("{other:?}"),
            };
            *seen.entry(name).or_default() += 1;
        }
        let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
        for item in self.items.values() {
            *outcomes.entry(item["outcome"].as_str().unwrap_or_default()).or_default() += 1;
        }
        println!("{} requests, seen by clients: {seen:?}", self.entries.len());
        println!("{} received upstream, {} records: {outcomes:?}", self.received.len(), self.items.len());
        println!("{} changes of processes", self.changes.len());
    }
}
