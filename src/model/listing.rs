//! The listing of an upstream's models and profiles: when it is read, and what it tells.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lookup::Asker;
use super::{CallError, Listed, Models, account, catalogue, resolve};
use crate::jitter;
use crate::upstream::Upstream;

const FIRST_RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// A catalogue is not read again so soon because a model was not found in it, however the last reading ended.
const FRESH: Duration = Duration::from_secs(5);

/// How the last listing has ended.
#[derive(Debug)]
pub(super) struct Ended {
    at: tokio::time::Instant,
    /// Why nothing could be listed.
    failed: Option<String>,
}

impl Ended {
    fn now(fetched: &Result<(), CallError>) -> Ended {
        Ended { at: tokio::time::Instant::now(), failed: fetched.as_ref().err().map(ToString::to_string) }
    }
}

impl Models {
    /// Reads the catalogue; the old one is kept on failure.
    pub(crate) async fn refresh(&self, upstream: &Upstream) -> Result<(), CallError> {
        let mut ended = self.refreshing.lock().await;
        let fetched = self.fetch(upstream).await;
        *ended = Some(Ended::now(&fetched));
        fetched
    }

    /// The same unless it was tried a moment ago.
    ///
    /// # Errors
    /// Why the last listing has failed.
    pub(super) async fn refresh_unless_fresh(&self, upstream: &Upstream, asker: &Asker) -> Result<(), String> {
        unless_fresh(&self.refreshing, FRESH, async || {
            let fetched = match catalogue::turn(upstream, asker) {
                Ok(_turn) => self.fetch(upstream).await,
                Err(unreachable) => Err(unreachable),
            };
            if let Err(reason) = &fetched {
                tracing::warn!(region = %upstream.region, %reason, "models could not be listed");
            }
            fetched
        })
        .await
    }

    async fn fetch(&self, upstream: &Upstream) -> Result<(), CallError> {
        let account = account(upstream);
        let catalogue = catalogue::fetch(upstream).await?;
        self.catalogue.store(Some(Arc::new(Listed { catalogue, at: Instant::now(), account })));
        Ok(())
    }

    /// Keeps the catalogue fresh until dropped, and reads it anew when the credential changes. A reading that fails is tried
    /// again with growing pauses, however fresh the old catalogue is.
    pub(crate) async fn keep_fresh(&self, upstream: &Upstream) {
        let mut changed = upstream.credentials().subscribe();
        changed.mark_unchanged();
        let is_known = self.listed_ago().is_some_and(|age| age < self.settings.refresh_interval);
        let mut retry = (!is_known).then_some(FIRST_RETRY);
        let mut due = tokio::time::Instant::now() + pause(self.settings.refresh_interval, retry, jitter::random());
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                _ = changed.changed() => {}
                () = self.is_outdated.notified() => {
                    // One that failed is due again soon, and not sooner because of this.
                    if retry.is_none() {
                        let ended = self.refreshing.lock().await.as_ref().map(|ended| ended.at);
                        due = due.min(ended.map_or_else(tokio::time::Instant::now, |ended| ended + FRESH));
                    }
                    continue;
                }
            }
            match self.refresh(upstream).await {
                Ok(()) => retry = None,
                Err(reason) => {
                    tracing::warn!(region = %upstream.region, %reason, "models could not be listed; trying again");
                    retry = Some(retry.map_or(FIRST_RETRY, |pause| (pause * 2).min(LONGEST_RETRY)));
                }
            }
            due = tokio::time::Instant::now() + pause(self.settings.refresh_interval, retry, jitter::random());
        }
    }

    /// How long ago the models were listed; since when that is tried if they never were.
    pub(crate) fn unlisted_for(&self) -> Duration {
        self.listed_ago().unwrap_or_else(|| self.begun.elapsed())
    }

    /// How long ago the models were listed; none if they never were.
    pub(crate) fn listed_ago(&self) -> Option<Duration> {
        self.catalogue.load().as_ref().map(|listed| listed.at.elapsed())
    }

    /// The catalogue is known; for labels and listings.
    pub(crate) fn is_listed(&self) -> bool {
        self.catalogue.load().is_some()
    }

    /// How many models the last listing had; none before the first one.
    pub(crate) fn count(&self) -> Option<usize> {
        self.catalogue.load().as_ref().map(|listed| listed.catalogue.models().len())
    }

    /// A model that the catalogue knows, by the identifier or profile that was asked for: the bounded label of metrics.
    pub(crate) fn label(&self, asked: &str) -> Option<String> {
        let listed = self.catalogue.load();
        let catalogue = &listed.as_ref()?.catalogue;
        let name = resolve::unalias(asked, &self.settings);
        if catalogue.model(name).is_some() {
            return Some(name.to_owned());
        }
        let profile = catalogue.profile(name)?;
        Some(if profile.is_application() {
            profile.model_ids().first()?.to_string()
        } else {
            profile.inference_profile_id.clone()
        })
    }

    /// The identifiers of all models, and the identifiers, ARNs and names of all profiles.
    pub(crate) fn names(&self) -> Vec<String> {
        let listed = self.catalogue.load();
        listed.as_ref().map(|listed| listed.catalogue.names().map(str::to_owned).collect()).unwrap_or_default()
    }
}

