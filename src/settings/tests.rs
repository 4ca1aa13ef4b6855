//! Rules and values that are well-formed and could never work: each is refused at its place, or warned of.

use std::path::Path;

use super::*;

fn load(text: &str) -> Result<Settings, String> {
    let source = Source::new(Path::new("config.toml"), text.to_owned());
    let plain = |error: ConfigError| error.to_string().trim_start_matches("config.toml:").to_owned();
    Settings::from_source(&source).map_err(plain)
}

fn caller(keys: &str) -> String {
    format!("[[callers]]\nname = \"a\"\nusers = [\"0\"]\n{keys}\n")
}

fn refused(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        match load(text) {
            Ok(_) => panic!("accepted: {text}"),
            Err(error) => assert_eq!(error, *expected, "{text}"),
        }
    }
}

#[test]
fn rules_on_operations_name_operations() {
    for (keys, expected) in [
        (
            "deny_operations = [\"Convers\"]",
            "\"Convers\" fits no operation that is relayed; did you mean \"Converse\"?",
        ),
        ("operations = [\"converse*\"]", "\"converse*\" fits no operation that is relayed; did you mean \"Converse\"?"),
        (
            "operations = [\"bedrock:Invoke*\"]",
            "\"bedrock:Invoke*\" fits no operation that is relayed; write a name such as \"Converse\", or a pattern such as \"Invoke*\".",
        ),
        (
            "operations = []",
            "operations is empty and would permit no operation; leave it out to permit all, or name what is permitted.",
        ),
    ] {
        let error = load(&caller(keys)).unwrap_err();
        assert!(error.starts_with("4:") && error.ends_with(expected), "{error}");
    }
    assert!(load(&caller("operations = [\"Invoke*\", \"ConverseStream\", \"*\"]\ndeny_operations = []")).is_ok());
    let nothing = load(&caller("operations = [\"Converse\"]\ndeny_operations = [\"Conv*\"]")).unwrap();
    assert_eq!(nothing.warnings, ["config.toml:1:1: the caller \"a\" may call nothing."]);
}

#[test]
fn every_operation_can_be_named() {
    for operation in crate::operation::OPERATIONS {
        assert!(load(&caller(&format!("deny_operations = [\"{}\"]", operation.name))).is_ok(), "{}", operation.name);
    }
}

#[test]
fn rules_on_models_can_fit_one() {
    refused(&[
        (
            "[models]\nallow = [\"amazon.*\", \" anthropic.* \"]",
            "2:22: \" anthropic.* \" begins or ends with white space, so it matches nothing; write \"anthropic.*\"",
        ),
        (
            "[models]\nallow = []",
            "2:9: allow is empty and would permit no model; leave it out to permit all, or name what is permitted.",
        ),
        (
            "[models]\ndeny = [\"*opus*\", \"an thropic\"]",
            "2:19: \"an thropic\" fits no model: identifiers have letters, digits and any of \"._:/-\", but no ' '.",
        ),
        (
            "[limits.models.\"a,b\"]\nrequests_per_minute = 1",
            "1:16: \"a,b\" fits no model: identifiers have letters, digits and any of \"._:/-\", but no ','.",
        ),
        (
            &caller("models = []"),
            "4:10: models is empty and would permit no model; leave it out to permit all, or name what is permitted.",
        ),
        (
            &caller("deny_models = [\"*opus*|*sonnet*\"]"),
            "4:16: \"*opus*|*sonnet*\" fits no model: identifiers have letters, digits and any of \"._:/-\", but no '|'.",
        ),
    ]);
    assert!(load("[models]\ndeny = []").unwrap().warnings.is_empty());
    assert_eq!(
        load("[models]\ndeny = [\"*\"]").unwrap().warnings,
        ["config.toml:2:9: \"*\" denies every model, to everybody."]
    );
}

