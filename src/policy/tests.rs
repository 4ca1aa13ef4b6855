use super::*;

const CONFIG: &str = r#"[models]
allow = ["anthropic.*", "amazon.nova-*", "claude"]
deny = ["*opus*"]
[models.aliases]
claude = "us.anthropic.claude-sonnet-4-v1:0"
[[callers]]
name = "billing"
users = ["1007"]
models = ["anthropic.*"]
deny_models = ["anthropic.claude-v2*"]
operations = ["Invoke*", "Converse*"]
deny_operations = ["*Stream"]
data_classification = "internal"
[[callers]]
name = "free"
users = ["1008"]
"#;

const LEVELS: &str =
    "[policy]\nrequire_known_caller = true\ndata_classifications = [\"public\", \"internal\", \"secret\"]\n";

fn settings(text: &str) -> Settings {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    Settings::load(&path).unwrap_or_else(|error| panic!("{error}"))
}

fn caller(settings: &Settings, name: &str) -> Caller {
    Caller {
        entry: settings.callers.entries.iter().find(|entry| entry.name == name).cloned(),
        uid: Some(40_000),
        access_key_id: None,
        identity_verified: false,
        user_arn: "arn:aws-us-gov:iam::unknown:host/test".into(),
    }
}

fn named(operation: &str) -> &'static Operation {
    crate::operation::OPERATIONS.iter().find(|row| row.name == operation).unwrap()
}

/// The refusal's text, or the level of the permit.
fn decide(settings: &Settings, who: &str, operation: &str, model: Option<&str>, header: Option<&str>) -> String {
    match permit(&caller(settings, who), named(operation), model, header, settings) {
        Ok(permit) => format!("allowed at {}", permit.data_classification().unwrap_or("none")),
        Err(refusal) => refusal.message.into_owned(),
    }
}

#[test]
fn models_are_matched_by_what_they_are() {
    let settings = settings(CONFIG);
    let model = |who: &str, model: &str| decide(&settings, who, "InvokeModel", Some(model), None);
    for allowed in [
        "anthropic.claude-3-haiku-20240307-v1:0",
        "us.anthropic.claude-3-haiku-20240307-v1:0",
        "us-gov.anthropic.claude-3-haiku-20240307-v1:0",
        "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-3-haiku-20240307-v1:0",
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-3-haiku-20240307-v1:0",
        "claude",
    ] {
        assert_eq!(model("billing", allowed), "allowed at internal", "{allowed}");
    }
    assert_eq!(model("free", "us.amazon.nova-lite-v1:0"), "allowed at none");
    assert_eq!(model("nobody", "us.amazon.nova-lite-v1:0"), "allowed at none");
}

#[test]
fn refusals_name_rule_and_line() {
    let settings = settings(CONFIG);
    assert_eq!(
        decide(&settings, "billing", "InvokeModel", Some("amazon.nova-lite-v1:0"), None),
        "caller \"billing\" may not use \"amazon.nova-lite-v1:0\"; models at config.toml:9 does not list it."
    );
    assert_eq!(
        decide(&settings, "billing", "ConverseStream", Some("anthropic.x"), None),
        "caller \"billing\" may not call ConverseStream (deny_operations at config.toml:12)."
    );
    assert_eq!(
        decide(&settings, "billing", "ListFoundationModels", None, None),
        "caller \"billing\" may not call ListFoundationModels; operations at config.toml:11 does not list it."
    );
}

#[test]
fn deny_beats_allow_however_the_model_is_spelled() {
    let settings = settings(CONFIG);
    for spelled in [
        "anthropic.claude-v2:1",
        "us.anthropic.claude-v2:1",
        "zz.anthropic.claude-v2:1",
        "Anthropic.Claude-V2:1",
        "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-v2:1",
        "arn:aws:bedrock:us-east-1:1:inference-profile/eu.anthropic.claude-v2:1",
    ] {
        let text = decide(&settings, "billing", "InvokeModel", Some(spelled), None);
        let expected = format!("caller \"billing\" may not use \"{spelled}\" (deny_models at config.toml:10).");
        assert_eq!(text, expected);
    }
}

