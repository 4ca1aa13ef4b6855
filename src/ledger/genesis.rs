//! How a chain begins: with a record of the daemon's own that says which chain of this host came before it, so that a
//! ledger that was removed leaves a trace in the one that takes its place.
//!
//! Requests do not wait for the table. With one, the first record says that it is being searched, and a later one what
//! was found.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::chain::Chain;
use super::clients::Clients;
use super::clock::now_ms;
use super::core::Core;
use super::former::{self, Found};
use crate::record::{Former, FormerChain, Outcome, Record};

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// So many failures are taken for a bad moment. Then the chain says that the table could not be searched.
const FAILURES_TO_SAY: u32 = 5;

/// A beginning that does not say yet what came before it. Kept in a file, so that a later process says it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Genesis {
    chain_id: String,
    /// The chain before, if this directory has it.
    former: Option<Chain>,
    /// That chain may have lost its newest records here; the table may have them.
    #[serde(default)]
    is_former_cut: bool,
    /// Chains between that one and this, of which no record is here. The table may have some.
    #[serde(default)]
    passed_over: Vec<String>,
    /// What the chain says of it by now.
    said: Option<FormerChain>,
    #[serde(skip)]
    path: PathBuf,
}

impl Genesis {
    /// Of a chain that is begun now, behind `former`, which may have gone on beyond what is known of it here if
    /// `is_former_cut`.
    pub(crate) fn new(path: PathBuf, chain_id: &str, former: Option<Chain>, is_former_cut: bool) -> Genesis {
        let mut genesis = Genesis {
            chain_id: chain_id.to_owned(),
            former,
            is_former_cut,
            passed_over: Vec::new(),
            said: None,
            path: path.clone(),
        };
        // What a chain without records was to be begun behind, is still to be named.
        if let Some(empty) = genesis.former.as_ref().filter(|former| former.seq == 0)
            && let Some(before) = Genesis::load(path, &empty.chain_id)
        {
            genesis.passed_over = before.passed_over;
            genesis.passed_over.push(before.chain_id);
            genesis.former = before.former;
            genesis.is_former_cut |= before.is_former_cut;
        }
        genesis.save();
        genesis
    }

    /// The one that an earlier process did not finish; none for a chain whose beginning is told.
    pub(crate) fn load(path: PathBuf, chain_id: &str) -> Option<Genesis> {
        let genesis: Genesis = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        Some(Genesis { path, ..genesis }).filter(|genesis| genesis.chain_id == chain_id)
    }

    fn save(&self) {
        let beside = self.path.with_extension("new");
        let written = serde_json::to_vec(self)
            .map_err(std::io::Error::other)
            .and_then(|json| std::fs::write(&beside, json))
            .and_then(|()| std::fs::rename(&beside, &self.path));
        if let Err(error) = written {
            tracing::debug!(path = %self.path.display(), %error, "what is to be said of the chain's beginning cannot be kept");
        }
    }

    /// Says what can be said without waiting. True when that is all there is to say.
    pub(crate) fn begin(&mut self, core: &Core, own: &Record) -> bool {
        match self.known(core) {
            Some(known) => self.say(core, own, known, None, true),
            None if self.said.is_some() => false,
            None => {
                self.say(core, own, nothing(FormerChain::Searching), None, false);
                false
            }
        }
    }

    /// What need not be searched for.
    fn known(&self, core: &Core) -> Option<Former> {
        let has_table = core.settings.load().table.is_some();
        match &self.former {
            Some(_) if has_table && self.is_former_cut => None,
            Some(former) => Some(found(former.clone(), Some(expiry(core)))),
            None => (!has_table).then(|| nothing(FormerChain::NoTable)),
        }
    }

