//! `[[upstreams]].credentials`: regions of several accounts.

use serde_json::json;
use simulator::{DEFAULT_BEARER_TOKEN, Effect, Fault, Options, ROTATED_BEARER_TOKEN, Simulator};
use test_support::*;

use super::ask;

async fn regions() -> (Simulator, Simulator) {
    let west =
        bedrock_with(Options { region: "us-west-2".into(), account: "210987654321".into(), ..Options::default() });
    (bedrock().await, west.await)
}

/// The east with the top-level credentials, and the west with those of `own`.
fn setup(east: &Simulator, west: &Simulator, own: &str) -> Setup {
    let setup = Setup::plain(east);
    let file = setup.path().join("west");
    std::fs::write(&file, ROTATED_BEARER_TOKEN).unwrap();
    let west = upstream("us-west-2", &west.plain_endpoint(), None);
    let text = format!("{}{west}{own}\n", upstream("us-east-1", &east.plain_endpoint(), None));
    let (shared, own) = (setup.secret_path().display().to_string(), file.display().to_string());
    setup.upstreams(&text.replace("{shared}", &shared).replace("{own}", &own))
}

const OWN: &str = "credentials = { source = \"file\", file = \"{own}\" }";

fn sent(bedrock: &Simulator) -> Option<String> {
    received(bedrock, "Converse").pop().and_then(|one| one.header("authorization").map(str::to_owned))
}

#[tokio::test]
async fn each_upstream_is_asked_with_its_own_key() {
    let (east, west) = regions().await;
    west.set_bearer_tokens(vec![ROTATED_BEARER_TOKEN.into()]);
    let daemon = setup(&east, &west, OWN).ready().await;
    assert_eq!(ask(&daemon).await.status, 200);
    assert_eq!(sent(&east), Some(format!("Bearer {DEFAULT_BEARER_TOKEN}")));
    east.inject(Fault::once(Effect::Error {
        status: 503,
        error_type: "ServiceUnavailableException".into(),
        message: "x".into(),
        capital: false,
        headers: Default::default(),
    }));
    let answer = ask(&daemon).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{answer:?}");
    assert_eq!(sent(&west), Some(format!("Bearer {ROTATED_BEARER_TOKEN}")));
    assert_eq!(daemon.record_of(&answer).await["destinationRegion"], "us-west-2");
    let status = daemon.admin_get("/status").await.json();
    for upstream in status["upstreams"].as_array().unwrap() {
        assert_eq!(
            (&upstream["credential"]["kind"], &upstream["modelsListed"]),
            (&json!("Bedrock API key"), &json!(true))
        );
    }
}

/// A region without a key does not make the daemon unready as long as another one has its key.
#[tokio::test]
async fn one_key_that_is_missing_is_the_matter_of_its_region_alone() {
    let (east, west) = regions().await;
    let setup = setup(&east, &west, OWN);
    let own = setup.path().join("west");
    std::fs::remove_file(&own).unwrap();
    let daemon = setup.ready().await;
    assert_eq!(ask(&daemon).await.status, 200);
    let west_of = |status: serde_json::Value| status["upstreams"][1].clone();
    let missing = west_of(daemon.admin_get("/status").await.json());
    assert!(missing["credential"]["problem"].as_str().unwrap().contains("cannot be read"), "{missing}");
    std::fs::write(own, DEFAULT_BEARER_TOKEN).unwrap();
    until_async("the key of the west", || async {
        west_of(daemon.admin_get("/status").await.json())["credential"]["problem"].is_null().then_some(())
    })
    .await;
    // Only the one that the daemon cannot do without.
    let answer = ask(&daemon).await;
    assert_eq!(answer.status, 200);
    daemon.record_of(&answer).await;
}

/// The same source is read once for all.
#[tokio::test]
async fn upstreams_that_name_the_same_source_share_it() {
    let (east, west) = regions().await;
    let same = "credentials = { source = \"file\", file = \"{shared}\" }";
    for (credentials, count) in [(same, 1), (OWN, 2)] {
        let daemon = setup(&east, &west, credentials).ready().await;
        daemon.has_said_all().await;
        let lines = daemon.lines().into_iter();
        let loaded: Vec<_> = lines.filter(|line| line["message"] == "commercial credential loaded").collect();
        assert_eq!(loaded.len(), count, "{loaded:?}");
    }
}

