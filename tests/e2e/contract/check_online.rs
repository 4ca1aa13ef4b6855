//! `check --online`: each thing is tried, and what is wrong is said with what to do.

use simulator::{Effect, Fault};
use test_support::*;

use super::{stderr, stdout};

#[tokio::test]
async fn check_online_tries_each_thing_and_invokes_no_model() {
    let bedrock = bedrock().await;
    let output = Setup::tls(&bedrock).command(&["check", "--online"]).await;
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    for line in [
        "ok    configuration: ",
        "ok    credentials file ",
        "ok    key accepted by us-east-1 (ListFoundationModels): yes",
        "ok    inference profiles of us-east-1 (ListInferenceProfiles): ",
        "ok    data retention of the account in us-east-1 (GetAccountDataRetention): inherit: nothing is set in this region",
        "ok    clock against us-east-1: no correction was needed",
        &format!("ok    host for inference in us-east-1 ({}): it answers", bedrock.tls_endpoint()),
    ] {
        assert!(text.lines().any(|found| found.starts_with(line)), "no {line:?} in\n{text}");
    }
    let operations: Vec<_> = bedrock.requests().into_iter().filter_map(|one| one.operation).collect();
    // The one with which the right to create profiles is looked at creates none.
    let looks = |name: &String| name.starts_with("List") || name.starts_with("Get") || name == "CreateInferenceProfile";
    assert!(operations.iter().all(looks), "{operations:?}");
    assert!(!text.contains(simulator::DEFAULT_BEARER_TOKEN));
}

#[tokio::test]
async fn check_online_says_what_is_wrong_and_what_to_do() {
    let bedrock = bedrock().await;
    bedrock.inject(
        Fault::once(Effect::Error {
            status: 403,
            error_type: "AccessDeniedException".into(),
            message: "User: x is not authorized to perform: bedrock:ListInferenceProfiles".into(),
            capital: false,
            headers: Default::default(),
        })
        .times(0)
        .on("ListInferenceProfiles"),
    );
    let keys = format!("{}:{}", simulator::DEFAULT_ACCESS_KEY_ID, simulator::DEFAULT_SECRET_ACCESS_KEY);
    for (setup, expected) in [
        (
            Setup::plain(&bedrock),
            "FAIL  inference profiles of us-east-1 (ListInferenceProfiles): AccessDeniedException (403)",
        ),
        (Setup::plain(&bedrock), "; allow bedrock:ListInferenceProfiles"),
        (
            Setup::plain(&bedrock).secret("ABSKunknown"),
            "FAIL  key accepted by us-east-1 (ListFoundationModels): AccessDeniedException (403): Authentication failed",
        ),
        (Setup::plain(&bedrock).secret("nonsense"), "FAIL  credentials file "),
        (
            Setup::alone().upstreams(&format!("[[upstreams]]\nregion = \"us-east-1\"\nruntime_endpoint = \"http://127.0.0.1:1\"\ncontrol_endpoint = \"{}\"\n", bedrock.plain_endpoint())),
            "FAIL  host for inference in us-east-1 (http://127.0.0.1:1): the upstream gave no answer: no connection to http://127.0.0.1:1",
        ),
        (
            Setup::alone(),
            "FAIL  key accepted by us-east-1 (ListFoundationModels): the upstream gave no answer: no connection to http://127.0.0.1:1",
        ),
    ] {
        let output = setup.command(&["check", "--online"]).await;
        assert_eq!(output.status.code(), Some(1), "{expected}");
        assert!(stdout(&output).contains(expected), "{expected} is not in\n{}", stdout(&output));
    }
    bedrock.clear_faults();
    bedrock.inject(Fault::once(Effect::ClockSkew { seconds: 3600 }).times(0));
    let output = Setup::plain(&bedrock).secret(&keys).command(&["check", "--online"]).await;
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("FAIL  clock against us-east-1: off by 3") && text.contains("chronyc tracking"), "{text}");
}

/// A host without a role, and services that nobody can reach: a sentence each, and none of the SDK's own.
#[tokio::test]
async fn check_online_never_prints_an_sdks_chain_of_causes() {
    let bedrock = bedrock().await;
    let of_host = "[audit]\ntable = \"records\"\n";
    let manager = "[credentials]\nsource = \"secrets_manager\"\nsecret_id = \"commercial\"\n";
    let keys = |setup: Setup| setup.env("AWS_ACCESS_KEY_ID", "ASIAHOST").env("AWS_SECRET_ACCESS_KEY", "host");
    let unreachable = |setup: Setup| {
        let endpoint = "http://127.0.0.1:1";
        setup.env("AWS_ENDPOINT_URL_DYNAMODB", endpoint).env("AWS_ENDPOINT_URL_SECRETS_MANAGER", endpoint)
    };
    let setup = || Setup::plain(&bedrock).with(of_host);
    for (setup, expected) in [
        (
            setup(),
            "?     DynamoDB cannot be asked for the table records: this host has no AWS credentials; give it a role",
        ),
        (
            setup().credentials(manager),
            "FAIL  secret commercial in us-gov-west-1: no commercial credential: the secret commercial in us-gov-west-1 cannot be read: this host has no AWS credentials; give it a role",
        ),
        (
            keys(unreachable(setup())),
            "FAIL  DynamoDB cannot be asked for the table records: there is no connection to it (",
        ),
        (
            keys(unreachable(setup().credentials(manager))),
            "the secret commercial in us-gov-west-1 cannot be read: there is no connection to it (",
        ),
    ] {
        let output = setup.command(&["check", "--online"]).await;
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let line = text.lines().find(|line| line.contains(expected));
        assert!(line.is_some_and(|line| line.len() < 500), "{expected} is not in\n{text}");
        for chain in ["dispatch failure", "other:", "DispatchFailure", "source:", "(CredentialsNotLoaded"] {
            assert!(!text.contains(chain), "{chain} in\n{text}");
        }
    }
}