    /// Says the rest, once the ledger takes it and the table has answered.
    pub(crate) async fn finish(mut self, core: Arc<Core>, clients: Arc<Clients>, own: Record) {
        let mut stopping = core.stopping.subscribe();
        let mut wait = FIRST_RETRY;
        for failures in 1.. {
            let (former, why, is_all) = match self.known(&core) {
                Some(known) => (known, None, true),
                None => tokio::select! {
                    searched = self.search(&core, &clients) => searched,
                    _ = stopping.wait_for(|stop| *stop) => return,
                },
            };
            let is_news = is_all || (failures >= FAILURES_TO_SAY && self.said != Some(FormerChain::Unknown));
            if is_news && self.say(&core, &own, former, why, is_all) && is_all {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(LAST_RETRY),
                _ = stopping.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// What the table says, why if it says nothing, and whether that is the last word.
    async fn search(&self, core: &Core, clients: &Clients) -> (Former, Option<String>, bool) {
        let table = core.settings.load().table.clone().unwrap_or_default();
        let client = clients.client().await;
        match former::search(&client, &table, &core.host_id, &self.chain_id).await {
            Ok(Found::Head(head, ttl)) => match &self.former {
                // What this directory still has is shipped later, if it is not in the table yet.
                Some(known) if !self.passed_over.contains(&head.chain_id) && !goes_beyond(&head, known) => {
                    (found(known.clone(), Some(expiry(core))), None, true)
                }
                _ => (found(head, ttl), None, true),
            },
            Ok(nowhere) => match (&self.former, nowhere) {
                (Some(known), _) => (found(known.clone(), Some(expiry(core))), None, true),
                (None, Found::TooMany(why)) => (nothing(FormerChain::Unknown), Some(why), true),
                (None, _) => (nothing(FormerChain::None), None, true),
            },
            Err(failure) => {
                clients.reset().await;
                (nothing(FormerChain::Unknown), Some(failure.sentence), false)
            }
        }
    }

    /// Writes a record; false when the ledger does not take it now.
    fn say(&mut self, core: &Core, own: &Record, former: Former, why: Option<String>, is_all: bool) -> bool {
        let said = former.former_chain;
        let id = former.former_chain_id.clone().unwrap_or_default();
        let seq = former.former_chain_seq.unwrap_or_default();
        let (outcome, status_code) =
            if why.is_some() { (Outcome::UpstreamBroke, 503) } else { (Outcome::Completed, 200) };
        let record = Record {
            request_id: uuid::Uuid::now_v7().to_string(),
            started_ms: now_ms(),
            operation: Record::LEDGER_START.into(),
            success: why.is_none(),
            outcome,
            status_code,
            error_message: why.map(|why| format!("bedrock-sidecar: {why}")),
            former: Some(Box::new(former)),
            ..own.clone()
        };
        if core.note(&record).is_err() {
            return false;
        }
        match said {
            FormerChain::Found => tracing::warn!(
                chainId = %core.chain_id, formerChainId = %id, formerChainSeq = seq,
                "audit: a new chain of records is begun, behind another one of this host"
            ),
            FormerChain::Unknown => tracing::warn!(
                chainId = %core.chain_id, why = record.error_message.as_deref().unwrap_or_default(),
                "audit: whether this host had another chain of records before cannot be found out"
            ),
            _ => tracing::info!(
                chainId = %core.chain_id, formerChain = said.as_str(),
                "audit: a new chain of records is begun"
            ),
        }
        self.said = Some(said);
        if is_all {
            let _ = std::fs::remove_file(&self.path);
        } else {
            self.save();
        }
        true
    }
}

fn goes_beyond(head: &Chain, known: &Chain) -> bool {
    head.chain_id == known.chain_id && head.seq > known.seq
}

fn nothing(former_chain: FormerChain) -> Former {
    Former {
        former_chain,
        former_chain_id: None,
        former_chain_seq: None,
        former_chain_hash: None,
        former_chain_ttl: None,
    }
}

/// When a record that has ended by now may go from the table at the latest, in seconds since 1970.
fn expiry(core: &Core) -> i64 {
    let retention = core.settings.load().retention.as_secs();
    (now_ms() / 1000).saturating_add(i64::try_from(retention).unwrap_or(i64::MAX))
}

fn found(head: Chain, ttl: Option<i64>) -> Former {
    Former {
        former_chain_id: Some(head.chain_id),
        former_chain_seq: Some(head.seq),
        former_chain_hash: Some(head.hash),
        former_chain_ttl: ttl,
        ..nothing(FormerChain::Found)
    }
}
