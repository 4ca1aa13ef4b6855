//! The last thing that is known of an upstream: whether it can be reached, and whether it takes the credential. Readiness goes
//! by it. An upstream in trouble is asked a question of no consequence now and then, so that it is known when that has passed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::uri::PathAndQuery;
use tokio::sync::watch;

use super::answer::Remedy;
use super::pool::Effort;
use super::sign::BodyHash;
use super::{Answer, Failure, Upstream, UpstreamRequest};
use crate::operation::{Plane, Planes};

/// How soon an upstream in trouble is asked, and how far that grows.
const FIRST_PROBE: Duration = Duration::from_secs(1);
const LONGEST_PROBE: Duration = Duration::from_secs(30);

/// What the last answers and failures have told.
#[derive(Debug, Default)]
pub(super) struct Standing {
    known: Mutex<Known>,
    is_in_trouble: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Known {
    /// The upstream does not take the credential; the class of its error.
    refused: Option<String>,
    reach: Planes<Reach>,
}

/// Whether the host of a plane can be reached.
#[derive(Debug, Default, PartialEq, Eq)]
enum Reach {
    #[default]
    Unknown,
    Yes,
    /// Why not.
    No(String),
}

impl Standing {
    /// Takes down what became of a request.
    pub(super) fn learn(&self, plane: Plane, result: &Result<Answer, Failure>) {
        // What invokes models by Bedrock's own API does not depend on this host.
        if plane == Plane::Mantle {
            return;
        }
        match result {
            Ok(answer) => {
                let refused = match answer.remedy() {
                    Remedy::Credential | Remedy::Clock(_) => Some(answer.error().unwrap_or_default().error_type),
                    Remedy::None | Remedy::Profile => None,
                };
                let mut known = self.lock();
                *known.reach.of_mut(plane) = Reach::Yes;
                // An upstream that is broken says nothing of the credential.
                if refused.is_some() || !answer.status.is_server_error() {
                    known.refused = refused;
                }
            }
            Err(Failure::NotSent { why, .. }) => *self.lock().reach.of_mut(plane) = Reach::No(why.clone()),
            Err(Failure::NoCredential(_) | Failure::Unfit(_) | Failure::NotRepeatable(_) | Failure::Broke(_)) => return,
        }
        let is_in_trouble = self.lock().trouble().is_some();
        self.is_in_trouble.send_if_modified(|before| std::mem::replace(before, is_in_trouble) != is_in_trouble);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every critical section here is a look or a single change.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an upstream would not serve.
#[derive(Debug, PartialEq, Eq)]
enum Trouble<'a> {
    Refused(&'a str),
    Unreachable(&'a str),
}

impl Known {
    /// Models are invoked on the runtime plane. While nothing is known of that, the other one stands for it.
    fn trouble(&self) -> Option<Trouble<'_>> {
        match (&self.refused, self.reach.of(Plane::Runtime), self.reach.of(Plane::Control)) {
            (_, Reach::No(why), _) | (_, Reach::Unknown, Reach::No(why)) => Some(Trouble::Unreachable(why)),
            (Some(error), _, _) => Some(Trouble::Refused(error)),
            (None, _, _) => None,
        }
    }
}

impl Upstream {
    /// Why a request to this upstream would fail, as far as is known: one sentence.
    pub(crate) fn objection(&self) -> Option<String> {
        let region = &self.region;
        let credential = match self.credentials.current(std::time::SystemTime::now()) {
            Ok(credential) => credential,
            Err(refusal) => return Some(refusal.message.into_owned()),
        };
        if let Err(refusal) = credential.check_region(region) {
            return Some(refusal.message.into_owned());
        }
        match self.standing.lock().trouble()? {
            Trouble::Unreachable(why) => Some(format!("the upstream {region} cannot be reached: {why}.")),
            Trouble::Refused(error) => Some(format!(
                "the upstream {region} refuses the {} {} ({error}); put a valid one into its source, or look at this host's clock.",
                self.credentials.whose(),
                credential.description()
            )),
        }
    }

    /// Asks an upstream that is in trouble until it no longer is. Runs until dropped.
    pub(crate) async fn keep_probing(&self) {
        let mut trouble = self.standing.is_in_trouble.subscribe();
        let mut pause = FIRST_PROBE;
        loop {
            let is_in_trouble = *trouble.borrow_and_update();
            if !is_in_trouble {
                pause = FIRST_PROBE;
                if trouble.changed().await.is_err() {
                    return;
                }
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {
                    let _ = self.probe().await;
                    pause = (pause * 2).min(LONGEST_PROBE);
                }
                // A request has found out first.
                _ = trouble.changed() => {}
            }
        }
    }

    /// Lists asynchronous invocations on the host that invokes models. Whether the key may do that makes no difference: an
    /// answer that refuses the right and not the key has judged the key.
    ///
    /// # Errors
    /// The host gives no answer.
    pub(crate) async fn probe(&self) -> Result<(), Failure> {
        let question = UpstreamRequest {
            plane: Plane::Runtime,
            method: Method::GET,
            path: PathAndQuery::from_static("/async-invoke?maxResults=1"),
            headers: Arc::default(),
            body: Bytes::new(),
            body_hash: BodyHash::default(),
            events: None,
        };
        self.exchange(&question, &mut Effort::default()).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::error::{Refusal, RefusalKind};
    use crate::upstream::AnswerBody;
    use crate::upstream::pool::Handshake;

    fn answer(status: u16, error_type: &str) -> Result<Answer, Failure> {
        let body = serde_json::json!({ "__type": error_type, "message": "x" }).to_string();
        let status = StatusCode::from_u16(status).unwrap();
        Ok(Answer { status, headers: http::HeaderMap::new(), body: AnswerBody::Read(body.into()), refused_key: None })
    }

    fn not_sent() -> Result<Answer, Failure> {
        Err(Failure::NotSent {
            why: "no connection to x".to_owned(),
            handshake: Some(Handshake { number: 1, last: 1 }),
        })
    }

    #[test]
    fn the_last_thing_that_is_known_counts() {
        use Plane::{Control, Runtime};
        let (refused, unreachable) =
            (Some(Trouble::Refused("UnrecognizedClientException")), Some(Trouble::Unreachable("no connection to x")));
        let good = || answer(200, "");
        let stale = || answer(403, "UnrecognizedClientException");
        type Step = (Plane, Result<Answer, Failure>);
        let cases: [(&str, Vec<Step>, &Option<Trouble<'_>>); 12] = [
            ("nothing is known", vec![], &None),
            ("refused", vec![(Runtime, good()), (Control, stale())], &refused),
            ("and taken again", vec![(Control, stale()), (Runtime, good())], &None),
            (
                "by a caller's own mistake too",
                vec![(Runtime, stale()), (Runtime, answer(400, "ValidationException"))],
                &None,
            ),
            ("may not, and is known", vec![(Runtime, stale()), (Control, answer(403, "AccessDeniedException"))], &None),
            ("broken", vec![(Runtime, stale()), (Runtime, answer(500, "InternalServerException"))], &refused),
            ("broken alone", vec![(Runtime, answer(503, "ServiceUnavailableException"))], &None),
            ("no way to the listing", vec![(Control, not_sent())], &unreachable),
            ("which is not all", vec![(Runtime, good()), (Control, not_sent())], &None),
            ("no way to models", vec![(Control, good()), (Runtime, not_sent()), (Control, good())], &unreachable),
            ("until there is", vec![(Runtime, not_sent()), (Runtime, good())], &None),
            (
                "nothing was tried",
                vec![(Runtime, Err(Failure::NoCredential(Refusal::new(RefusalKind::ServiceUnavailable, "x"))))],
                &None,
            ),
        ];
        for (name, steps, expected) in cases {
            let standing = Standing::default();
            for (plane, result) in steps {
                standing.learn(plane, &result);
            }
            assert_eq!(&standing.lock().trouble(), expected, "{name}");
            assert_eq!(*standing.is_in_trouble.borrow(), expected.is_some(), "{name}");
        }
    }
}
