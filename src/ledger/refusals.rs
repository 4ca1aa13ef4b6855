//! Keeps refused requests from filling the ledger, and the log. Of each caller and reason, the first refusals of a minute
//! are records of their own; the rest of that minute become one record, which says how many more it stands for.
//!
//! The same goes for what the daemon answers from what it knows, which costs the caller as little. There the operation is
//! the reason.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::timestamp::timestamp;
use crate::caller::User;
use crate::record::{Outcome, Record};

/// Refusals of one caller and reason that are records of their own, in each window.
const SINGLE_RECORDS: u32 = 30;
const WINDOW: Duration = Duration::from_secs(60);
/// Callers and reasons that are told apart; all beyond share one group.
const MAX_GROUPS: usize = 256;

/// Who was refused, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    user: User,
    status: u16,
    reason: &'static str,
}

/// Where a refusal is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is a record of its own.
    Own,
    /// It is the first of those that share a record, which is written later.
    FirstOfShared,
    /// It is only counted.
    Shared,
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
    /// Where the callers and reasons beyond [`MAX_GROUPS`] are counted: refusals, and answers.
    others: [Group; 2],
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
    /// Says whether this refusal is to be written as a record of its own. If not, it is counted and written later.
    pub(crate) fn admit(&mut self, record: &Record, error_type: &'static str, now: Instant, room: Room) -> Place {
        self.window.get_or_insert(now);
        let is_answer = record.outcome == Outcome::Completed;
        let reason = match &record.operation {
            Cow::Borrowed(operation) if is_answer => operation,
            _ => error_type,
        };
        let key = Key { user: User::at(record.caller_uid, &record.source_ip), status: record.status_code, reason };
        let shared = self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&key);
        let group = if shared { &mut self.others[usize::from(is_answer)] } else { self.groups.entry(key).or_default() };
        if room == Room::Plenty && group.held.is_none() && group.singles < SINGLE_RECORDS {
            group.singles += 1;
            return Place::Own;
        }
        match &mut group.held {
            Some(held) => {
                held.repeated += 1;
                held.last_ms = record.started_ms;
                self.coalesced += 1;
                self.unreported += 1;
                Place::Shared
            }
            None => {
                let record = if shared { of_many_callers(record) } else { record.clone() };
                group.held = Some(Held { last_ms: record.started_ms, record: Box::new(record), repeated: 0 });
                Place::FirstOfShared
            }
        }
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
        self.others.iter_mut().for_each(|group| group.singles = 0);
        if !self.groups.is_empty() || self.others.iter().any(|group| group.held.is_some()) {
            self.window = Some(now);
        }
        (records, std::mem::take(&mut self.unreported))
    }

    /// Everything that waits, when the ledger stops.
    pub(crate) fn take_held(&mut self) -> Vec<Record> {
        let groups = self.groups.values_mut().chain(&mut self.others);
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
        error_message: (record.outcome != Outcome::Completed)
            .then(|| "bedrock-sidecar: refusals of several callers and for several reasons".to_owned()),
        ..record.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(uid: Option<u32>, status_code: u16, started_ms: i64) -> Record {
        Record { caller_uid: uid, status_code, started_ms, outcome: Outcome::Refused, ..Record::default() }
    }

    #[test]
    fn the_first_thirty_are_records_and_the_rest_of_the_minute_is_one() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let mut written = 0;
        for number in 0..100_000 {
            let record = refused(Some(1000), 403, number);
            written += u32::from(refusals.admit(&record, "AccessDeniedException", start, Room::Plenty) == Place::Own);
        }
        assert_eq!(written, 30);
        // Another caller, another reason, and a caller whose uid nobody knows are not touched by that.
        for (uid, status, error_type) in [
            (Some(1001), 403, "AccessDeniedException"),
            (Some(1000), 404, "UnknownOperationException"),
            (Some(1000), 403, "InvalidSignatureException"),
            (None, 403, "AccessDeniedException"),
        ] {
            let place = refusals.admit(&refused(uid, status, 1), error_type, start, Room::Plenty);
            assert_eq!(place, Place::Own, "{uid:?} {status}");
        }
        for source in ["10.0.0.1", "10.0.0.2"] {
            let record = Record { source_ip: source.to_owned(), ..refused(None, 403, 1) };
            for _ in 0..SINGLE_RECORDS {
                let place = refusals.admit(&record, "AccessDeniedException", start, Room::Plenty);
                assert_eq!(place, Place::Own, "{source}");
            }
        }
        assert_eq!(refusals.take_due(start + Duration::from_secs(59), Room::Plenty).0, []);
        let (records, warned) = refusals.take_due(start + WINDOW, Room::Plenty);
        assert_eq!((records.len(), warned), (1, 99_969));
        assert_eq!((records[0].started_ms, records[0].repeated), (30, Some(99_969)));
        assert_eq!(records[0].last_timestamp.as_deref(), Some("1970-01-01T00:01:39.999Z"));
        assert_eq!(refusals.coalesced_total(), 99_969);
        // The next minute begins anew.
        assert_eq!(refusals.due(), None);
        let again = refusals.admit(&refused(Some(1000), 403, 1), "AccessDeniedException", start + WINDOW, Room::Plenty);
        assert_eq!(again, Place::Own);
        assert_eq!(refusals.take_due(start + 2 * WINDOW, Room::Plenty), (Vec::new(), 0));
    }

    #[test]
    fn answers_of_the_daemon_are_told_apart_by_their_operation_and_from_refusals() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let answered = |operation: &'static str| Record {
            operation: operation.into(),
            outcome: Outcome::Completed,
            ..refused(Some(1000), 200, 9)
        };
        let mut admit = |record: &Record| refusals.admit(record, "", start, Room::Plenty);
        let places: Vec<Place> = (0..40).map(|_| admit(&answered("RoutingInformation"))).collect();
        assert!(places[..30].iter().all(|place| *place == Place::Own));
        assert_eq!((places[30], places[31], places[39]), (Place::FirstOfShared, Place::Shared, Place::Shared));
        assert_eq!(admit(&answered(Record::DASHBOARD)), Place::Own);
        assert_eq!(admit(&refused(Some(1000), 200, 9)), Place::Own);
        let records = refusals.take_held();
        assert_eq!((records.len(), records[0].outcome, records[0].repeated), (1, Outcome::Completed, Some(9)));
    }

    #[test]
    fn a_single_refusal_that_had_to_wait_is_a_plain_record() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        assert_eq!(refusals.admit(&refused(None, 429, 5), "", start, Room::Scarce), Place::FirstOfShared);
        let (records, warned) = refusals.take_due(start + WINDOW, Room::Scarce);
        assert_eq!((records, warned), (vec![refused(None, 429, 5)], 0));
    }

    #[test]
    fn without_room_they_wait_and_add_up_over_minutes() {
        let (mut refusals, mut now) = (Refusals::default(), Instant::now());
        for minute in 0..10 {
            for _ in 0..50 {
                assert_ne!(refusals.admit(&refused(None, 403, minute), "", now, Room::None), Place::Own);
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
            let place = refusals.admit(&refused(Some(uid), 403, 7), "", start, Room::Plenty);
            written += usize::from(place == Place::Own);
        }
        assert_eq!(written, MAX_GROUPS + 30);
        let (records, _) = refusals.take_due(start + WINDOW, Room::Plenty);
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].caller_uid, records[0].repeated), (None, Some(10_000 - 256 - 31)));
        assert!(refusals.groups.is_empty());
    }
}