#[tokio::test]
async fn check_online_tells_what_fits_no_model_and_what_costs_nothing() {
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock);
    let prices = setup.path().join("prices.toml");
    std::fs::write(
        &prices,
        "[[prices]]\nmodel = \"anthropic.*\"\ninput = 1\noutput = 1\n[[prices]]\nmodel = \"acme.*\"\ninput = 1\noutput = 1\n",
    )
    .unwrap();
    let setup = setup.with(&format!(
        "[models]\nallow = [\"*\"]\ndeny = [\"*opuss*\"]\n[limits]\nprices_file = \"{}\"\nusd_per_day = 5\n\
         [limits.models.\"amazn.*\"]\nrequests_per_minute = 5\n[[callers]]\nname = \"a\"\nusers = [\"0\"]\n\
         models = [\"amazon.nova-lite-v1:1\", \"amazon.*\"]",
        prices.display()
    ));
    let output = setup.command(&["check", "--online"]).await;
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "only advice: {text}{}", stderr(&output));
    for line in [
        "warn  \"*opuss*\" in models.deny fits no model or profile of the account",
        "warn  \"amazn.*\" in [limits.models] fits no model or profile of the account",
        "warn  \"acme.*\" in the price file fits no model or profile of the account",
        "warn  \"amazon.nova-lite-v1:1\" in models of the caller \"a\" fits no model or profile of the account; did you mean \"amazon.nova-lite-v1:0\"?",
        "warn  no price is known for ",
    ] {
        assert!(text.lines().any(|found| found.starts_with(line)), "no {line:?} in\n{text}");
    }
    assert_eq!(text.matches("fits no model").count(), 4, "{text}");
    let unpriced = text.lines().find(|line| line.contains("no price is known")).unwrap();
    assert!(unpriced.contains("amazon.") && !unpriced.contains("anthropic."), "{unpriced}");
}

#[tokio::test]
async fn check_online_tells_what_the_account_keeps_and_holds_it_to_the_policy() {
    let bedrock = bedrock().await;
    let required = "[policy]\nrequire_data_retention = [\"none\", \"default\"]";
    let what = "data retention of the account in us-east-1 (GetAccountDataRetention)";
    for (mode, policy, code, expected) in [
        ("none", required, 0, format!("ok    {what}: none: prompts and answers are not kept")),
        ("default", required, 0, format!("ok    {what}: default: each model's own terms hold")),
        ("aws_review", "", 0, format!("ok    {what}: aws_review: models whose provider demands it")),
        ("provider_data_share", "", 0, format!("ok    {what}: provider_data_share: an older mode")),
        ("mode_of_2030", "", 0, format!("ok    {what}: mode_of_2030: this version does not know that mode")),
        (
            "aws_review",
            required,
            1,
            "policy.require_data_retention allows \"none\" or \"default\" only: run `aws bedrock put-account-data-retention --region us-east-1 --mode none`".to_owned(),
        ),
    ] {
        bedrock.set_data_retention(mode);
        let output = Setup::plain(&bedrock).with(policy).command(&["check", "--online"]).await;
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(code), "{mode}: {text}");
        assert!(text.contains(&expected), "{expected} is not in\n{text}");
    }
    let denied = Fault::once(Effect::Error {
        status: 403,
        error_type: "AccessDeniedException".into(),
        message: "User: x is not authorized to perform: bedrock:GetAccountDataRetention".into(),
        capital: false,
        headers: Default::default(),
    });
    bedrock.inject(denied.times(0).on("GetAccountDataRetention"));
    for (policy, code, label) in [("", 0, "warn "), (required, 1, "FAIL ")] {
        let output = Setup::plain(&bedrock).with(policy).command(&["check", "--online"]).await;
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        let expected = format!("{label} {what}: AccessDeniedException (403): User: x");
        assert!(text.contains(&expected), "{expected} is not in\n{text}");
        assert!(text.contains("; allow bedrock:GetAccountDataRetention"), "{text}");
    }
}
