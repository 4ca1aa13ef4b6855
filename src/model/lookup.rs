//! Look-ups of names that do not tell their model. Any client can cause one by making a name up, so each caller has only so
//! many, what was found is kept, and what was not found is not looked for again at once.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{catalogue, lock};
use crate::caller::User;
use crate::error::{Refusal, RefusalKind};
use crate::settings::callers::CallerEntry;

/// A look-up that takes longer has found nothing.
const LONGEST_LOOK: Duration = Duration::from_secs(5);
/// What does not exist is looked for again after this long; what could not be asked, earlier.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
const UNASKED_FOR: Duration = Duration::from_secs(3);
/// Names that are kept; as many again of those that were not found.
const MOST_NAMES: usize = 4_096;
/// What one caller may look up at once, and how soon it may look up one more.
const BURST: u32 = 16;
const EVERY: Duration = Duration::from_secs(2);
/// Look-ups of one caller under way. Others wait for none of them.
const AT_ONCE: u32 = 2;
/// Callers whose look-ups are counted.
const MOST_CALLERS: usize = 1_024;

/// Who asks for a model: the user of the connection, and the caller's entry.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    pub user: User,
    pub entry: Option<Arc<CallerEntry>>,
    /// The request is the one that finds out whether the control plane can be reached again.
    pub probes_control: bool,
}

/// Whose look-ups are counted together.
type AskerKey = (User, Option<String>);

impl Asker {
    fn key(&self) -> AskerKey {
        (self.user, self.entry.as_ref().map(|entry| entry.name.clone()))
    }
}

/// What stands behind a name.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// The identifiers of the models; never empty.
    pub models: Vec<String>,
    /// Of an application profile.
    pub profile: Option<catalogue::Profile>,
}

type Answer = Result<Arc<Looked>, Refusal>;

/// What was looked up, and by whom.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    found: Mutex<HashMap<String, (Answer, Instant)>>,
    missed: Mutex<HashMap<String, (Answer, Instant)>>,
    /// Requests for one name that arrive together need one call, not one each.
    busy: Mutex<Busy>,
    allowances: Mutex<HashMap<AskerKey, Allowance>>,
}

type Busy = HashMap<String, Arc<tokio::sync::Mutex<()>>>;

/// Who waits for a name, or looks it up. The last to leave removes it, also one whose client has left.
struct Wait<'a> {
    busy: &'a Mutex<Busy>,
    name: &'a str,
    alone: Arc<tokio::sync::Mutex<()>>,
}

impl<'a> Wait<'a> {
    fn new(busy: &'a Mutex<Busy>, name: &'a str) -> Wait<'a> {
        let alone = Arc::clone(lock(busy).entry(name.to_owned()).or_default());
        Wait { busy, name, alone }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut busy = lock(self.busy);
        // The map's own and this one: nobody else waits.
        if Arc::strong_count(&self.alone) <= 2 {
            busy.remove(self.name);
        }
    }
}

#[derive(Debug)]
struct Allowance {
    left: u32,
    since: Instant,
    running: u32,
}

impl Lookups {
    /// What is known of `name`, or else what `look` finds.
    pub(super) async fn get<F>(&self, name: &str, asker: &Asker, keep: Duration, look: impl FnOnce() -> F) -> Answer
    where
        F: Future<Output = Result<Looked, Refusal>>,
    {
        if let Some(known) = self.recall(name) {
            return known;
        }
        let wait = Wait::new(&self.busy, name);
        let answer = match tokio::time::timeout(LONGEST_LOOK, wait.alone.lock()).await {
            Ok(_alone) => match self.recall(name) {
                Some(known) => return known,
                None => self.look(name, asker, keep, look).await,
            },
            Err(_) => Err(unanswered(name)),
        };
        match answer {
            // What was found before holds until the upstream says otherwise.
            Err(refusal) if says_nothing(&refusal) => self.recall_stale(name).ok_or(refusal),
            answer => answer,
        }
    }

    /// What was found once, however long ago.
    fn recall_stale(&self, name: &str) -> Option<Arc<Looked>> {
        lock(&self.found).get(name).and_then(|(answer, _)| answer.as_ref().ok().cloned())
    }

    async fn look<F>(&self, name: &str, asker: &Asker, keep: Duration, look: impl FnOnce() -> F) -> Answer
    where
        F: Future<Output = Result<Looked, Refusal>>,
    {
        let _turn = self.turn(asker, Instant::now()).ok_or_else(|| {
            let message = format!(
                "{name} has to be looked up, and this caller has had too many names looked up; try again in a moment."
            );
            Refusal::new(RefusalKind::Throttling, message).retry_after(EVERY)
        })?;
        let looked = tokio::time::timeout(LONGEST_LOOK, look()).await.unwrap_or_else(|_| Err(unanswered(name)));
        let answer = looked.map(Arc::new);
        self.keep(name, &answer, keep);
        answer
    }

