//! Keeps refused requests from filling the ledger. Of each caller and reason, the first refusals of a minute are
//! records of their own; the rest of that minute become one record, which says how many more it stands for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::item::timestamp;
use crate::record::Record;

/// Refusals of one caller and reason that are records of their own, in each window.
const SINGLE_RECORDS: u32 = 30;
const WINDOW: Duration = Duration::from_secs(60);
/// Callers and reasons that are told apart; all beyond share one group.
const MAX_GROUPS: usize = 256;

/// Who was refused, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    /// None when the kernel does not say: all of them are one caller.
    uid: Option<u32>,
    status: u16,
    error_type: &'static str,
}

/// How much room the ledger has for refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// Refusals may be records of their own.
    Plenty,
    /// What is left is kept for admitted requests. Refusals are written at the end of their minute.
    Scarce,
    /// As long as this lasts, they wait in memory.
    None,
}

/// Gathers refusals. It reads no clock: it is given `now`.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    groups: HashMap<Key, Group>,
    /// Where the callers and reasons beyond [`MAX_GROUPS`] are counted.
    others: Group,
    window: Option<Instant>,
    /// Refusals that have no record of their own, since the start.
    coalesced: u64,
    /// Of them, those since the last log line.
    unreported: u64,
}

#[derive(Debug, Default)]
struct Group {
    /// Records of their own in this window.
    singles: u32,
    held: Option<Held>,
}

/// The first refusal of those that become one record.
#[derive(Debug)]
struct Held {
    record: Box<Record>,
    repeated: u64,
    last_ms: i64,
}

impl Refusals {
    /// Whether this refusal is to be written as a record of its own. If not, it is counted and written later.
    pub(crate) fn admit(&mut self, record: &Record, error_type: &'static str, now: Instant, room: Room) -> bool {
        self.window.get_or_insert(now);
        let key = Key { uid: record.caller_uid, status: record.status_code, error_type };
        let shared = self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&key);
        let group = if shared { &mut self.others } else { self.groups.entry(key).or_default() };
        if room == Room::Plenty && group.held.is_none() && group.singles < SINGLE_RECORDS {
            group.singles += 1;
            return true;
        }
        match &mut group.held {
            Some(held) => {
                held.repeated += 1;
                held.last_ms = record.started_ms;
                self.coalesced += 1;
                self.unreported += 1;
            }
            None => {
                let record = if shared { of_many_callers(record) } else { record.clone() };
                group.held = Some(Held { last_ms: record.started_ms, record: Box::new(record), repeated: 0 });
            }
        }
        false
    }

    /// What has to be written because its minute has passed, and the number of refusals to warn about.
    pub(crate) fn take_due(&mut self, now: Instant, room: Room) -> (Vec<Record>, u64) {
        if self.window.is_none_or(|began| now.saturating_duration_since(began) < WINDOW) {
            return (Vec::new(), 0);
        }
        self.window = None;
        let records = if room == Room::None { Vec::new() } else { self.take_held() };
        self.groups.retain(|_, group| {
            group.singles = 0;
            group.held.is_some()
        });
        self.others.singles = 0;
        if !self.groups.is_empty() || self.others.held.is_some() {
            self.window = Some(now);
        }
        (records, std::mem::take(&mut self.unreported))
    }

    /// Everything that waits, when the ledger stops.
    pub(crate) fn take_held(&mut self) -> Vec<Record> {
        let groups = self.groups.values_mut().chain(std::iter::once(&mut self.others));
        groups.filter_map(|group| group.held.take()).map(Held::into_record).collect()
    }

    /// When [`Refusals::take_due`] has something to do; none while nothing was refused.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.window.map(|began| began + WINDOW)
    }

    pub(crate) fn coalesced_total(&self) -> u64 {
        self.coalesced
    }
}

