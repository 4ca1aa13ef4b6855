//! What the test itself knows of the run: what clients and upstreams saw, what the proxies between did, when something was
//! wrong, and which records there are. What the daemon claims is judged by it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use simulator::{Ended, Received, Simulator};
use test_support::dynamodb;

use crate::book::{Book, Entry};
use crate::plan::Trouble;
use crate::proxy::Deeds;
use crate::stage::{Change, DRAIN, Death, IDLE, REGIONS, Spell, Stage};

/// How exact times are at which something was seen.
const NEAR: Duration = Duration::from_secs(1);

/// How long connections may be kept that a trouble has broken without a word.
const AFTERMATH: Duration = Duration::from_secs(25);

pub(crate) struct Evidence {
    pub(crate) entries: BTreeMap<usize, Entry>,
    /// Requests for models, by the length of the body, in the order of their arrival.
    pub(crate) received: BTreeMap<usize, Vec<Received>>,
    /// Records by their ids, but those of starts.
    pub(crate) items: BTreeMap<String, Value>,
    /// All records.
    pub(crate) item_count: usize,
    pub(crate) changes: Vec<Change>,
    spells: Vec<Spell>,
    /// When the upstreams and the networks stood still, because the machine left this test no time.
    stalls: Vec<(Instant, Instant)>,
    networks: [Deeds; 2],
    /// Connections that an upstream has cut, by its region.
    cut: BTreeSet<(String, u64)>,
    pub(crate) failures: Vec<String>,
}

impl Evidence {
    pub(crate) async fn gather(stage: &Stage, book: &Book) -> Evidence {
        let all_items = dynamodb::items(&dynamodb::local(), stage.table_name).await;
        let mut evidence = Evidence {
            entries: book.entries(),
            received: BTreeMap::new(),
            items: BTreeMap::new(),
            item_count: all_items.len(),
            changes: stage.changes.lock().unwrap().clone(),
            spells: stage.spells.lock().unwrap().clone(),
            stalls: stage.stalls.lock().unwrap().clone(),
            networks: [stage.networks[0].deeds(), stage.networks[1].deeds()],
            cut: BTreeSet::new(),
            failures: Vec::new(),
        };
        evidence.items.extend(all_items.into_iter().filter(|(_, item)| item["operation"] != "LedgerStart"));
        for request in stage.bedrocks.iter().flat_map(Simulator::requests) {
            evidence.add(request);
        }
        evidence.received.values_mut().for_each(|all| all.sort_by_key(|request| request.arrived_us));
        evidence
    }

    fn add(&mut self, request: Received) {
        if !request.leaks.is_empty() {
            self.failures.push(format!("it leaked {:?}: {request:?}", request.leaks));
        }
        if request.ended == Ended::Cut {
            self.cut.insert((request.region.clone(), request.connection));
        }
        let operation = request.operation.as_deref().unwrap_or_default();
        if operation.starts_with("Converse") || operation.starts_with("InvokeModel") {
            self.received.entry(request.body_length).or_default().push(request);
        }
    }

    pub(crate) fn fail(&mut self, text: String) {
        self.failures.push(text);
    }

    /// What the upstreams saw of a request, in short.
    pub(crate) fn upstream(&self, length: usize) -> Vec<String> {
        let brief = |one: &Received| {
            let Received { region, request_id, status, fault, bytes_sent, answer_length, ended, arrived_us, .. } = one;
            format!(
                "{region} {request_id}: {status:?}, {fault:?}, {bytes_sent} of {answer_length} bytes, {ended:?}, at {arrived_us}"
            )
        };
        self.received.get(&length).into_iter().flatten().map(brief).collect()
    }

    /// The changes of processes that a request lived through.
    pub(crate) fn changes_during(&self, began: Instant, ended: Instant) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(move |change| began <= change.ended + NEAR && ended + NEAR >= change.began)
    }

    /// Whether a request may have lost its answer by the end of its process: by a kill, or as the drain's time had passed.
    pub(crate) fn died(&self, began: Instant, ended: Instant) -> bool {
        self.changes_during(began, ended)
            .any(|change| change.death == Death::Killed || change.gone - change.began >= DRAIN)
    }

    /// The last attempt of a request that an upstream saw, if that broke the answer off by `ended`, or the network did, or
    /// was silent for longer than the daemon waits.
    pub(crate) fn broken_attempt(&self, length: usize, ended: Instant) -> Option<&Received> {
        let last = self.received.get(&length)?.last()?;
        let (arrived, place) = (moment(last.arrived_us), REGIONS.iter().position(|region| *region == last.region)?);
        let network = &self.networks[place];
        let is_broken = last.ended == Ended::Cut
            || self.cut.contains(&(last.region.clone(), last.connection))
            || network.has_ended(last.client_port, arrived)
            || network.longest_silence(arrived, ended) + NEAR > IDLE
            || self.stood_still(arrived, ended)
            || self
                .felt(arrived, ended)
                .any(|spell| matches!(spell.trouble, Trouble::Down(down) if down.numbers().contains(&place)));
        is_broken.then_some(last)
    }

    /// The troubles that a request may have felt.
    fn felt(&self, began: Instant, ended: Instant) -> impl Iterator<Item = &Spell> {
        self.spells.iter().filter(move |spell| spell.began <= ended && spell.over.is_none_or(|over| began <= over))
    }

    /// Whether something may have kept the upstreams from answering a request.
    pub(crate) fn upstreams_failed(&self, began: Instant, ended: Instant) -> bool {
        self.stood_still(began, ended) || self.felt(began, ended).any(|spell| spell.trouble.fails_upstreams())
    }

    /// Whether an attempt may have gone where no upstream saw it: a connection, or the process, may have ended under it.
    pub(crate) fn attempts_unseen(&self, began: Instant, ended: Instant) -> bool {
        let before = began.checked_sub(AFTERMATH).unwrap_or(began);
        self.stood_still(before, ended)
            || self.changes_during(before, ended).next().is_some()
            || self.felt(before, ended).any(|spell| spell.trouble.ends_connections())
    }

    fn stood_still(&self, from: Instant, to: Instant) -> bool {
        self.stalls.iter().any(|(began, ended)| *began <= to && from <= *ended)
    }

    /// Whether there may have been no good key: the only one was revoked, or the secret could not be read when it was needed.
    pub(crate) fn key_failed(&self, began: Instant, ended: Instant) -> bool {
        self.felt(began, ended).any(|spell| {
            let over = spell.over.unwrap_or(ended);
            spell.trouble == Trouble::Revocation
                || (spell.trouble.hides_key() && self.felt(spell.began, over).any(|other| other.trouble.needs_key()))
        })
    }
}

/// A time of the upstreams' clock.
fn moment(micros: u64) -> Instant {
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
    Instant::now() - time.elapsed().unwrap_or_default()
}
