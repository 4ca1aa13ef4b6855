//! Nothing fails without a cause that the test knows: a rotation, a reload or an absent table fails no request.

use std::time::Instant;

use crate::book::{Answer, End, Entry, Saw};
use crate::evidence::Evidence;
use crate::load::refusal;

impl Evidence {
    /// Whoever could be served was served.
    pub(crate) fn failures_have_a_cause(&mut self) {
        let mut failures = Vec::new();
        for (length, entry) in &self.entries {
            let Some((ended, Saw::Answer(answer))) = &entry.saw else { continue };
            if let Some(why) = self.uncaused(*length, entry, *ended, answer) {
                failures.push(format!("{length}: {why}: {entry:?}, upstream: {:?}", self.upstream(*length)));
            }
        }
        self.failures.extend(failures);
    }

    fn uncaused(&self, length: usize, entry: &Entry, ended: Instant, answer: &Answer) -> Option<&'static str> {
        let status = answer.status;
        let refusal = refusal(entry);
        if matches!(refusal, Some(403 | 404)) && self.received.contains_key(&length) {
            return Some("what had to be refused was sent");
        }
        if status == 200 || answer.end == End::Left {
            return None;
        }
        let (upstreams_failed, key_failed) =
            (self.upstreams_failed(entry.began, ended), self.key_failed(entry.began, ended));
        if answer.own_sentence().is_some() {
            let is_caused = if status == 503 { upstreams_failed || key_failed } else { refusal == Some(status) };
            return (!is_caused).then_some("refused without a cause");
        }
        let given = self.received.get(&length).and_then(|all| all.last())?;
        let is_caused = match (&given.fault, status) {
            (Some(_), _) => true,
            (None, 401 | 403) => key_failed,
            // It may have asked for a profile, which could not be found.
            (None, _) => upstreams_failed || key_failed,
        };
        (!is_caused).then_some("an error of an upstream that need not have been")
    }

    /// What the daemon records as broken was broken: an upstream or the network did it, or something was wrong with them before
    /// the request could arrive.
    pub(crate) fn breaks_are_proved(&mut self) {
        let mut failures = Vec::new();
        for item in self.items.values().filter(|item| item["outcome"] == "upstream_broke") {
            let length =
                item["requestSize"].as_u64().and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
            let Some(entry) = self.entries.get(&length) else { continue };
            let Some((ended, _)) = &entry.saw else { continue };
            let is_proved = self.broken_attempt(length, *ended).is_some() || self.upstreams_failed(entry.began, *ended);
            if !is_proved {
                failures.push(format!("{length}: nothing broke: {item}: {entry:?}, {:?}", self.upstream(length)));
            }
        }
        self.failures.extend(failures);
    }
}
