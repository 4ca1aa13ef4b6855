//! What came of the attempts to have a request answered: each has one result, for /metrics.

use super::{Answer, Failure};

/// The result of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    Success,
    Throttled,
    Refused,
    Failed,
    /// No whole answer.
    Broke,
    /// There was no connection, or the peer has done nothing with the request.
    Unreached,
    /// Nobody has waited for the answer.
    Abandoned,
}

/// How often each of them came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Results {
    counts: [u32; Came::ALL.len()],
    /// How many of all attempts have had a result.
    told: u32,
}

impl Came {
    pub(crate) const ALL: [Came; 7] =
        [Came::Success, Came::Throttled, Came::Refused, Came::Failed, Came::Broke, Came::Unreached, Came::Abandoned];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Came::Success => "success",
            Came::Throttled => "throttled",
            Came::Refused => "refused",
            Came::Failed => "failed",
            Came::Broke => "broke",
            Came::Unreached => "unreached",
            Came::Abandoned => "abandoned",
        }
    }

    fn of(attempt: &Result<Answer, Failure>) -> Option<Came> {
        match attempt {
            Ok(answer) => Some(Came::of_status(answer.status.as_u16())),
            Err(Failure::Broke(_)) => Some(Came::Broke),
            Err(Failure::NotSent { .. } | Failure::NotRepeatable(_)) => Some(Came::Unreached),
            Err(Failure::NoCredential(_) | Failure::Unfit(_)) => None,
        }
    }

    fn of_status(status: u16) -> Came {
        match status {
            200..300 => Came::Success,
            429 => Came::Throttled,
            400..500 => Came::Refused,
            _ => Came::Failed,
        }
    }
}

impl Results {
    pub(crate) fn add(&mut self, came: Came, times: u32) {
        if let Some(count) = self.counts.get_mut(came as usize) {
            *count += times;
        }
    }

    /// Takes down what came of sending a request: it had been sent `before` times then, and `attempts` times now. A peer that
    /// has done nothing with it was sent it again.
    pub(super) fn came(&mut self, before: u32, attempts: u32, attempt: &Result<Answer, Failure>) {
        let sent = attempts - before;
        match Came::of(attempt) {
            None => {}
            Some(Came::Unreached) => self.add(Came::Unreached, sent.max(1)),
            Some(came) => {
                self.add(Came::Unreached, sent.saturating_sub(1));
                self.add(came, 1);
            }
        }
        self.told = attempts;
    }

    /// The results since this was last asked, at a time when no attempt of all `attempts` is under way any more.
    pub(crate) fn take(&mut self, attempts: u32) -> Results {
        self.add(Came::Abandoned, attempts - self.told);
        std::mem::replace(self, Results { told: attempts, ..Results::default() })
    }

    /// The answer that had begun well broke off.
    pub(crate) fn break_off(&mut self) {
        let [success, ..] = self.counts;
        if success > 0 {
            self.counts[Came::Success as usize] -= 1;
            self.add(Came::Broke, 1);
        }
    }

    /// Those that came at all.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (Came, u32)> {
        Came::ALL.into_iter().zip(self.counts).filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::error::{Refusal, RefusalKind};
    use crate::upstream::AnswerBody;

    fn answer(status: u16) -> Result<Answer, Failure> {
        let status = StatusCode::from_u16(status).unwrap();
        Ok(Answer { status, headers: HeaderMap::new(), body: AnswerBody::Read(Bytes::new()), refused_key: None })
    }

    fn not_sent() -> Result<Answer, Failure> {
        Err(Failure::NotSent { why: String::new(), handshake: None })
    }

    fn told(results: &Results) -> Vec<(&'static str, u32)> {
        results.counts().map(|(came, count)| (came.as_str(), count)).collect()
    }

    #[test]
    fn an_attempt_is_counted_by_what_came_of_it() {
        for (attempt, expected) in [
            (answer(200), "success"),
            (answer(429), "throttled"),
            (answer(400), "refused"),
            (answer(403), "refused"),
            (answer(304), "failed"),
            (answer(500), "failed"),
            (answer(504), "failed"),
            (Err(Failure::Broke(String::new())), "broke"),
            (not_sent(), "unreached"),
            (Err(Failure::NotRepeatable(String::new())), "unreached"),
        ] {
            let mut results = Results::default();
            results.came(0, 1, &attempt);
            assert_eq!(told(&results.take(1)), [(expected, 1)]);
            assert_eq!(told(&results.take(1)), [], "once");
        }
    }

    #[test]
    fn there_are_as_many_results_as_attempts() {
        let mut results = Results::default();
        // Three times refused unread, and once nobody was there to be asked again.
        results.came(0, 4, &answer(200));
        results.came(4, 5, &answer(403));
        results.came(5, 9, &not_sent());
        assert_eq!(told(&results.take(9)), [("success", 1), ("refused", 1), ("unreached", 7)]);
        // Whoever waited for the last one has left.
        assert_eq!(told(&results.take(10)), [("abandoned", 1)]);
    }

    #[test]
    fn what_was_not_sent_is_told_too_and_what_could_not_be_is_not() {
        let mut results = Results::default();
        results.came(0, 0, &not_sent());
        results.came(0, 0, &Err(Failure::NoCredential(Refusal::new(RefusalKind::ServiceUnavailable, "none."))));
        assert_eq!(told(&results.take(0)), [("unreached", 1)]);
    }

    #[test]
    fn an_answer_that_breaks_off_is_no_success() {
        let mut results = Results::default();
        results.came(0, 1, &answer(200));
        results.break_off();
        assert_eq!(told(&results.take(1)), [("broke", 1)]);
        results.came(1, 2, &answer(503));
        results.break_off();
        assert_eq!(told(&results.take(2)), [("failed", 1)], "an error was one before it broke off");
    }
}
