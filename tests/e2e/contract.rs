//! The command line, its exit codes, the configuration's errors word for word, and the life of the process.

use std::process::Output;

use http::Method;
use serde_json::{Value, json};
use simulator::{Effect, Fault, ROTATED_BEARER_TOKEN};
use test_support::*;
use tokio::net::{TcpListener, TcpStream};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs `check` on a file with this text; the complaint comes back without the file's path.
async fn complaint(text: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    let output = command(&["check", "--config", path], &[]).await;
    let complaint = stderr(&output);
    assert_eq!(output.status.code(), Some(78), "{text}\n{complaint}");
    assert_eq!(stdout(&output), "", "{text}");
    assert_eq!(complaint.trim_end().lines().count(), 1, "one line: {complaint}");
    let place = complaint.strip_prefix(path).unwrap_or_else(|| panic!("no path first: {complaint}"));
    place.strip_prefix(':').unwrap().trim_end().to_owned()
}

#[tokio::test]
async fn configuration_errors_name_their_place_and_what_to_write() {
    for (text, expected) in [
        (
            "[listen]\naddresses = [\"127.0.0.1\"]",
            "2:14: \"127.0.0.1\" is not an IP address and a port; write for example \"127.0.0.1:8790\" or \"[::1]:8790\"",
        ),
        (
            "[listen]\naddresses = [\n  \"127.0.0.1:0\",\n  \"0.0.0.0:8790\",\n]",
            "4:3: 0.0.0.0:8790 can be reached from other hosts; use a loopback address such as 127.0.0.1, or [listen.tls] with client certificates",
        ),
        (
            "[listen]\nadmin_address = \"10.0.0.1:1\"",
            "2:17: 10.0.0.1:1 can be reached from other hosts; use a loopback address such as 127.0.0.1, or [listen.tls] with client certificates",
        ),
        ("[listen]\naddresses = []", "2:13: nothing would listen; name at least one address or a unix_socket."),
        (
            "[listen]\naddresses = [\"127.0.0.1:8791\"]",
            "2:13: 127.0.0.1:8791 is named twice; give every listener, the admin address included, a port of its own.",
        ),
        ("[listen]\nmax_connections = 0", "2:19: invalid value: integer `0`, expected a whole number of 1 or more"),
        (
            "[listen]\nadress = \"127.0.0.1:1\"",
            "2:1: unknown field `adress`, expected one of `addresses`, `unix_socket`, `admin_address`, `max_connections`",
        ),
        (
            "[nonsense]\n",
            "1:2: unknown field `nonsense`, expected one of `listen`, `upstreams`, `upstreams_policy`, `upstream_timeouts`, `credentials`, `models`",
        ),
        (
            "[[upstreams]]\nregion = \"us-gov-west-1\"",
            "2:10: us-gov-west-1 is not in the commercial partition; upstreams are commercial regions such as \"us-east-1\".",
        ),
        (
            "[[upstreams]]\nregion = \"cn-north-1\"",
            "2:10: cn-north-1 is not in the commercial partition; upstreams are commercial regions such as \"us-east-1\".",
        ),
        (
            "[[upstreams]]\nregion = \"US East\"",
            "2:10: \"US East\" is not an AWS region; write for example \"us-east-1\".",
        ),
        (
            "[[upstreams]]\nregion = \"eu-west-1\"\nfips = true",
            "2:10: Bedrock has no FIPS host in eu-west-1; choose one of us-east-1, us-east-2, us-west-2, ca-central-1 or set fips = false.",
        ),
        ("[[upstreams]]\nfips = true", "1:1: missing field `region`"),
        ("upstreams = []", "1:13: the list of upstreams is empty; name one region or leave it out."),
        (
            "[[upstreams]]\nregion = \"us-east-1\"\n[[upstreams]]\nregion = \"us-east-1\"",
            "3:1: region us-east-1 is named twice with the same endpoint.",
        ),
        (
            "[[upstreams]]\nregion = \"us-east-1\"\nruntime_endpoint = \"http://example.com\"",
            "3:20: \"http://example.com\" is not an endpoint: plain http is allowed to loopback only, because the request carries a key",
        ),
        (
            "[[upstreams]]\nregion = \"us-east-1\"\nruntime_endpoint = \"https://a/b\"",
            "3:20: \"https://a/b\" is not an endpoint: leave out path and query, they come from the request",
        ),
        (
            "[[upstreams]]\nregion = \"us-east-1\"\ncontrol_endpoint = \"https://u:p@a\"",
            "3:20: \"https://u:p@a\" is not an endpoint: credentials do not belong into a URL",
        ),
        (
            "[[upstreams]]\nregion = \"us-east-1\"\nca_file = \"/nowhere/ca.pem\"",
            "3:11: the CA file /nowhere/ca.pem cannot be used: ",
        ),
        (
            "[upstream_timeouts]\nconnect = \"5\"",
            "2:11: \"5\" is not a duration; write a number above 0 and a unit, such as \"30s\", \"5m\", \"12h\" or \"30d\"",
        ),
        (
            "[upstream_timeouts]\nidle = 5",
            "2:8: invalid type: integer `5`, expected a duration such as \"30s\", \"5m\" or \"30d\"",
        ),
        (
            "[drain]\ntimeout = \"0s\"",
            "2:11: \"0s\" is not a duration; write a number above 0 and a unit, such as \"30s\", \"5m\", \"12h\" or \"30d\"",
        ),
        (
            "[credentials]\nsource = \"vault\"",
            "2:10: unknown variant `vault`, expected one of `secrets_manager`, `environment`, `file`, `profile`",
        ),
        ("[credentials]\nrefresh_interval = \"5m\"", "1:1: missing field `source`"),
        (
            "[credentials]\nsource = \"secrets_manager\"",
            "1:1: source = \"secrets_manager\" needs secret_id beside it in [credentials].",
        ),
        ("[credentials]\nsource = \"file\"", "1:1: source = \"file\" needs file beside it in [credentials]."),
        ("[credentials]\nsource = \"profile\"", "1:1: source = \"profile\" needs profile beside it in [credentials]."),
        (
            "[credentials]\nsource = \"environment\"\nprofile = \"x\"",
            "1:1: profile has no meaning with source = \"environment\"; remove it from [credentials].",
        ),
        (
            "[credentials]\nsource = \"secrets_manager\"\nsecret_id = \"x\"\nregion = \"gov\"",
            "4:10: \"gov\" is not an AWS region; write for example \"us-gov-west-1\".",
        ),
        (
            "[credentials]\nsource = \"file\"\nfile = \"$NOT_SET/x\"",
            "3:8: \"$NOT_SET/x\" names the environment variable NOT_SET, which is not set; systemd sets CREDENTIALS_DIRECTORY for a unit with LoadCredential=",
        ),
        (
            "[models]\nallow = [\"\"]",
            "2:10: an empty pattern matches nothing; write \"*\" for every model or leave it out",
        ),
        (
            "[models]\ngeographies = [\"us.\"]",
            "2:16: \"us.\" is not the prefix of inference profiles; write for example \"us\", \"eu\" or \"global\", without a dot.",
        ),
        (
            "[models]\ngeographies = [\"us\", \"us-gov\"]",
            "2:22: us-gov profiles belong to GovCloud; commercial Bedrock has none of them.",
        ),
        ("[models.aliases]\n\"a\" = \"x y\"", "2:7: \"x y\" is not a model or profile identifier."),
        ("[models.aliases]\n\"a\" = \"\"", "2:7: an alias and what it stands for cannot be empty."),
        ("[limits]\nmax_body_bytes = 0", "2:18: invalid value: integer `0`, expected a whole number of 1 or more"),
        (
            "[limits]\nmax_buffered_bytes = 49999999",
            "2:22: max_buffered_bytes must be twice max_body_bytes or more (here 50000000): one user's bodies may take half of what others leave.",
        ),
        ("[log]\nformat = \"xml\"", "2:10: unknown variant `xml`, expected one of `json`, `text`, `journald`"),
        ("[log]\nlevel = 3", "2:9: "),
        ("[audit]\non_failure = \"ignore\"", "2:14: unknown variant `ignore`, expected `deny` or `allow`"),
        (
            "[audit]\ntable = 7",
            "2:9: invalid type: integer `7`, expected a text in quotes; write for example table = \"…\"",
        ),
        ("[listen\naddresses", "1:8: "),
        ("listen = 1", "1:10: invalid type: integer `1`, expected a table; write [listen] above its keys"),
        ("[log]\nlevel = \"info\"\nlevel = \"info\"", "3:1: duplicate key"),
    ] {
        let complaint = complaint(text).await;
        assert!(complaint.starts_with(expected), "{text}\n   is: {complaint}\nnot: {expected}");
    }
}