#[test]
fn what_does_not_say_its_model_must_be_listed_as_an_arn() {
    let settings = settings(&format!(
        "{CONFIG}[[callers]]\nname = \"listed\"\nusers = [\"1\"]\nmodels = [\"*\", \"*:imported-model/abc\"]\ndeny_models = [\"*opus*\"]\n[[callers]]\nname = \"denied\"\nusers = [\"2\"]\ndeny_models = [\"*opus*\"]\n[[callers]]\nname = \"all\"\nusers = [\"3\"]\nmodels = [\"*\"]\n"
    ));
    let arn = "arn:aws:bedrock:us-east-1:123456789012:imported-model/abc";
    let model = |who: &str, arn: &str| decide(&settings, who, "InvokeModel", Some(arn), None);
    for who in ["listed", "all", "free", "nobody"] {
        assert_eq!(model(who, arn), "allowed at none", "{who}");
    }
    assert!(model("billing", arn).contains("models at config.toml:9 does not list it"));
    assert!(model("denied", arn).contains("does not say which model it stands for"));
    assert!(model("listed", &arn.replace("abc", "abd")).contains("does not list it"));
}

#[test]
fn models_that_nobody_sees_are_refused_where_rules_tell_models_apart() {
    let plain = settings("[[callers]]\nname = \"a\"\nusers = [\"1\"]\nmodels = [\"amazon.*\"]\n");
    assert_eq!(decide(&plain, "nobody", "OpenAICreateBatch", None, None), "allowed at none");
    assert!(decide(&plain, "a", "OpenAICreateBatch", None, None).contains("does not see them"));
    let strict = settings("[models]\ndeny = [\"*opus*\"]\n");
    assert!(decide(&strict, "nobody", "OpenAICreateBatch", None, None).contains("does not see them"));
    assert_eq!(decide(&strict, "nobody", "OpenAIListBatches", None, None), "allowed at none");
}

#[test]
fn unknown_callers_may_be_kept_out() {
    let settings = settings(&format!("{CONFIG}{LEVELS}"));
    assert_eq!(
        decide(&settings, "nobody", "InvokeModel", Some("anthropic.x"), None),
        "only known callers may call (require_known_caller at config.toml:18), and no [[callers]] entry fits this request."
    );
    // A caller that proves to be the host's role, and has no entry, is not known either.
    let verified = Caller { identity_verified: true, ..caller(&settings, "nobody") };
    assert!(permit(&verified, named("InvokeModel"), None, None, &settings).is_err());
}

#[test]
fn who_hides_from_the_kernel_gets_least() {
    let with_rules = settings("[[callers]]\nname = \"a\"\nusers = [\"0\"]\ndeny_models = [\"*opus*\"]");
    let hidden = |settings: &Settings, who: &str| Caller { uid: None, ..caller(settings, who) };
    assert!(permit(&hidden(&with_rules, "nobody"), named("InvokeModel"), None, None, &with_rules).is_err());
    assert!(permit(&caller(&with_rules, "nobody"), named("InvokeModel"), None, None, &with_rules).is_ok());
    assert!(
        permit(&hidden(&with_rules, "a"), named("InvokeModel"), None, None, &with_rules).is_ok(),
        "known by something else"
    );
    let without = settings("");
    assert!(permit(&hidden(&without, "nobody"), named("InvokeModel"), None, None, &without).is_ok());
}