/// Until the next listing: `retry` after a failed one. Up to a tenth earlier, as `random` decides, because hosts of one fleet
/// have often begun together.
fn pause(interval: Duration, retry: Option<Duration>, random: u64) -> Duration {
    jitter::earlier(retry.unwrap_or(interval), random)
}

/// Requests that arrive together share one listing, well or not: none lists that came before the last one had ended, nor
/// soon after. The error is that of the listing that counts.
async fn unless_fresh(
    last: &tokio::sync::Mutex<Option<Ended>>,
    fresh: Duration,
    list: impl AsyncFnOnce() -> Result<(), CallError>,
) -> Result<(), String> {
    let came = tokio::time::Instant::now();
    let mut last = last.lock().await;
    let counts = last.take().filter(|ended| ended.at >= came || ended.at.elapsed() < fresh);
    let ended = match counts {
        Some(ended) => ended,
        None => Ended::now(&list().await),
    };
    last.insert(ended).failed.clone().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn hosts_that_begin_together_do_not_list_together() {
        let (interval, retry) = (Duration::from_secs(3600), Duration::from_secs(300));
        for (failed, whole) in [(None, interval), (Some(retry), retry)] {
            assert_eq!(pause(interval, failed, 0), whole);
            assert_eq!(pause(interval, failed, u64::MAX), whole * 9 / 10);
            let drawn = |_| pause(interval, failed, jitter::random());
            let drawn: std::collections::BTreeSet<Duration> = (0..64).map(drawn).collect();
            assert!(drawn.len() > 1, "hosts differ");
            assert!(drawn.iter().all(|pause| (whole * 9 / 10..=whole).contains(pause)), "{drawn:?}");
        }
    }

    #[tokio::test]
    async fn requests_that_wait_for_a_listing_do_not_each_repeat_it() {
        let (last, lists) = (tokio::sync::Mutex::new(None), AtomicU32::new(0));
        let ask = |fresh| {
            unless_fresh(&last, fresh, async || {
                let count = lists.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(10)).await;
                if count == 0 { Err(CallError::NotSent("away".to_owned())) } else { Ok(()) }
            })
        };
        // However long it takes: none of these came after its end, and all hear how it ended.
        let failed = Err("away".to_owned());
        let all = tokio::join!(ask(Duration::ZERO), ask(Duration::ZERO), ask(Duration::ZERO));
        assert_eq!(all, (failed.clone(), failed.clone(), failed.clone()));
        assert_eq!(lists.load(Ordering::Relaxed), 1);
        assert_eq!(ask(Duration::from_secs(600)).await, failed);
        assert_eq!(lists.load(Ordering::Relaxed), 1);
        assert_eq!(ask(Duration::ZERO).await, Ok(()));
        assert_eq!(lists.load(Ordering::Relaxed), 2);
        assert_eq!(ask(Duration::from_secs(600)).await, Ok(()));
    }
}