#[tokio::test]
async fn an_unreadable_file_is_a_configuration_error() {
    for path in ["/nowhere/config.toml", "/tmp"] {
        let output = command(&["run", "--config", path], &[]).await;
        assert_eq!(output.status.code(), Some(78));
        assert!(
            stderr(&output).starts_with(&format!("{path}:1:1: the configuration cannot be read: ")),
            "{}",
            stderr(&output)
        );
    }
}

#[tokio::test]
async fn nothing_is_bound_or_contacted_before_the_whole_file_is_good() {
    let bedrock = bedrock().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for words in [&["run"][..], &["check", "--online"], &["models"], &["env"]] {
        let setup = Setup::plain(&bedrock)
            .listen(&format!("addresses = [\"{}\"]\nadmin_address = \"127.0.0.1:0\"\n", taken.local_addr().unwrap()))
            .with("[log]\nlevel = \"loud\"");
        let output = setup.command(words).await;
        assert_eq!(output.status.code(), Some(78), "{words:?}: not 1, for a port that is taken: {}", stderr(&output));
        assert!(stderr(&output).contains("unknown variant `loud`"));
    }
    assert_eq!(bedrock.requests().len(), 0);
}

#[tokio::test]
async fn usage_errors_exit_with_2_and_questions_with_0() {
    for arguments in [
        &["nonsense"][..],
        &[],
        &["run", "--nonsense"],
        &["check", "extra"],
        &["completions"],
        &["completions", "tcsh"],
    ] {
        let output = command(arguments, &[]).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("--help") || arguments.is_empty(), "{arguments:?}: {}", stderr(&output));
    }
    let version = command(&["--version"], &[]).await;
    let said = stdout(&version);
    let (first, module) = said.split_once('\n').unwrap();
    assert_eq!((version.status.code(), first), (Some(0), concat!("bedrock-sidecar ", env!("CARGO_PKG_VERSION"))));
    assert!(module.starts_with("AWS-LC "), "the module that encrypts, and its certificate: {module}");
    let help = command(&["--help"], &[]).await;
    for word in ["run", "check", "models", "env", "completions"] {
        assert!(stdout(&help).contains(&format!("\n  {word} ")), "{word}: {}", stdout(&help));
    }
    for (shell, says) in [
        ("bash", "complete -F _bedrock__sidecar"),
        ("zsh", "#compdef bedrock-sidecar"),
        ("fish", "complete -c bedrock-sidecar"),
    ] {
        let output = command(&["completions", shell], &[]).await;
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains(says), "{shell}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_a_failure_with_advice() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    for listen in [
        format!("addresses = [\"{address}\"]\nadmin_address = \"127.0.0.1:0\"\n"),
        format!("addresses = [\"127.0.0.1:0\"]\nadmin_address = \"{address}\"\n"),
    ] {
        let output = Setup::alone().listen(&listen).command(&["run"]).await;
        assert_eq!(output.status.code(), Some(1));
        let complaint = stderr(&output);
        let expected = format!("bedrock-sidecar: {address} cannot be listened on: ");
        assert!(complaint.contains(&expected) && complaint.contains("another process has this port"), "{complaint}");
    }
}

