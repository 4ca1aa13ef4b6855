//! Lets a round's troubles happen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use simulator::{Certificate, Effect, Fault, ThrottleText};
use test_support::dynamodb;
use tokio::task::JoinSet;

use crate::plan::{Answers, Away, Place, Planned, Round, Trouble};
use crate::proxy::Weather;
use crate::stage::{Death, Spell, Stage};

/// How soon the old key stops after the new one stands in the secret.
const ROTATION: Duration = Duration::from_millis(300);
/// Between the end of a key and the next rotation, at least: who has just had a request refused may send it once more.
const KEPT: Duration = Duration::from_secs(2);
/// Between two answers that go wrong.
const EVERY: Duration = Duration::from_millis(150);

/// Plays a round. When it returns, nothing fails any more.
pub(crate) async fn play(stage: &Arc<Stage>, round: &Round) {
    let mut troubles = JoinSet::new();
    for planned in round.0.clone() {
        let stage = Arc::clone(stage);
        troubles.spawn(async move {
            let Planned { after, lasts, trouble } = planned;
            tokio::time::sleep(after).await;
            happen(&stage, trouble, lasts).await;
        });
    }
    troubles.join_all().await;
    for at in [0, 1] {
        stage.networks[at].set(Weather::Fair);
        stage.bedrocks[at].clear_faults();
        stage.bedrocks[at].refuse_connections(false);
        stage.bedrocks[at].show_certificate(Certificate::Good).unwrap();
    }
    stage.table.set(dynamodb::Fault::None);
    stage.secrets.set(None);
}

async fn happen(stage: &Stage, trouble: Trouble, lasts: Duration) {
    stage.spells.lock().unwrap().push(Spell { trouble, began: Instant::now(), over: None });
    match trouble {
        Trouble::Network(place, weather) => {
            place.numbers().iter().for_each(|at| stage.networks[*at].set(weather));
            tokio::time::sleep(lasts).await;
            place.numbers().iter().for_each(|at| stage.networks[*at].set(Weather::Fair));
        }
        Trouble::Answers(place, answers) => answer(stage, place, answers, lasts).await,
        Trouble::Certificate(place, certificate) => {
            let show = |certificate| {
                for at in place.numbers() {
                    stage.bedrocks[*at].show_certificate(certificate).unwrap();
                    // It is seen by those who connect anew.
                    stage.networks[*at].tear();
                }
            };
            show(certificate);
            tokio::time::sleep(lasts).await;
            show(Certificate::Good);
        }
        Trouble::Down(place) => {
            place.numbers().iter().for_each(|at| stage.bedrocks[*at].refuse_connections(true));
            tokio::time::sleep(lasts).await;
            place.numbers().iter().for_each(|at| stage.bedrocks[*at].refuse_connections(false));
        }
        Trouble::Table(fault) => {
            stage.table.set(fault);
            tokio::time::sleep(lasts).await;
            stage.table.set(dynamodb::Fault::None);
        }
        Trouble::Rotation => rotate(stage, None).await,
        Trouble::Revocation => rotate(stage, Some(lasts)).await,
        Trouble::SecretAway(away) => secret_away(stage, away, lasts, async || ()).await,
        Trouble::ReloadWithSecretAway(away) => {
            secret_away(stage, away, lasts, async || stage.reload(changed).await).await;
        }
        Trouble::Reload => stage.reload(changed).await,
        Trouble::BadReload => {
            stage.reload(|text| format!("no = [\n{text}")).await;
            tokio::time::sleep(lasts).await;
            // What a restart would read.
            stage.reload(|text| text.trim_start_matches("no = [\n").to_owned()).await;
        }
        Trouble::Kill => stage.replace(Death::Killed).await,
        Trouble::Restart => stage.replace(Death::Stopped).await,
    }
}

/// An alias more or less, which changes nothing for requests.
fn changed(text: String) -> String {
    let (old, new) =
        if text.contains("reloaded-0") { ("reloaded-0", "reloaded-1") } else { ("reloaded-1", "reloaded-0") };
    text.replace(old, new)
}

async fn rotate(stage: &Stage, revoked_first: Option<Duration>) {
    let mut key = stage.key.lock().await;
    let new = (*key + 1) % stage.keys();
    match revoked_first {
        None => {
            stage.accept(new, true);
            stage.put_key(new);
            tokio::time::sleep(ROTATION).await;
            stage.accept(new, false);
            *key = new;
            tokio::time::sleep(KEPT).await;
        }
        Some(lasts) => {
            stage.accept(new, false);
            tokio::time::sleep(lasts).await;
            stage.put_key(new);
            *key = new;
        }
    }
}

async fn secret_away(stage: &Stage, away: Away, lasts: Duration, meanwhile: impl AsyncFnOnce()) {
    stage.secrets.set(Some(away));
    meanwhile().await;
    tokio::time::sleep(lasts).await;
    stage.secrets.set(None);
}

/// Some of the answers go wrong, one after the other.
async fn answer(stage: &Stage, place: Place, answers: Answers, lasts: Duration) {
    let fault = match answers {
        Answers::Throttled => Fault::once(Effect::Throttle { text: ThrottleText::Tokens }),
        Answers::ServerError => Fault::once(Effect::InternalServerError),
        Answers::Unavailable => Fault::once(Effect::ServiceUnavailable),
        Answers::Slow { ms } => Fault::once(Effect::SlowFirstByte { ms }),
        Answers::Broken(how) => Fault::once(Effect::BreakBeforeHeaders { how }),
        Answers::Cut { after_bytes, how } => {
            Fault::once(Effect::Cut { after_bytes: Some(after_bytes), after_events: None, how })
        }
        Answers::ExceptionInStream => {
            let (exception, message) = ("throttlingException".to_owned(), "Too many tokens".to_owned());
            Fault::once(Effect::StreamException { after_events: 2, exception, message }).on("ConverseStream")
        }
        Answers::GoAway => Fault::once(Effect::GoAway { after_events: 1 }),
        Answers::Closing => Fault::once(Effect::CloseAfter),
    };
    let start = Instant::now();
    while start.elapsed() < lasts {
        place.numbers().iter().for_each(|at| stage.bedrocks[*at].inject(fault.clone()));
        tokio::time::sleep(EVERY).await;
    }
}
