//! What is refused and has to stay so: heads and floods over both HTTP versions, forged signatures, questions about
//! others' records. All the while others are served.

mod blocked;
mod crowd;
mod h2spec;
mod http1;
mod http2;
mod records;
mod signatures;

use std::time::{Duration, Instant};

use http::Method;
use test_support::*;

/// Within this, somebody who does nothing wrong has an answer, whatever others do.
const PATIENCE: Duration = Duration::from_secs(5);

/// Somebody who does nothing wrong, on a connection of their own.
async fn is_served(daemon: &Daemon, while_what: &str) {
    let began = Instant::now();
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("harmless")).await;
    assert_eq!(answer.status, 200, "{while_what}: {answer:?}");
    assert!(began.elapsed() < PATIENCE, "{while_what}: {:?}", began.elapsed());
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed", "{while_what}");
}

/// Nothing went upstream but what [`is_served`] sends.
fn nothing_else_went_upstream(bedrock: &simulator::Simulator) {
    for sent in bedrock.requests().iter().filter(|sent| sent.method == Method::POST.as_str()) {
        assert_eq!(String::from_utf8_lossy(&sent.body), converse("harmless"), "{sent:?}");
    }
}