    fn recall(&self, name: &str) -> Option<Answer> {
        let now = Instant::now();
        let of = |names: &Mutex<HashMap<String, (Answer, Instant)>>| {
            lock(names).get(name).filter(|(_, until)| *until > now).map(|(answer, _)| answer.clone())
        };
        match of(&self.found).or_else(|| of(&self.missed))? {
            // It could not be asked a moment ago.
            Err(refusal) if says_nothing(&refusal) => Some(self.recall_stale(name).ok_or(refusal)),
            known => Some(known),
        }
    }

    fn keep(&self, name: &str, answer: &Answer, keep: Duration) {
        let (names, time) = match answer {
            Ok(_) => (&self.found, keep),
            Err(refusal) if says_nothing(refusal) => (&self.missed, UNASKED_FOR),
            Err(_) => {
                lock(&self.found).remove(name);
                (&self.missed, UNKNOWN_FOR)
            }
        };
        let mut names = lock(names);
        let now = Instant::now();
        if names.len() >= MOST_NAMES {
            names.retain(|_, (_, until)| *until > now);
        }
        if names.len() < MOST_NAMES {
            names.insert(name.to_owned(), (answer.clone(), now + time));
        }
    }

    /// The right to one look-up, held while it is under way; none if the caller has no more for now.
    fn turn(&self, asker: &Asker, now: Instant) -> Option<Turn<'_>> {
        let asker = asker.key();
        let mut allowances = lock(&self.allowances);
        if allowances.len() >= MOST_CALLERS && !allowances.contains_key(&asker) {
            allowances.retain(|_, one| one.running > 0 || one.refilled(now) < BURST);
            if allowances.len() >= MOST_CALLERS {
                return None;
            }
        }
        let one = allowances.entry(asker.clone()).or_insert(Allowance { left: BURST, since: now, running: 0 });
        let left = one.refilled(now);
        if left != one.left {
            (one.left, one.since) = (left, now);
        }
        if one.left == 0 || one.running >= AT_ONCE {
            return None;
        }
        if one.left == BURST {
            one.since = now;
        }
        one.left -= 1;
        one.running += 1;
        Some(Turn { lookups: self, asker })
    }
}

impl Allowance {
    fn refilled(&self, now: Instant) -> u32 {
        let more = now.duration_since(self.since).as_secs() / EVERY.as_secs();
        self.left.saturating_add(u32::try_from(more).unwrap_or(BURST)).min(BURST)
    }
}

struct Turn<'a> {
    lookups: &'a Lookups,
    asker: AskerKey,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(one) = lock(&self.lookups.allowances).get_mut(&self.asker) {
            one.running -= 1;
        }
    }
}

/// The upstream was not asked, or did not answer.
fn says_nothing(refusal: &Refusal) -> bool {
    matches!(refusal.kind, RefusalKind::ServiceUnavailable | RefusalKind::Throttling)
}

