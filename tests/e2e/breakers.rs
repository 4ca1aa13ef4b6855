//! Which upstream a request goes to first: whose breaker is open, or who throttles the model, is passed over; and requests
//! are spread by weight.

use http::Method;
use serde_json::{Value, json};
use simulator::{Effect, Fault, Options, Simulator};
use test_support::*;

const OTHER: &str = "amazon.nova-micro-v1:0";

async fn regions() -> (Simulator, Simulator) {
    let west = bedrock_with(Options { region: "us-west-2".into(), ..Options::default() });
    (bedrock().await, west.await)
}

fn two(east: &Simulator, west: &Simulator) -> Setup {
    Setup::alone().upstreams(&format!(
        "{}{}",
        upstream("us-east-1", &east.plain_endpoint(), None),
        upstream("us-west-2", &west.plain_endpoint(), None)
    ))
}

/// Sends a request for a model. Where it was answered, with what, and after how many attempts.
async fn ask(daemon: &Daemon, model: &str) -> (u16, String, u64) {
    let answer = daemon.post(&converse_path(model), converse("hello")).await;
    let record = daemon.record_of(&answer).await;
    assert_eq!(record["statusCode"], answer.status, "{record}");
    let region = record["destinationRegion"].as_str().unwrap().to_owned();
    (answer.status, region, record["attempts"].as_u64().unwrap())
}

fn at(status: u16, region: &str, attempts: u64) -> (u16, String, u64) {
    (status, region.to_owned(), attempts)
}

/// The position of the first upstream's breaker, as `/metrics` and `/status` tell it.
async fn breaker(daemon: &Daemon, plane: &str) -> (Option<f64>, Value) {
    let line = format!("bedrock_sidecar_upstream_breaker_state{{region=\"us-east-1\",plane=\"{plane}\"}}");
    let number = metric(&daemon.metrics().await, &line);
    let status = daemon.admin_get("/status").await.json();
    let breakers = status["upstreams"][0]["breakers"].as_array().unwrap().clone();
    (number, breakers.into_iter().find(|breaker| breaker["plane"] == plane).unwrap()["state"].clone())
}

fn said(daemon: &Daemon, beginning: &str) -> Vec<Value> {
    let lines = daemon.lines().into_iter();
    lines.filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with(beginning))).collect()
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_passed_over_until_a_probe_has_found_it_well() {
    let (east, west) = regions().await;
    let daemon = two(&east, &west).ready().await;
    assert_eq!(ask(&daemon, ON_DEMAND).await, at(200, "us-east-1", 1));
    assert_eq!(breaker(&daemon, "runtime").await, (Some(0.0), json!("closed")));
    east.refuse_connections(true);
    for _ in 0..3 {
        assert_eq!(ask(&daemon, ON_DEMAND).await, at(200, "us-west-2", 1), "nothing was sent to the first one");
    }
    assert_eq!(breaker(&daemon, "runtime").await, (Some(2.0), json!("open")));
    let opened = said(&daemon, "breaker opened");
    assert_eq!(opened.len(), 1, "{opened:?}");
    assert_eq!((&opened[0]["region"], &opened[0]["plane"]), (&json!("us-east-1"), &json!("runtime")), "{opened:?}");

    // Requests no longer try to connect. Probes do now and then, ever more seldom.
    let failed = async || {
        let page = daemon.metrics().await;
        let name = "bedrock_sidecar_upstream_handshakes_total";
        metric(&page, &format!("{name}{{region=\"us-east-1\",plane=\"runtime\",result=\"failure\"}}")).unwrap()
    };
    let before = failed().await;
    assert!(before >= 1.0, "the breaker opened by it");
    for _ in 0..60 {
        let (status, region, _) = ask(&daemon, ON_DEMAND).await;
        assert_eq!((status, region.as_str()), (200, "us-west-2"));
    }
    let more = failed().await - before;
    assert!(more < 30.0, "{more} connects for 60 requests that went elsewhere");

    // The upstream is still away when a probe comes: the request that was the probe is served elsewhere.
    until_async("a probe that fails", || async {
        let (status, region, _) = ask(&daemon, ON_DEMAND).await;
        assert_eq!((status, region.as_str()), (200, "us-west-2"));
        (!said(&daemon, "breaker half-open").is_empty()).then_some(())
    })
    .await;
    east.refuse_connections(false);
    until_async("a probe that succeeds", || async {
        let (status, region, _) = ask(&daemon, ON_DEMAND).await;
        assert_eq!(status, 200);
        (region == "us-east-1").then_some(())
    })
    .await;
    assert_eq!(breaker(&daemon, "runtime").await, (Some(0.0), json!("closed")));
    assert_eq!(ask(&daemon, ON_DEMAND).await, at(200, "us-east-1", 1));
    assert_eq!((said(&daemon, "breaker opened").len(), said(&daemon, "breaker closed").len()), (1, 1));
}