#[test]
fn geographies_are_known() {
    refused(&[
        (
            "[models]\ngeographies = [\"us\", \"usa\"]",
            "2:22: \"usa\" is no geography of inference profiles. Did you mean \"us\"? Known are us, eu, apac, jp, au, ca, in, sa, global.",
        ),
        (
            "[models]\ngeographies = [\"atlantis\"]",
            "2:16: \"atlantis\" is no geography of inference profiles. Known are us, eu, apac, jp, au, ca, in, sa, global.",
        ),
    ]);
    assert!(load("[models]\ngeographies = [\"us\", \"eu\", \"global\"]").is_ok());
    assert!(load("[models]\ngeographies = []").is_ok());
}

#[test]
fn aliases_stand_for_one_model_and_lead_somewhere() {
    refused(&[
        (
            "[models.aliases]\nclaude = \"anthropic.*\"",
            "2:10: \"anthropic.*\" is a pattern, and an alias stands for one model; name one model or profile.",
        ),
        ("[models.aliases]\na = \"a\"", "2:5: the alias \"a\" leads back to itself; name a model or a profile."),
        (
            "[models.aliases]\na = \"b\"\nb = \"c\"\nc = \"a\"",
            "2:5: the alias \"a\" leads back to itself; name a model or a profile.",
        ),
        (
            "[models.aliases]\n\"my claude\" = \"anthropic.claude\"",
            "2:1: no request can ask for the alias \"my claude\"; it has letters, digits and any of \"._:/-\", as identifiers have.",
        ),
        (
            "[models.aliases]\na = \"arn:aws-us-gov:bedrock:us-gov-west-1:1:provisioned-model/x\"",
            "2:5: \"arn:aws-us-gov:bedrock:us-gov-west-1:1:provisioned-model/x\" belongs to a GovCloud account and does not exist on the commercial side; name the model or a commercial profile.",
        ),
    ]);
    let chain = load("[models.aliases]\na = \"b\"\nb = \"eu.anthropic.claude-v1:0\"").unwrap();
    assert_eq!(
        chain.warnings,
        [
            "config.toml:2:5: \"b\" is an alias too; aliases are applied once, so \"b\" itself is asked for.",
            "config.toml:3:5: \"b\" will be refused: \"eu\" is not in models.geographies.",
        ]
    );
}

#[test]
fn a_caller_can_be_reached() {
    refused(&[
        (
            "[policy]\nrequire_known_caller = true",
            "2:24: require_known_caller refuses everybody, because there are no [[callers]]; add an entry or remove it.",
        ),
        (
            &caller("certificate_names = [\"CN=billing\"]"),
            "4:22: nobody can show a certificate: certificate_names need client_ca_file in [listen.tls].",
        ),
        (
            &caller("certificate_names = [\"billing.internal\"]"),
            "4:22: \"billing.internal\" fits no name of a certificate, because each begins with its kind: CN=, O=, OU=, DNS:, URI:, email:, IP:.",
        ),
        (
            &format!("{}[[callers]]\nname = \"b\"\nusers = [\"root\"]", caller("")),
            "5:1: nobody can be the caller \"b\": user 0 is already in \"a\", which comes first.",
        ),
        (
            "[[callers]]\nname = \"a\"\nhost_role = true\n[[callers]]\nname = \"b\"\nhost_role = true",
            "4:1: nobody can be the caller \"b\": host_role is already in \"a\", which comes first.",
        ),
    ]);
    let partly = format!("{}[[callers]]\nname = \"b\"\nusers = [\"0\", \"1\"]", caller(""));
    assert_eq!(
        load(&partly).unwrap().warnings,
        ["config.toml:5:1: in \"b\", user 0 is already in \"a\", which comes first."]
    );
    let group_behind_user = format!("{}[[callers]]\nname = \"b\"\ngroups = [\"0\"]", caller(""));
    assert!(load(&group_behind_user).unwrap().warnings.is_empty());
}

