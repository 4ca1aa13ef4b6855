//! Plays the script of an answer for the hand-written servers, and keeps its record.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::shape::Fields;
use crate::body::Step;
use crate::gate::Gate;
use crate::record::{Ended, Open};
use crate::wire::{Control, Ending};

/// What is to be done next.
#[derive(Debug)]
pub(crate) enum Next {
    /// These bytes are to be sent. The flag says that nothing comes behind them.
    Piece(Bytes, bool),
    GoAway,
    Cut(Ending),
    End,
}

/// The script, with the pauses and the gate that it passes on its way.
#[derive(Debug)]
pub(crate) struct Script {
    steps: VecDeque<Step>,
    gate: Gate,
}

impl Script {
    pub(crate) fn new(steps: VecDeque<Step>, gate: Gate) -> Script {
        Script { steps, gate }
    }

    pub(crate) async fn next(&mut self) -> Next {
        loop {
            match self.steps.pop_front() {
                None => return Next::End,
                Some(Step::Data(bytes)) => return Next::Piece(bytes, self.steps.is_empty()),
                Some(Step::Event(bytes)) => {
                    self.gate.clone().pass().await;
                    return Next::Piece(bytes, self.steps.is_empty());
                }
                Some(Step::Sleep(duration)) => tokio::time::sleep(duration).await,
                Some(Step::Stall) => std::future::pending().await,
                Some(Step::GoAway) => return Next::GoAway,
                Some(Step::Cut(how)) => return Next::Cut(how),
            }
        }
    }
}

/// The record of one answer. Dropped before the answer's end, it notes that the client went away, or that this side
/// ended the connection.
#[derive(Debug)]
pub(crate) struct Account {
    record: Option<Open>,
    control: Arc<Control>,
}

impl Account {
    pub(crate) fn new(record: Option<Open>, control: Arc<Control>) -> Account {
        Account { record, control }
    }

    pub(crate) fn sent(&self, bytes: &[u8]) {
        if let Some(record) = &self.record {
            record.sent(bytes);
        }
    }

    /// To be called before the last byte is written: a client that has it will look at the record.
    pub(crate) fn close(&mut self, how: Ended) {
        if let Some(record) = self.record.take() {
            record.close(how);
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let fate = self.control.fate();
        self.close(fate);
    }
}

/// An answer's header fields, changed in a way that means the same.
pub(crate) fn fields(headers: Vec<(HeaderName, HeaderValue)>, change: Fields) -> Vec<(HeaderName, HeaderValue)> {
    let field = |name: &'static str, value: &str| {
        HeaderValue::from_str(value).ok().map(|value| (HeaderName::from_static(name), value))
    };
    let mut headers = headers;
    match change {
        Fields::AsTheyAre => {}
        Fields::Reversed => headers.reverse(),
        Fields::Doubled => {
            for value in ["one", "two", "two"] {
                headers.insert(0, (HeaderName::from_static("x-amzn-simulator-twice"), HeaderValue::from_static(value)));
                headers.extend(field("x-amzn-simulator-twice", value));
            }
            headers.extend(field("vary", "accept-encoding"));
            headers.extend(field("vary", "origin, accept"));
        }
        Fields::Large(bytes) => headers.extend(field("x-amzn-simulator-large", &"l".repeat(bytes))),
        Fields::Many(count) => {
            for number in 0..count {
                let name = format!("x-amzn-simulator-{number}").parse();
                headers.extend(name.ok().map(|name: HeaderName| (name, HeaderValue::from(number))));
            }
        }
    }
    headers
}