#[tokio::test]
async fn an_upstream_that_fails_is_asked_by_one_probe_at_a_time() {
    let (east, west) = regions().await;
    let daemon = two(&east, &west).ready().await;
    east.inject(Fault::once(Effect::ServiceUnavailable).times(0).on("Converse"));
    for _ in 0..10 {
        assert_eq!(ask(&daemon, ON_DEMAND).await, at(200, "us-west-2", 2));
    }
    assert_eq!(breaker(&daemon, "runtime").await.0, Some(2.0));
    until_async("another model, which goes elsewhere at once", || async {
        (ask(&daemon, OTHER).await == at(200, "us-west-2", 1)).then_some(())
    })
    .await;
    assert_eq!(breaker(&daemon, "control").await.0, Some(0.0), "the other plane is well");

    // The next probe gets no answer. Until its client leaves, it is the only one.
    east.clear_faults();
    east.clear();
    east.inject(Fault::once(Effect::SlowFirstByte { ms: 600_000 }).on("Converse"));
    let mut clients = tokio::task::JoinSet::new();
    until("the probe", || {
        let has_come = !received(&east, "Converse").is_empty();
        if !has_come {
            let address = daemon.address();
            clients.spawn(async move { post(address, &converse_path(ON_DEMAND), converse("hello")).await });
        }
        has_come.then_some(())
    })
    .await;
    assert_eq!(breaker(&daemon, "runtime").await, (Some(1.0), json!("half-open")));
    for _ in 0..10 {
        assert_eq!(ask(&daemon, ON_DEMAND).await, at(200, "us-west-2", 1));
    }
    assert_eq!(received(&east, "Converse").len(), 1);
    clients.shutdown().await;
    let is_probe =
        |record: &Value| record["outcome"] == "client_disconnected" && record["destinationRegion"] == "us-east-1";
    assert_eq!(daemon.record("the probe", is_probe).await["attempts"], 1);
    assert_eq!(ask(&daemon, ON_DEMAND).await, at(200, "us-east-1", 1));
    assert_eq!(breaker(&daemon, "runtime").await.0, Some(0.0));
}

#[tokio::test]
async fn a_single_upstream_is_asked_whatever_its_breaker_says() {
    let east = bedrock().await;
    let daemon = Setup::plain(&east).ready().await;
    east.refuse_connections(true);
    until_async("an open breaker", || async {
        assert_eq!(ask(&daemon, ON_DEMAND).await.0, 503);
        (breaker(&daemon, "runtime").await.0 == Some(2.0)).then_some(())
    })
    .await;
    east.refuse_connections(false);
    let address = east.plain_endpoint().trim_start_matches("http://").to_owned();
    until_async("the upstream to listen", || async { tokio::net::TcpStream::connect(&address).await.ok() }).await;
    assert_eq!(ask(&daemon, ON_DEMAND).await, at(200, "us-east-1", 1));
    assert_eq!(breaker(&daemon, "runtime").await.0, Some(0.0));

    east.inject(Fault::once(Effect::InternalServerError).times(20).on("Converse"));
    for _ in 0..20 {
        assert_eq!(ask(&daemon, ON_DEMAND).await, at(500, "us-east-1", 1));
    }
    assert_eq!(breaker(&daemon, "runtime").await.0, Some(2.0));
    assert_eq!(ask(&daemon, ON_DEMAND).await, at(200, "us-east-1", 1));
}