#[test]
fn names_of_tables_and_secrets_can_exist() {
    let secret =
        |id: &str, more: &str| format!("[credentials]\nsource = \"secrets_manager\"\nsecret_id = \"{id}\"\n{more}");
    let arn = "arn:aws-us-gov:secretsmanager:us-gov-east-1:123456789012:secret:bedrock-AbCdEf";
    refused(&[
        (
            &secret(arn, "region = \"us-gov-west-1\""),
            "3:13: the secret is in us-gov-east-1 by its ARN, but region is \"us-gov-west-1\"; make them the same.",
        ),
        (
            &secret("my secret", ""),
            "3:13: \"my secret\" is not a secret of Secrets Manager; names have 1 to 512 letters, digits or any of \"/_+=.@-\".",
        ),
        (
            "[audit]\ntable = \"my table\"",
            "2:9: \"my table\" is not a DynamoDB table; names have 3 to 255 letters, digits or any of \"._-\".",
        ),
        (
            "[audit]\ntable = \"t\"",
            "2:9: \"t\" is not a DynamoDB table; names have 3 to 255 letters, digits or any of \"._-\".",
        ),
        (
            "[audit]\ntable = \"arn:aws-us-gov:dynamodb:us-gov-east-1:123456789012:table/records\"",
            "2:9: the table is in us-gov-east-1 by its ARN, but region is \"us-gov-west-1\"; make them the same.",
        ),
        (
            "[audit]\ntable = \"same\"\n[fleet]\ntable = \"same\"\nrequests_per_minute = 1",
            "4:9: the fleet's table is the table of the records too; it needs one that holds nothing else.",
        ),
    ]);
    let settings = load(&secret(arn, "")).unwrap();
    assert!(
        matches!(&settings.credentials.source, SecretLocation::SecretsManager { region, .. } if region == "us-gov-east-1")
    );
    assert!(load(&secret("cross-partition-commercial-creds", "region = \"us-east-1\"")).is_ok());
    assert!(load("[audit]\ntable = \"\"").is_ok());
}

#[test]
fn a_profile_has_a_name() {
    for name in ["", " ", "\\u0000"] {
        refused(&[(
            &format!("[credentials]\nsource = \"profile\"\nprofile = \"{name}\""),
            "1:1: source = \"profile\" needs profile beside it in [credentials].",
        )]);
    }
}

#[test]
fn paths_lead_somewhere() {
    let empty = "an empty path leads nowhere; name a file, or leave the key out";
    for text in [
        "[credentials]\nsource = \"file\"\nfile = \"\"",
        "[listen]\nunix_socket = \" \"",
        "[audit]\nstate_dir = \"\"",
        "[limits]\nprices_file = \"\"",
        "[[upstreams]]\nregion = \"us-east-1\"\nca_file = \"\"",
        "[listen.tls]\naddress = \"127.0.0.1:1\"\ncertificate_file = \"\"",
        "[[callers]]\nname = \"a\"\nbearer_token_file = \"\"",
    ] {
        let error = load(text).map(|_| ()).unwrap_err();
        assert!(error.ends_with(empty), "{text}: {error}");
    }
    let socket = |length: usize| format!("[listen]\nunix_socket = \"/{}\"", "s".repeat(length - 1));
    assert!(load(&socket(107)).is_ok());
    refused(&[(&socket(108), "2:15: the path of a unix socket has at most 107 bytes, and this one has 108.")]);
}

#[test]
fn endpoints_serve_the_region() {
    let endpoint = |url: &str| format!("[[upstreams]]\nregion = \"us-east-1\"\nruntime_endpoint = \"{url}\"");
    refused(&[
        (
            &endpoint("https://localhost:99999"),
            "3:20: \"https://localhost:99999\" is not an endpoint: a port is a number from 1 to 65535",
        ),
        (
            &endpoint("https://bedrock-runtime.us-gov-west-1.amazonaws.com"),
            "3:20: bedrock-runtime.us-gov-west-1.amazonaws.com is not in the commercial partition, whose key it must never see; name a host of us-east-1.",
        ),
        (
            &endpoint("https://vpce-1.bedrock-runtime.us-west-2.vpce.amazonaws.com"),
            "3:20: vpce-1.bedrock-runtime.us-west-2.vpce.amazonaws.com serves us-west-2, and refuses what is signed for us-east-1; name a host of us-east-1, or change region.",
        ),
        (
            &endpoint("https://bedrock.us-east-1.amazonaws.com?x"),
            "3:20: \"https://bedrock.us-east-1.amazonaws.com?x\" is not an endpoint: leave out path and query, they come from the request",
        ),
    ]);
    for url in ["https://vpce-1.bedrock-runtime.us-east-1.vpce.amazonaws.com", "https://localhost:1", "http://[::1]:9"]
    {
        assert!(load(&endpoint(url)).is_ok(), "{url}");
    }
}

