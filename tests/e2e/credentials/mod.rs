//! Where the commercial credential comes from, what forms it may have, and how it is replaced without an outage.

mod aws_files;
mod clock;
mod forms;
mod memory;
mod readiness;
mod renewal;
mod roles_anywhere;
mod rotation;
mod short_term;
mod sources;
mod upstreams;

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use simulator::{
    DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY, DEFAULT_SESSION_TOKEN, DEFAULT_TEMPORARY_ACCESS_KEY_ID,
    DEFAULT_TEMPORARY_SECRET_ACCESS_KEY,
};
use test_support::*;

async fn ask(daemon: &Daemon) -> Answer {
    daemon.post(&converse_path(ON_DEMAND), converse("hello")).await
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

fn long_lived() -> String {
    json!({ "aws_access_key_id": DEFAULT_ACCESS_KEY_ID, "aws_secret_access_key": DEFAULT_SECRET_ACCESS_KEY })
        .to_string()
}

fn temporary() -> String {
    json!({
        "aws_access_key_id": DEFAULT_TEMPORARY_ACCESS_KEY_ID,
        "aws_secret_access_key": DEFAULT_TEMPORARY_SECRET_ACCESS_KEY,
        "aws_session_token": DEFAULT_SESSION_TOKEN,
    })
    .to_string()
}
