//! What the ledger tells limits of use that they have forgotten.

use std::sync::Arc;

use super::{completed, record, settings};
use crate::config::Durability;
use crate::ledger::Ledger;
use crate::limits::{ChainHead, UseRecords};
use crate::record::{Outcome, Record, Usage};

const USAGE: Usage = Usage {
    input_tokens: Some(4),
    output_tokens: Some(6),
    cache_read_tokens: None,
    cache_write_tokens: None,
    cache_write_1h_tokens: None,
};

async fn serve(ledger: &Ledger, number: u64, cost_nano_usd: Option<u64>) {
    let record = record(number);
    let opened = ledger.open(&record).await.unwrap();
    ledger.close(opened, &Record { usage: USAGE, cost_nano_usd, ..completed(&record) });
}

#[tokio::test]
async fn a_cost_that_is_unknown_is_not_told_as_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::start(&settings(directory.path(), Durability::Process)).await.unwrap();
    let before = ledger.head().unwrap();
    serve(&ledger, 0, None).await;
    serve(&ledger, 1, Some(7)).await;
    let open = [0, 1].map(|number| record(number).request_id);
    let known = ledger.after(before, None, open.to_vec()).await.unwrap().known;
    assert_eq!((known[&open[0]], known[&open[1]]), ((10, None), (10, Some(7))));
    let used = ledger.all(None).await.unwrap();
    let of = |used: &crate::limits::PastUse| (used.tokens, used.nano_usd, used.unpriced.output_tokens);
    assert_eq!(used.iter().map(of).collect::<Vec<_>>(), [(20, 7, Some(6))]);
}

#[tokio::test]
async fn what_is_recorded_later_than_asked_for_is_not_told() {
    let directory = tempfile::tempdir().unwrap();
    let ledger: Arc<Ledger> = Ledger::start(&settings(directory.path(), Durability::Process)).await.unwrap();
    let before = ledger.head().unwrap();
    serve(&ledger, 0, Some(7)).await;
    let until = ledger.head();
    serve(&ledger, 1, Some(100)).await;
    assert_eq!(ledger.all(until.clone()).await.unwrap()[0].nano_usd, 7);
    let after = ledger.after(before.clone(), until.clone(), Vec::new()).await.unwrap();
    assert_eq!((after.used.len(), after.used[0].nano_usd), (1, 7));
    let not_there = until.map(|head| ChainHead { seq: 99, ..head });
    assert!(ledger.after(before, not_there.clone(), Vec::new()).await.is_err(), "the database lacks records");
    assert!(ledger.all(not_there).await.is_err());
}

/// What came of an attempt before the last one, and of one that a gateway answered for, no record tells.
#[tokio::test]
async fn a_failure_tells_what_was_used_only_if_the_upstream_itself_has_refused_it_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::start(&settings(directory.path(), Durability::Process)).await.unwrap();
    let before = ledger.head().unwrap();
    for (number, (status_code, attempts, is_known)) in
        [(503, 1, true), (429, 1, true), (503, 2, false), (502, 1, false), (504, 1, false)].into_iter().enumerate()
    {
        let record = Record { attempts, ..record(number as u64) };
        let opened = ledger.open(&record).await.unwrap();
        ledger.close(opened, &Record { outcome: Outcome::UpstreamError, status_code, ..record.clone() });
        let open = vec![record.request_id];
        let known = ledger.after(before.clone(), None, open.clone()).await.unwrap().known;
        let expected = is_known.then_some((0, Some(0)));
        assert_eq!(known.get(&open[0]).copied(), expected, "{status_code} after {attempts} attempts");
    }
}