#[tokio::test]
async fn without_a_file_the_built_in_defaults_hold_and_are_announced() {
    let check = command(&["check"], &[]).await;
    assert_eq!(check.status.code(), Some(0), "{}", stderr(&check));
    assert!(stdout(&check).starts_with("ok    configuration: built-in defaults\n"), "{}", stdout(&check));
    assert!(stdout(&check).contains("info  FIPS module: AWS-LC "));
    let env = command(&["env"], &[]).await;
    let begins = "export AWS_ENDPOINT_URL_BEDROCK_RUNTIME=http://127.0.0.1:8790\nexport AWS_ENDPOINT_URL_BEDROCK=http://127.0.0.1:8790\nexport ANTHROPIC_BEDROCK_BASE_URL=http://127.0.0.1:8790\n";
    assert!(stdout(&env).starts_with(begins), "{}", stdout(&env));
}

#[tokio::test]
async fn env_names_the_configured_address() {
    let setup = Setup::alone().listen("addresses = [\"127.0.0.1:9999\"]\nadmin_address = \"127.0.0.1:0\"\n");
    let output = setup.command(&["env"]).await;
    assert!(stdout(&output).contains("export AWS_ENDPOINT_URL_BEDROCK_RUNTIME=http://127.0.0.1:9999\n"));
    let setup =
        Setup::alone().listen("addresses = []\nunix_socket = \"/tmp/x.sock\"\nadmin_address = \"127.0.0.1:0\"\n");
    let output = setup.command(&["env"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("SDKs cannot use a unix socket"));
}

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

/// Readiness follows the account: at start, at a reload and when the account is changed.
#[tokio::test]
async fn the_daemon_is_ready_only_in_a_mode_of_data_retention_that_the_policy_names() {
    let bedrock = bedrock().await;
    bedrock.set_data_retention("default");
    let daemon = Setup::plain(&bedrock).with("[policy]\nrequire_data_retention = [\"none\"]").start().await;
    let ready = daemon.admin_get("/ready").await;
    assert_eq!(ready.status, 503, "{}", ready.text());
    let reason = "the account's data retention in us-east-1 is \"default\", and policy.require_data_retention allows \"none\" only.";
    assert_eq!(ready.json()["reasons"], serde_json::json!([reason]));
    let status = daemon.admin_get("/status").await.json();
    assert_eq!(status["upstreams"][0]["dataRetention"], "default", "{status}");
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    assert_eq!(answer.status, 200, "requests are not refused for it");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");

    bedrock.set_data_retention("none");
    daemon.reload("[\"none\"]", "[\"none\", \"default\"]").await;
    daemon.until_ready().await;
    assert_eq!(daemon.admin_get("/status").await.json()["upstreams"][0]["dataRetention"], "none");

    let unasked = Setup::plain(&bedrock);
    bedrock.clear();
    let unasked = unasked.ready().await;
    assert!(received(&bedrock, "GetAccountDataRetention").is_empty(), "nobody demands a mode");
    assert!(unasked.admin_get("/status").await.json()["upstreams"][0]["dataRetention"].is_null());
}

/// Without a right to ask, nobody can say that the account is as it must be.
#[tokio::test]
async fn a_mode_that_cannot_be_read_is_none_that_the_policy_names() {
    let bedrock = bedrock().await;
    bedrock.set_data_retention("none");
    let denied = Fault::once(Effect::Error {
        status: 403,
        error_type: "AccessDeniedException".into(),
        message: "not authorized".into(),
        capital: false,
        headers: Default::default(),
    });
    bedrock.inject(denied.times(0).on("GetAccountDataRetention"));
    let daemon = Setup::plain(&bedrock).with("[policy]\nrequire_data_retention = [\"none\"]").start().await;
    let ready = daemon.admin_get("/ready").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("allow bedrock:GetAccountDataRetention"), "{}", ready.text());
    bedrock.clear_faults();
    daemon.until_ready().await;
}

