//! GovCloud and the commercial partition behind one endpoint: where a request goes, and where it never goes. Two stand-ins
//! count what has arrived at each.

mod failing;
mod listings;
mod native;
mod policy;
mod records;
mod start;

use http::Method;
use serde_json::Value;
use simulator::{Options, Received, Simulator};
use test_support::*;

/// Served in both partitions, through profiles only.
const SONNET: &str = "anthropic.claude-sonnet-4-5-20250929-v1:0";
/// Commercial alone.
const OPUS: &str = "anthropic.claude-opus-4-1-20250805-v1:0";
/// GovCloud's alone.
const GOV_ONLY: &str = "amazon.titan-tg1-large";
const GOV_ARN: &str = "arn:aws-us-gov:bedrock:us-gov-west-1";

/// A stand-in for each partition.
struct Both {
    gov: Simulator,
    commercial: Simulator,
}

impl Both {
    async fn start() -> Both {
        let options = Options { region: "us-gov-west-1".into(), account: "210987654321".into(), ..Options::default() };
        Both { gov: bedrock_with(options).await, commercial: bedrock().await }
    }

    /// GovCloud first.
    fn setup(&self) -> Setup {
        self.ordered(true)
    }

    fn ordered(&self, gov_first: bool) -> Setup {
        let gov = format!(
            "{}credentials = {{ source = \"host\" }}\n",
            upstream("us-gov-west-1", &self.gov.plain_endpoint(), None)
        );
        let commercial = upstream("us-east-1", &self.commercial.plain_endpoint(), None);
        let upstreams = if gov_first { format!("{gov}{commercial}") } else { format!("{commercial}{gov}") };
        Setup::alone().upstreams(&upstreams).environment(host_keys())
    }

    fn clear(&self) {
        self.gov.clear();
        self.commercial.clear();
    }

    /// What has arrived since at each, listings of the daemon's own aside.
    fn arrived(&self) -> [Vec<Received>; 2] {
        [&self.gov, &self.commercial].map(|side| {
            let is_listing = |one: &Received| {
                matches!(one.operation.as_deref(), Some("ListFoundationModels" | "ListInferenceProfiles"))
            };
            side.requests().into_iter().filter(|one| !is_listing(one)).collect()
        })
    }

    fn counts(&self) -> [usize; 2] {
        self.arrived().map(|side| side.len())
    }
}

/// The keys of the host's role, as an instance's metadata would give them.
fn host_keys() -> [(&'static str, String); 3] {
    [
        ("AWS_ACCESS_KEY_ID", simulator::GOVCLOUD_ACCESS_KEY_ID.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", simulator::GOVCLOUD_SECRET_ACCESS_KEY.to_owned()),
        ("AWS_SESSION_TOKEN", simulator::GOVCLOUD_SESSION_TOKEN.to_owned()),
    ]
}

/// A request with its level.
fn leveled(mut request: Request, level: &str) -> Request {
    request.headers_mut().insert("x-data-classification", level.parse().unwrap());
    request
}

fn converse_request(model: &str) -> Request {
    request(Method::POST, &converse_path(model), converse("hello"))
}

/// Asks, and looks at the record of an answer that was relayed whole.
async fn served(daemon: &Daemon, asked: Request, partition: &str, region: &str) -> (Answer, Value) {
    let answer = send(daemon.address(), asked).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("x-bedrock-sidecar-region"), Some(region), "{answer:?}");
    let record = daemon.record_of(&answer).await;
    let expected = [
        ("destinationPartition", partition.into()),
        ("destinationRegion", region.into()),
        ("outcome", "completed".into()),
        ("statusCode", 200.into()),
        ("responseSize", answer.body.len().into()),
        ("attempts", 1.into()),
    ];
    for (field, expected) in expected {
        let expected: Value = expected;
        assert_eq!(record[field], expected, "{field}: {record}");
    }
    (answer, record)
}

/// Asks, and looks at the record of a refusal, of which nothing was sent. Returns its sentence.
async fn kept(both: &Both, daemon: &Daemon, asked: Request, status: u16, error_type: &str) -> String {
    both.clear();
    let answer = send(daemon.address(), asked).await;
    let sentence = refused(&answer, status, error_type);
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["attempts"]), (&"refused".into(), &0.into()), "{record}");
    assert_eq!(record["errorMessage"], sentence, "{record}");
    assert_eq!(both.counts(), [0, 0], "{:?}", both.arrived());
    sentence
}