#[test]
fn a_header_raises_the_level_and_never_lowers_it() {
    let settings = settings(&format!("{CONFIG}{LEVELS}"));
    let level = |who: &str, header: Option<&str>| decide(&settings, who, "InvokeModel", Some("anthropic.x"), header);
    assert_eq!(level("billing", None), "allowed at internal");
    assert_eq!(level("billing", Some("internal")), "allowed at internal");
    assert_eq!(level("billing", Some("secret")), "allowed at secret");
    assert_eq!(
        level("billing", Some("public")),
        "data classification \"public\" is below the caller's \"internal\" (data_classifications at config.toml:19)."
    );
    assert_eq!(
        level("billing", Some("cosmic")),
        "data classification \"cosmic\" is not in data_classifications at config.toml:19."
    );
    assert_eq!(level("free", Some("public")), "allowed at public");
    assert!(level("free", None).starts_with("the request has no data classification"));
    assert!(level("free", Some("a\"b")).contains("is not the name of a level"));
    assert!(level("free", Some("")).contains("is not the name of a level"));
}

#[test]
fn without_levels_a_header_is_recorded_unless_it_contradicts() {
    let settings = settings(CONFIG);
    let level = |who: &str, header: Option<&str>| decide(&settings, who, "InvokeModel", Some("anthropic.x"), header);
    assert_eq!(level("nobody", Some("cui")), "allowed at cui");
    assert_eq!(level("nobody", None), "allowed at none");
    assert_eq!(level("billing", Some("internal")), "allowed at internal");
    assert!(level("billing", Some("public")).contains("gives no order of levels"));
}

#[test]
fn long_identifiers_are_cut_in_refusals() {
    let text = decide(&settings(CONFIG), "billing", "InvokeModel", Some(&"x".repeat(5000)), None);
    assert!(text.len() < 400, "{}", text.len());
}

const OFF: &str = r#"[models]
allow_profile_management = true
[[callers]]
name = "named"
users = ["1"]
operations = ["*InferenceProfile", "StartAsync*", "OpenAI"]
data_classification = "public"
[[callers]]
name = "all"
users = ["2"]
operations = ["*"]
data_classification = "public"
[[callers]]
name = "denied"
users = ["3"]
deny_operations = ["OpenAI"]
data_classification = "public"
[policy]
data_classifications = ["public"]
"#;

#[test]
fn what_is_off_is_on_for_those_who_are_named() {
    let on = settings(OFF);
    let off = settings(&OFF.replace("= true", "= false"));
    for operation in ["CreateInferenceProfile", "DeleteInferenceProfile"] {
        assert_eq!(decide(&on, "named", operation, None, None), "allowed at public", "{operation}");
        for who in ["all", "denied", "nobody"] {
            assert!(decide(&on, who, operation, None, None).contains("whose [[callers]] entry names it"), "{who}");
        }
        let text = decide(&off, "named", operation, None, None);
        assert!(text.contains("set allow_profile_management = true"), "{text}");
    }
    assert_eq!(decide(&on, "named", "StartAsyncInvoke", None, None), "allowed at public");
    let text = decide(&on, "all", "StartAsyncInvoke", None, None);
    assert!(text.contains("commercial S3") && text.contains("config.toml:19"), "{text}");
    let text = decide(&on, "nobody", "StartAsyncInvoke", None, Some("public"));
    assert!(text.contains("commercial S3"), "{text}");
    for (who, header) in [("all", None), ("nobody", Some("public"))] {
        let text = decide(&on, who, "OpenAICreateBatch", None, header);
        assert!(text.contains("commercial S3") && text.contains("config.toml:19"), "{who}: {text}");
    }
    assert!(decide(&on, "all", "OpenAIListBatches", None, None).contains("allowed"));
    let without_levels = settings(CONFIG);
    assert_eq!(decide(&without_levels, "nobody", "StartAsyncInvoke", None, None), "allowed at none");
}

#[test]
fn the_name_of_a_group_stands_for_all_of_it() {
    let settings = settings(OFF);
    for operation in ["OpenAIListModels", "OpenAIDeleteResponse", "OpenAICreateBatch"] {
        assert_eq!(decide(&settings, "named", operation, None, None), "allowed at public", "{operation}");
        assert!(decide(&settings, "denied", operation, None, None).contains("deny_operations"), "{operation}");
    }
    assert!(decide(&settings, "named", "ChatCompletions", None, None).contains("does not list it"));
    assert_eq!(decide(&settings, "denied", "ChatCompletions", None, None), "allowed at public");
}