#[tokio::test]
async fn check_online_has_a_line_for_each() {
    let (east, west) = regions().await;
    let setup = setup(&east, &west, OWN);
    let own = setup.path().join("west").display().to_string();
    west.set_bearer_tokens(vec![ROTATED_BEARER_TOKEN.into()]);
    let output = setup.command(&["check", "--online"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for line in [
        format!("ok    credentials file {}: Bedrock API key", setup.secret_path().display()),
        format!("ok    credentials file {own}: Bedrock API key"),
        "ok    key accepted by us-east-1 (ListFoundationModels): yes".to_owned(),
        "ok    key accepted by us-west-2 (ListFoundationModels): yes".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
    }
    std::fs::write(&own, "nonsense").unwrap();
    let output = setup.command(&["check", "--online"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.lines().any(|line| line.starts_with(&format!("FAIL  credentials file {own}: "))), "{text}");
    assert!(text.lines().any(|line| line == "ok    key accepted by us-east-1 (ListFoundationModels): yes"), "{text}");
}

#[tokio::test]
async fn what_is_wrong_with_one_is_said_at_its_place() {
    let (east, west) = regions().await;
    for (own, expected) in [
        (
            "credentials = { source = \"file\" }",
            "source = \"file\" needs file beside it in the upstream's credentials.",
        ),
        (
            "credentials = { source = \"environment\", file = \"x\" }",
            "file has no meaning with source = \"environment\"; remove it from the upstream's credentials.",
        ),
    ] {
        let setup = setup(&east, &west, own);
        let output = setup.command(&["check"]).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{said}");
        let line = 1 + setup.text().lines().position(|line| line.starts_with("credentials =")).unwrap();
        assert!(said.contains(&format!("config.toml:{line}:15: {expected}")), "{said}");
    }
}

#[tokio::test]
async fn the_metrics_of_a_credential_say_whose_it_is() {
    let (east, west) = regions().await;
    let setup = setup(&east, &west, OWN);
    std::fs::write(setup.path().join("west"), "nonsense").unwrap();
    let daemon = setup.ready().await;
    let page = daemon.metrics().await;
    let own =
        |name: &str, labels: &str| metric(&page, &format!("bedrock_sidecar_upstream_credential_{name}{{{labels}}}"));
    // Since it was first read: an alert goes by it.
    assert!(own("age_seconds", "region=\"us-west-2\"").unwrap() > 0.0, "{page}");
    assert!(own("expires_seconds", "region=\"us-west-2\"").unwrap().is_nan());
    assert!(own("refresh_total", "region=\"us-west-2\",result=\"failure\"").unwrap() >= 1.0);
    assert_eq!(own("refresh_total", "region=\"us-west-2\",result=\"success\""), Some(0.0));
    // What all share is told as before, and only there.
    assert!(metric(&page, "bedrock_sidecar_credential_age_seconds").unwrap() >= 0.0);
    assert_eq!(own("age_seconds", "region=\"us-east-1\""), None);
    let shared = "credentials = { source = \"file\", file = \"{shared}\" }";
    let page = self::setup(&east, &west, shared).ready().await.metrics().await;
    assert!(!page.contains("bedrock_sidecar_upstream_credential_age_seconds{"), "{page}");
    // Where each has its own, none is left out.
    let setup = Setup::plain(&east);
    let own = format!("credentials = {{ source = \"file\", file = \"{}\" }}\n", setup.secret_path().display());
    let upstreams = upstream("us-east-1", &east.plain_endpoint(), None)
        + &own
        + &upstream("us-west-2", &west.plain_endpoint(), None)
        + "credentials = { source = \"file\", file = \"/nonexistent\" }\n";
    let text = setup.upstreams(&upstreams).credentials("[credentials]\nsource = \"environment\"");
    let page = text.ready().await.metrics().await;
    for region in ["us-east-1", "us-west-2"] {
        let age = format!("bedrock_sidecar_upstream_credential_age_seconds{{region=\"{region}\"}}");
        assert!(metric(&page, &age).is_some(), "{age}: {page}");
    }
}
