//! A ledger at its bound where there is no table: it refuses, or deletes its oldest records.

use bedrock_sidecar::config::OnFull;
use bedrock_sidecar::settings;

use super::child;
use super::kit::{self, completed, items, record, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_ledger_refuses_or_deletes_its_oldest_records() {
    for on_full in [OnFull::Prune, OnFull::Deny] {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings::Audit { max_ledger_bytes: 200_000, on_full, ..kit::settings(directory.path()) };
        let audit = start(&settings).await;
        let mut refused = 0;
        for number in 0..2_000 {
            let record = record(number);
            match audit.open(&record).await {
                Ok(opened) => audit.close(opened, &completed(&record)),
                Err(_) => refused += 1,
            }
        }
        audit.flush().await;
        let bytes = audit.status().bytes;
        audit.stop(kit::far()).await;
        drop(audit);
        let (whole, report) = child::audit(directory.path(), None, "verify");
        assert!(whole, "{report}");
        let items = items(directory.path());
        if on_full == OnFull::Prune {
            assert_eq!(refused, 0);
            assert!((100_000..=180_000).contains(&bytes), "{bytes}");
            assert_eq!(items.last().unwrap()["requestSize"], 1_999, "the newest are kept");
            assert_eq!(items.last().unwrap()["chainSeq"], 2_000);
            assert_eq!(items[0]["chainSeq"], 2_001 - items.len());
            // A ledger that was pruned starts again and goes on.
            let audit = start(&settings).await;
            kit::serve(&audit, &record(2_000)).await;
            audit.stop(kit::far()).await;
            drop(audit);
            assert!(child::audit(directory.path(), None, "verify").0);
        } else {
            assert_eq!(refused, 2_000 - items.len());
            assert!(refused > 1_000);
        }
    }
}
