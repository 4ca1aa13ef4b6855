//! An answer before it is put on the wire: status, headers, script of the body; and AWS-shaped errors.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::body::Step;

/// A successful answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) steps: VecDeque<Step>,
    /// Withheld for this long before the status line.
    pub(crate) delay: Duration,
    /// The foundation model that answered, for the record.
    pub(crate) model_resolved: Option<String>,
    /// Input and output tokens as the answer reports them.
    pub(crate) tokens: (Option<u64>, Option<u64>),
}

impl Reply {
    pub(crate) fn json(status: u16, body: &Value) -> Reply {
        Reply::bytes(status, "application/json", Bytes::from(body.to_string()))
    }

    pub(crate) fn bytes(status: u16, content_type: &str, body: Bytes) -> Reply {
        let steps = if body.is_empty() { VecDeque::new() } else { VecDeque::from([Step::Data(body)]) };
        Reply {
            status,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            steps,
            delay: Duration::ZERO,
            model_resolved: None,
            tokens: (None, None),
        }
    }

    /// A stream of frames, `pace` apart.
    pub(crate) fn stream(content_type: &str, events: Vec<Bytes>, pace: Duration) -> Reply {
        let mut reply = Reply::bytes(200, content_type, Bytes::new());
        for (index, event) in events.into_iter().enumerate() {
            if index > 0 && !pace.is_zero() {
                reply.steps.push_back(Step::Sleep(pace));
            }
            reply.steps.push_back(Step::Event(event));
        }
        reply
    }

    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Reply {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn after(mut self, delay: Duration) -> Reply {
        self.delay = delay;
        self
    }

    pub(crate) fn by(mut self, model: &str) -> Reply {
        self.model_resolved = Some(model.to_owned());
        self
    }

    /// Notes the tokens that the answer reports.
    pub(crate) fn reporting(mut self, input: u64, output: impl Into<Option<u64>>) -> Reply {
        self.tokens = (Some(input), output.into());
        self
    }

    /// Whether it is told in events.
    pub(crate) fn is_stream(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Event(_)))
    }

    /// Whether its length is not promised: only where nothing but bytes can happen it is, as at AWS.
    pub(crate) fn streams(&self) -> bool {
        !self.steps.iter().all(|step| matches!(step, Step::Data(_)))
    }

    /// The length of the whole body.
    pub(crate) fn length(&self) -> usize {
        self.steps
            .iter()
            .map(|step| match step {
                Step::Data(bytes) | Step::Event(bytes) => bytes.len(),
                _ => 0,
            })
            .sum()
    }
}

/// A refusal in AWS's shape.
#[derive(Debug, Clone)]
pub(crate) struct AwsError {
    pub(crate) status: u16,
    pub(crate) kind: String,
    pub(crate) message: String,
    /// AWS writes `Message` in some places and `message` in others; clients must read both, so both occur here.
    pub(crate) capital: bool,
    pub(crate) headers: Vec<(String, String)>,
}

impl AwsError {
    pub(crate) fn new(status: u16, kind: &str, message: impl Into<String>) -> AwsError {
        AwsError { status, kind: kind.to_owned(), message: message.into(), capital: false, headers: Vec::new() }
    }

    pub(crate) fn validation(message: impl Into<String>) -> AwsError {
        AwsError::new(400, "ValidationException", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> AwsError {
        AwsError::new(404, "ResourceNotFoundException", message)
    }

    pub(crate) fn capital(mut self) -> AwsError {
        self.capital = true;
        self
    }

    pub(crate) fn reply(&self) -> Reply {
        let body = if self.kind == "UnknownOperationException" {
            json!({"Output": {"__type": "com.amazon.coral.service#UnknownOperationException"}, "Version": "1.0"})
        } else if self.capital {
            json!({ "Message": self.message })
        } else {
            json!({ "message": self.message })
        };
        let mut reply = Reply::json(self.status, &body).header("x-amzn-ErrorType", &self.kind);
        for (name, value) in &self.headers {
            reply = reply.header(name, value);
        }
        reply
    }
}

impl From<AwsError> for Reply {
    fn from(error: AwsError) -> Reply {
        error.reply()
    }
}