/// A new key may be refused for seconds, until every part of AWS knows it.
#[tokio::test]
async fn readiness_that_a_new_key_has_taken_comes_back_soon() {
    let bedrock = bedrock().await;
    bedrock.set_data_retention("none");
    let daemon = Setup::plain(&bedrock).with("[policy]\nrequire_data_retention = [\"none\"]").ready().await;
    bedrock.inject(
        Fault::once(Effect::Error {
            status: 403,
            error_type: "AccessDeniedException".into(),
            message: "not authorized".into(),
            capital: false,
            headers: Default::default(),
        })
        .on("GetAccountDataRetention"),
    );
    bedrock.clear();
    std::fs::write(daemon.secret_path(), ROTATED_BEARER_TOKEN).unwrap();
    bedrock.set_bearer_tokens(vec![ROTATED_BEARER_TOKEN.into()]);
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    let asked = || received(&bedrock, "GetAccountDataRetention").into_iter().filter_map(|one| one.status).collect();
    let asked: Vec<u16> = until("a second question", || Some(asked()).filter(|asked: &Vec<u16>| asked.len() > 1)).await;
    assert_eq!(asked, [403, 200]);
    daemon.until_ready().await;
}

#[tokio::test]
async fn models_are_listed_as_a_table_and_as_json() {
    let bedrock = bedrock().await;
    let setup = Setup::tls(&bedrock).with("[models]\ndeny = [\"cohere.*\"]");
    let output = setup.command(&["models"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let table = stdout(&output);
    let row = |model: &str| {
        let line = table.lines().find(|line| line.split_whitespace().next() == Some(model));
        line.unwrap_or_else(|| panic!("no {model} in\n{table}")).split_once(' ').unwrap().1.trim().to_owned()
    };
    assert_eq!(row("MODEL"), "INVOKED AS");
    assert_eq!(row(ON_DEMAND), ON_DEMAND);
    assert_eq!(row(PROFILE_ONLY), format!("us.{PROFILE_ONLY}"));
    assert_eq!(row(NEEDS_CREATED_PROFILE), "(a profile is created at the first request)");
    assert!(
        row("cohere.command-r-v1:0").starts_with("- cohere.command-r-v1:0 is refused by \"cohere.*\" in models.deny")
    );

    let json: Value = serde_json::from_str(&stdout(&setup.command(&["models", "--json"]).await)).unwrap();
    let models = json["models"].as_array().unwrap();
    assert_eq!(models.len() + 1, table.lines().count());
    let premier = models.iter().find(|model| model["modelId"] == PROFILE_ONLY).unwrap();
    assert_eq!(
        *premier,
        json!({
            "modelId": PROFILE_ONLY, "modelName": "Nova Premier", "providerName": "Amazon",
            "invokable": true, "invokedAs": format!("us.{PROFILE_ONLY}"), "createsProfile": false, "reason": null,
        })
    );
    let output = Setup::alone().command(&["models"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("bedrock-sidecar: "), "{}", stderr(&output));
}

/// A fresh install must not listen before somebody has said where the commercial credential is.
#[tokio::test]
async fn the_shipped_example_says_what_to_edit_and_is_fine_afterwards() {
    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml")).unwrap();
    let setup = Setup::alone();
    let path = setup.path().join("example.toml");
    let path = path.to_str().unwrap();
    std::fs::write(path, &example).unwrap();
    for words in [["check", "--config"], ["run", "--config"]] {
        let output = command(&[words[0], words[1], path], &[]).await;
        assert_eq!(output.status.code(), Some(78), "{words:?}");
        let line = 1 + example.lines().position(|line| line.starts_with("secret_id =")).unwrap();
        let expected = format!(
            "{path}:{line}:13: secret_id is empty; write the name of the secret that holds the commercial credential \
             here, or choose another source."
        );
        assert_eq!(stderr(&output).trim(), expected, "{words:?}");
    }
    std::fs::write(path, example.replace("secret_id = \"\"", "secret_id = \"mine\"")).unwrap();
    let output = command(&["check", "--config", path], &[]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[tokio::test]
async fn sigterm_and_sigint_let_a_stream_come_to_its_end() {
    let bedrock = bedrock().await;
    for signal in ["TERM", "INT"] {
        bedrock.gate().open();
        let mut daemon = Setup::tls(&bedrock).ready().await;
        let whole = daemon.post(&stream_path(ON_DEMAND), converse("events 12")).await;
        bedrock.gate().close();
        let asked = || request(Method::POST, &stream_path(ON_DEMAND), converse("events 12"));
        let mut one = Http1::to(daemon.address()).await;
        let two = Http2::to(daemon.address()).await;
        let mut idle = Http1::to(daemon.address()).await;
        assert_eq!(idle.send(request(Method::GET, "/health", "")).await.status, 200);
        let mut streams =
            [Reader::new(one.start(asked()).await.unwrap()), Reader::new(two.start(asked()).await.unwrap())];
        daemon.signal(signal);
        let line = daemon.says("draining").await;
        assert!(line["connections"].as_u64().unwrap() >= 2, "{line}");
        let address = daemon.address();
        until_async(
            "new connections to be refused",
            || async move { TcpStream::connect(address).await.err().map(|_| ()) },
        )
        .await;
        assert!(daemon.is_running(), "two streams are still open");
        bedrock.gate().open();
        for stream in &mut streams {
            stream.end().await.unwrap();
            assert_eq!(stream.bytes, whole.body, "whole");
        }
        assert_eq!(daemon.ended().await.code(), Some(0), "{signal}");
        daemon.says("stopped").await;
        assert_eq!(daemon.records().iter().filter(|record| record["outcome"] == "completed").count(), 3);
    }
}

#[tokio::test]
async fn what_outlasts_the_drain_is_cut_off() {
    let bedrock = bedrock().await;
    let mut daemon = Setup::plain(&bedrock).with("[drain]\ntimeout = \"1s\"").ready().await;
    bedrock.gate().close();
    let mut connection = Http1::to(daemon.address()).await;
    let asked = request(Method::POST, &stream_path(ON_DEMAND), converse("events 12"));
    let mut stream = Reader::new(connection.start(asked).await.unwrap());
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert!(stream.end().await.is_err(), "not a clean end");
    daemon.says("requests were still in flight when drain.timeout had passed; they are cut off").await;
    // The client has not left, and the upstream has not broken.
    let record = daemon.record_with_id(&stream.request_id).await;
    assert_eq!((&record["outcome"], &record["statusCode"]), (&json!("interrupted"), &json!(200)), "{record}");
    assert!(record["errorMessage"].as_str().unwrap().contains("drain.timeout"), "{record}");
}

#[tokio::test]
async fn sighup_takes_over_a_good_file_without_breaking_a_stream() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    bedrock.gate().close();
    let mut connection = Http1::to(daemon.address()).await;
    let asked = request(Method::POST, &stream_path(ON_DEMAND), converse("events 12"));
    let mut stream = Reader::new(connection.start(asked).await.unwrap());

    let config = daemon.directory.path().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}\n[models]\ndeny = [\"amazon.nova-lite*\"]\n")).unwrap();
    daemon.signal("HUP");
    daemon.says("configuration reloaded").await;
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("x")).await;
    assert!(refused(&answer, 403, "AccessDeniedException").contains("models.deny"));
    bedrock.gate().open();
    stream.end().await.unwrap();
    assert!(frames(&stream.bytes).len() > 12);
}

#[tokio::test]
async fn sighup_with_a_bad_file_keeps_the_old_settings_and_says_so() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let config = daemon.directory.path().join("config.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{good}\n[models]\nallow = [\"\"]\n")).unwrap();
    daemon.signal("HUP");
    let line = daemon.says("the new configuration cannot be used; the old one stays in force").await;
    let reason = line["reason"].as_str().unwrap();
    let lines = good.lines().count() + 3;
    assert!(reason.starts_with(&format!("{}:{lines}:10: an empty pattern", config.display())), "{reason}");
    assert_eq!(line["level"], "ERROR");
    assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse("x")).await.status, 200);
    // And a good one is taken again afterwards.
    std::fs::write(&config, &good).unwrap();
    daemon.signal("HUP");
    daemon.says("configuration reloaded").await;
    assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse("x")).await.status, 200);
}

#[tokio::test]
async fn the_admin_address_serves_health_readiness_and_metrics_and_nothing_else() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let health = daemon.admin_get("/health").await;
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("healthy")));
    let ready = daemon.admin_get("/ready").await;
    assert_eq!((ready.status, ready.json()), (200, json!({ "ready": true, "reasons": [] })));
    assert_eq!(daemon.admin_get("/metrics").await.status, 200);
    bedrock.clear();
    let answer = post(daemon.admin, &converse_path(ON_DEMAND), converse("x")).await;
    refused(&answer, 404, "UnknownOperationException");
    assert_eq!(daemon.get("/metrics").await.status, 404, "not where apps call");
    assert_eq!(bedrock.requests().len(), 0);
}