impl Held {
    fn into_record(self) -> Record {
        let mut record = *self.record;
        if self.repeated > 0 {
            record.repeated = Some(self.repeated);
            record.last_timestamp = Some(timestamp(self.last_ms));
        }
        record
    }
}

/// The shared record must not name the first of many callers.
fn of_many_callers(record: &Record) -> Record {
    Record {
        caller: None,
        caller_uid: None,
        access_key_id: None,
        error_message: Some("bedrock-sidecar: refusals of several callers and for several reasons".to_owned()),
        ..record.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Outcome;

    fn refused(uid: Option<u32>, status_code: u16, started_ms: i64) -> Record {
        Record { caller_uid: uid, status_code, started_ms, outcome: Outcome::Refused, ..Record::default() }
    }

    #[test]
    fn the_first_thirty_are_records_and_the_rest_of_the_minute_is_one() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let mut written = 0;
        for number in 0..100_000 {
            let record = refused(Some(1000), 403, number);
            written += u32::from(refusals.admit(&record, "AccessDeniedException", start, Room::Plenty));
        }
        assert_eq!(written, 30);
        // Another caller, another reason, and a caller whose uid nobody knows are not touched by that.
        for (uid, status, error_type) in [
            (Some(1001), 403, "AccessDeniedException"),
            (Some(1000), 404, "UnknownOperationException"),
            (Some(1000), 403, "InvalidSignatureException"),
            (None, 403, "AccessDeniedException"),
        ] {
            assert!(refusals.admit(&refused(uid, status, 1), error_type, start, Room::Plenty), "{uid:?} {status}");
        }
        assert_eq!(refusals.take_due(start + Duration::from_secs(59), Room::Plenty).0, []);
        let (records, warned) = refusals.take_due(start + WINDOW, Room::Plenty);
        assert_eq!((records.len(), warned), (1, 99_969));
        assert_eq!((records[0].started_ms, records[0].repeated), (30, Some(99_969)));
        assert_eq!(records[0].last_timestamp.as_deref(), Some("1970-01-01T00:01:39.999Z"));
        assert_eq!(refusals.coalesced_total(), 99_969);
        // The next minute begins anew.
        assert_eq!(refusals.due(), None);
        assert!(refusals.admit(&refused(Some(1000), 403, 1), "AccessDeniedException", start + WINDOW, Room::Plenty));
        assert_eq!(refusals.take_due(start + 2 * WINDOW, Room::Plenty), (Vec::new(), 0));
    }

    #[test]
    fn a_single_refusal_that_had_to_wait_is_a_plain_record() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        assert!(!refusals.admit(&refused(None, 429, 5), "", start, Room::Scarce));
        let (records, warned) = refusals.take_due(start + WINDOW, Room::Scarce);
        assert_eq!((records, warned), (vec![refused(None, 429, 5)], 0));
    }

    #[test]
    fn without_room_they_wait_and_add_up_over_minutes() {
        let (mut refusals, mut now) = (Refusals::default(), Instant::now());
        for minute in 0..10 {
            for _ in 0..50 {
                assert!(!refusals.admit(&refused(None, 403, minute), "", now, Room::None));
            }
            now += WINDOW;
            assert_eq!(refusals.take_due(now, Room::None).0, []);
        }
        let records = refusals.take_held();
        assert_eq!((records.len(), records[0].repeated), (1, Some(499)));
    }

    #[test]
    fn callers_and_reasons_beyond_the_bound_share_a_record_that_names_none_of_them() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let mut written = 0;
        for uid in 0..10_000 {
            written += usize::from(refusals.admit(&refused(Some(uid), 403, 7), "", start, Room::Plenty));
        }
        assert_eq!(written, MAX_GROUPS + 30);
        let (records, _) = refusals.take_due(start + WINDOW, Room::Plenty);
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].caller_uid, records[0].repeated), (None, Some(10_000 - 256 - 31)));
        assert!(refusals.groups.is_empty());
    }
}