fn throttled(seconds: &str) -> Fault {
    Fault::once(Effect::Error {
        status: 429,
        error_type: "ThrottlingException".into(),
        message: "Too many requests, please wait before trying again.".into(),
        capital: false,
        headers: [("retry-after".to_owned(), seconds.to_owned())].into(),
    })
}

#[tokio::test]
async fn a_model_that_is_throttled_at_one_upstream_goes_to_another_and_other_models_do_not() {
    let (east, west) = regions().await;
    let daemon = two(&east, &west).ready().await;
    east.inject(throttled("60"));
    assert_eq!(ask(&daemon, ON_DEMAND).await, at(200, "us-west-2", 2));
    for _ in 0..3 {
        assert_eq!(ask(&daemon, ON_DEMAND).await, at(200, "us-west-2", 1));
        assert_eq!(ask(&daemon, OTHER).await, at(200, "us-east-1", 1));
    }
    // Only the other one is asked, and it has no room either: the client hears of that.
    west.inject(throttled("30"));
    assert_eq!(ask(&daemon, ON_DEMAND).await, at(429, "us-west-2", 1));
    // Both are throttled: the one that recovers first is asked, and serves.
    assert_eq!(ask(&daemon, ON_DEMAND).await, at(200, "us-west-2", 1));
    // It does not have the model, and the throttled one may.
    west.inject(Fault::once(Effect::Error {
        status: 404,
        error_type: "ResourceNotFoundException".into(),
        message: "x".into(),
        capital: false,
        headers: Default::default(),
    }));
    assert_eq!(ask(&daemon, ON_DEMAND).await, at(200, "us-east-1", 2));
    assert_eq!(ask(&daemon, ON_DEMAND).await, at(200, "us-east-1", 1), "a success ends the throttle");

    east.inject(throttled("1").times(0).for_model(ON_DEMAND));
    west.inject(throttled("1").times(0).for_model(ON_DEMAND));
    for _ in 0..30 {
        assert_eq!(ask(&daemon, ON_DEMAND).await.0, 429);
    }
    assert_eq!(breaker(&daemon, "runtime").await, (Some(0.0), json!("closed")), "throttles open no breaker");
    assert_eq!(ask(&daemon, OTHER).await, at(200, "us-east-1", 1));
}

#[tokio::test]
async fn requests_are_spread_by_weight_and_what_belongs_to_a_region_goes_there() {
    let (east, west) = regions().await;
    let daemon = two(&east, &west)
        .upstreams(&format!(
            "{}weight = 3\n{}weight = 1\n[upstreams_policy]\nstrategy = \"spread\"",
            upstream("us-east-1", &east.plain_endpoint(), None),
            upstream("us-west-2", &west.plain_endpoint(), None)
        ))
        .ready()
        .await;
    let mut shares = std::collections::BTreeMap::new();
    for _ in 0..40 {
        let (status, region, attempts) = ask(&daemon, ON_DEMAND).await;
        assert_eq!((status, attempts), (200, 1));
        *shares.entry(region).or_insert(0_u32) += 1;
    }
    let (in_east, in_west) = (shares["us-east-1"], shares["us-west-2"]);
    assert!(in_east.abs_diff(30) <= 2 && in_east + in_west == 40, "{shares:?}");
    assert_eq!(received(&east, "Converse").len(), 40 - received(&west, "Converse").len());
    // A listing is of one account and region, the same every time.
    for _ in 0..8 {
        let answer = send(daemon.address(), request(Method::GET, "/foundation-models", "")).await;
        assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-east-1")));
        let arn = format!("arn:aws:bedrock:us-west-2::foundation-model/{ON_DEMAND}");
        assert_eq!(ask(&daemon, &arn).await, at(200, "us-west-2", 1));
    }
    // Where one is away, the other gets all.
    west.refuse_connections(true);
    for _ in 0..12 {
        let (status, region, _) = ask(&daemon, ON_DEMAND).await;
        assert_eq!((status, region.as_str()), (200, "us-east-1"));
    }
}