fn unanswered(name: &str) -> Refusal {
    Refusal::new(RefusalKind::ServiceUnavailable, format!("{name} could not be looked up in time; try again."))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn asker(uid: u32) -> Asker {
        Asker { user: User::Local(uid), entry: None, probes_control: false }
    }

    fn missing() -> Refusal {
        Refusal::new(RefusalKind::ResourceNotFound, "x does not exist.")
    }

    async fn absent(lookups: &Lookups, name: &str, uid: u32, calls: &AtomicUsize) -> RefusalKind {
        let look = || async {
            calls.fetch_add(1, Ordering::Relaxed);
            Err(missing())
        };
        lookups.get(name, &asker(uid), HOUR, look).await.unwrap_err().kind
    }

    #[tokio::test]
    async fn names_that_a_caller_makes_up_cost_few_calls_and_nobody_elses() {
        let (lookups, calls) = (Lookups::default(), AtomicUsize::new(0));
        for number in 0..1_000 {
            let kind = absent(&lookups, &number.to_string(), 1, &calls).await;
            let first = number < BURST;
            assert_eq!(kind == RefusalKind::ResourceNotFound, first, "{number}: {kind:?}");
        }
        assert_eq!(calls.load(Ordering::Relaxed), BURST as usize);
        assert_eq!(absent(&lookups, "0", 1, &calls).await, RefusalKind::ResourceNotFound, "known from before");
        assert_eq!(absent(&lookups, "other", 2, &calls).await, RefusalKind::ResourceNotFound);
        assert_eq!(calls.load(Ordering::Relaxed), BURST as usize + 1);
        assert!(lock(&lookups.busy).is_empty());
    }

    #[tokio::test]
    async fn look_ups_that_hang_hold_up_neither_another_caller_nor_another_name() {
        let lookups = Arc::new(Lookups::default());
        for number in 0..20 {
            let lookups = Arc::clone(&lookups);
            tokio::spawn(async move {
                let _ = lookups.get(&number.to_string(), &asker(1), HOUR, std::future::pending).await;
            });
        }
        tokio::task::yield_now().await;
        let began = Instant::now();
        let look = || async { Ok(Looked { models: vec!["a.b".into()], profile: None }) };
        assert_eq!(lookups.get("mine", &asker(2), HOUR, look).await.unwrap().models, ["a.b"]);
        assert!(began.elapsed() < LONGEST_LOOK, "it waited for nobody");
    }

    #[tokio::test]
    async fn requests_for_one_name_share_one_look_up_and_what_it_found() {
        let (lookups, calls) = (Arc::new(Lookups::default()), Arc::new(AtomicUsize::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        for uid in 0..50 {
            let (lookups, calls) = (Arc::clone(&lookups), Arc::clone(&calls));
            tasks.spawn(async move {
                let look = || async move {
                    calls.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Ok(Looked { models: vec!["a.b".into()], profile: None })
                };
                lookups.get("one", &asker(uid), HOUR, look).await.map(|looked| looked.models.clone())
            });
        }
        while let Some(found) = tasks.join_next().await {
            assert_eq!(found.unwrap().unwrap(), ["a.b"]);
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        assert!(lock(&lookups.busy).is_empty());
    }

    #[tokio::test]
    async fn what_was_found_holds_while_the_upstream_cannot_be_asked() {
        let lookups = Lookups::default();
        let found = || async { Ok(Looked { models: vec!["a.b".into()], profile: None }) };
        let fails = || async { Err(unanswered("x")) };
        let of = |answer: Answer| answer.map(|looked| looked.models.clone()).map_err(|refusal| refusal.kind);
        assert_eq!(of(lookups.get("x", &asker(1), Duration::ZERO, fails).await), Err(RefusalKind::ServiceUnavailable));
        lock(&lookups.missed).clear();
        assert_eq!(of(lookups.get("x", &asker(1), Duration::ZERO, found).await), Ok(vec!["a.b".to_owned()]));
        for _ in 0..3 {
            assert_eq!(of(lookups.get("x", &asker(1), HOUR, fails).await), Ok(vec!["a.b".to_owned()]));
        }
        // A caller without a turn is served what is known too.
        lock(&lookups.missed).clear();
        while lookups.turn(&asker(1), Instant::now()).is_some() {}
        assert_eq!(of(lookups.get("x", &asker(1), HOUR, fails).await), Ok(vec!["a.b".to_owned()]));
        // What the upstream says counts.
        let gone = || async { Err(missing()) };
        assert_eq!(of(lookups.get("x", &asker(2), HOUR, gone).await), Err(RefusalKind::ResourceNotFound));
        lock(&lookups.missed).clear();
        assert_eq!(of(lookups.get("x", &asker(2), HOUR, fails).await), Err(RefusalKind::ServiceUnavailable));
    }

    #[tokio::test]
    async fn a_client_that_leaves_leaves_nothing_behind() {
        let lookups = Lookups::default();
        for number in 0..3 {
            let name = number.to_string();
            let one = asker(number);
            let look = lookups.get(&name, &one, HOUR, std::future::pending);
            assert!(tokio::time::timeout(Duration::from_millis(10), look).await.is_err());
        }
        assert!(lock(&lookups.busy).is_empty());
    }

    #[test]
    fn turns_come_back_with_time() {
        let (lookups, start) = (Lookups::default(), Instant::now());
        let one = asker(1);
        let take = |after: u64| lookups.turn(&one, start + Duration::from_secs(after)).is_some();
        assert_eq!((0..100).filter(|_| take(0)).count(), BURST as usize);
        assert!(!take(1) && take(2) && !take(3) && take(4) && !take(5));
        assert_eq!((0..100).filter(|_| take(3600)).count(), BURST as usize);
        let held: Vec<_> = (0..5).filter_map(|_| lookups.turn(&one, start + HOUR * 2)).collect();
        assert_eq!(held.len(), AT_ONCE as usize, "so many under way");
    }

    #[test]
    fn names_are_bounded() {
        let lookups = Lookups::default();
        let found = Ok(Arc::new(Looked::default()));
        for number in 0..MOST_NAMES + 10 {
            lookups.keep(&number.to_string(), &Err(missing()), HOUR);
            lookups.keep(&format!("found {number}"), &found, HOUR);
        }
        assert_eq!(lock(&lookups.missed).len(), MOST_NAMES);
        assert_eq!(lock(&lookups.found).len(), MOST_NAMES, "what is made up takes no place of what exists");
        assert!(lookups.recall("0").is_some() && lookups.recall("x").is_none());
    }
}