#[test]
fn sizes_and_spans_are_within_reason() {
    refused(&[
        ("[audit]\nmax_ledger_bytes = 1", "2:20: a ledger of 1 bytes has no room for a record; give it 4000 at least."),
        (
            "[listen]\nmax_connections = 9223372036854775807",
            "2:19: max_connections is at most 1000000; no process has more descriptors.",
        ),
        ("[upstream_timeouts]\nconnect = \"1h\"", "2:11: connect is at most \"10m\"."),
        ("[upstream_timeouts]\nfirst_byte = \"25h\"", "2:14: first_byte is at most \"1d\"."),
        ("[upstream_timeouts]\nidle = \"2d\"", "2:8: idle is at most \"1d\"."),
        (
            "[credentials]\nsource = \"environment\"\nrefresh_interval = \"2d\"",
            "3:20: refresh_interval is at most \"1d\".",
        ),
        ("[models]\nrefresh_interval = \"31d\"", "2:20: refresh_interval is at most \"30d\"."),
        ("[drain]\ntimeout = \"36500d\"", "2:11: timeout is at most \"1d\"."),
    ]);
    let odd = load("[audit]\nmax_ledger_bytes = 100000\nretention = \"1m\"").unwrap().warnings;
    assert_eq!(
        odd,
        [
            "config.toml:2:20: a ledger of less than 1 MiB (1048576) is full after a few hundred requests.",
            "config.toml:3:13: records are deleted within the hour.",
        ]
    );
}

#[test]
fn lists_are_no_tables() {
    refused(&[
        (
            "[[limits]]\nrequests_per_minute = 1",
            "1:1: there is only one limits; write [limits], with single brackets, above its keys.",
        ),
        ("limits = []", "1:10: there is only one limits; write [limits], with single brackets, above its keys."),
        (
            "audit.anchor = [\"log\"]",
            "1:16: there is only one audit.anchor; write [audit.anchor], with single brackets, above its keys.",
        ),
        (
            "limits.models.\"a*\" = [1]",
            "1:22: there is only one limits.models.\"a*\"; write [limits.models.\"a*\"], with single brackets, above its keys.",
        ),
        ("[callers]\nname = \"a\"", "1:1: there may be several of callers; write [[callers]], with two brackets."),
        ("callers = [\"a\"]", "1:12: each of callers is a table of its own; write [[callers]] above its keys."),
        (
            "[limits]\nrequests_per_minute = 4294967296",
            "2:23: invalid value: integer `4294967296`, expected a whole number from 1 to 4294967295",
        ),
        (
            "[limits]\nrequests_per_minute = -1",
            "2:23: invalid value: integer `-1`, expected a whole number from 1 to 4294967295",
        ),
    ]);
    let error = load("[limits]\nrequest_per_minute = 1").map(|_| ()).unwrap_err();
    assert!(error.ends_with("; did you mean `requests_per_minute`?"), "{error}");
}

#[test]
fn a_value_of_the_wrong_type_is_told_its_right_form() {
    refused(&[
        ("listen = 1", "1:10: invalid type: integer `1`, expected a table; write [listen] above its keys"),
        ("guardrails = \"x\"", "1:14: invalid type: string \"x\", expected a table; write [guardrails] above its keys"),
        (
            "[limits]\nmodels = 7",
            "2:10: invalid type: integer `7`, expected a table; write [limits.models] above its keys",
        ),
        (
            "[limits.models]\n\"a.*\" = 7",
            "2:9: invalid type: integer `7`, expected a table; write [limits.models.\"a.*\"] above its keys",
        ),
        (
            "[listen]\naddresses = \"127.0.0.1:1\"",
            "2:13: invalid type: string \"127.0.0.1:1\", expected a list; write for example addresses = [\"…\"]",
        ),
        (
            "[[callers]]\nname = 1",
            "2:8: invalid type: integer `1`, expected a text in quotes; write for example name = \"…\"",
        ),
        (
            "[models]\ncreate_profiles = \"yes\"",
            "2:19: invalid type: string \"yes\", expected true or false, without quotes; write for example create_profiles = true",
        ),
        (
            "[listen]\nidle_timeout = 75",
            "2:16: invalid type: integer `75`, expected a duration such as \"30s\", \"5m\" or \"30d\"",
        ),
        (
            "[limits]\nrequests_per_minute = \"5\"",
            "2:23: invalid type: string \"5\", expected a whole number from 1 to 4294967295",
        ),
        (
            "[limits]\nrequests_per_minute = 1.5",
            "2:23: invalid type: floating point `1.5`, expected a whole number from 1 to 4294967295",
        ),
    ]);
    for (text, says) in [
        ("[log]\nlevel = 3", "expected a text in quotes; write for example level = \"…\""),
        ("[policy]\nrequire_data_retention = \"none\"", "require_data_retention = [\"…\"]"),
        ("[policy]\nrequire_data_retention = [\"non\"]", "did you mean `none`?"),
        ("[listn]", "did you mean `listen`?"),
        ("[audit.anchor]\nto = \"log\"\nprefx = \"x\"", "did you mean `prefix`?"),
    ] {
        let error = load(text).map(|_| ()).unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn a_byte_that_is_not_utf_8_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, b"# h\xc3\xa9\n# caf\xe9\n[log]\n").unwrap();
    let error = Settings::load(&path).unwrap_err();
    assert_eq!((error.line, error.column), (2, 6), "{error}");
    assert_eq!(error.sentence, "the byte 0xe9 here is not UTF-8; save the file in that encoding.");
}

#[test]
fn a_budget_has_prices_to_count_by() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("prices.toml");
    let limits = |more: &str| format!("[limits]\nprices_file = \"{}\"\n{more}", path.display());
    std::fs::write(&path, "").unwrap();
    let lack = "needs prices, and the prices_file has no [[prices]] in it.";
    refused(&[
        (&limits("usd_per_day = 5"), &format!("3:15: usd_per_day {lack}")),
        (&(limits("") + &caller("usd_per_month = 5")), &format!("6:17: usd_per_month {lack}")),
    ]);
    std::fs::write(&path, "[[prices]]\nmodel = \"anthropic.*\"\ninput = 1\noutput = 2\n").unwrap();
    refused(&[(
        &limits("[limits.models.\"amazon.*\"]\nusd_per_day = 5"),
        "4:15: usd_per_day counts nothing: no [[prices]] in the prices_file fits a model of \"amazon.*\".",
    )]);
    for pattern in ["*opus*", "us.anthropic.*", "arn:*", "anthropic.claude-v1"] {
        assert!(load(&limits(&format!("[limits.models.\"{pattern}\"]\nusd_per_day = 5"))).is_ok(), "{pattern}");
    }
    let twice = "[[prices]]\nmodel = \"a*\"\ninput = 1\noutput = 2\n".repeat(2);
    std::fs::write(&path, twice).unwrap();
    let error = load(&limits("")).map(|_| ()).unwrap_err();
    assert!(error.ends_with(":6:9: \"a*\" has a price already, and the first that fits holds; remove one."), "{error}");
}

#[test]
fn there_is_a_thread_for_each_core_unless_said_otherwise() {
    let cores = std::thread::available_parallelism().unwrap().min(MOST_BY_ITSELF);
    assert_eq!(MOST_BY_ITSELF.get(), 8);
    assert_eq!(load("").unwrap().threads, cores);
    assert_eq!(load("[runtime]\nthreads = 0").unwrap().threads, cores);
    assert_eq!(load("[runtime]\nthreads = 3").unwrap().threads.get(), 3);
    refused(&[(
        "[runtime]\nthreads = 600",
        "2:11: runtime.threads must be at most 512; 0 means one for each core, 8 at most.",
    )]);
}
