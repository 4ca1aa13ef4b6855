use super::*;
use crate::config::Glob;
use crate::model::catalogue::Profile;
use crate::model::catalogue::{FoundationModel, ProfileModel};
use crate::settings::Settings;

fn settings() -> Models {
    let text = "[models.aliases]
claude = \"a.profile-only-v1:0\"
";
    let source = crate::config::Source::new(std::path::Path::new("config.toml"), text.to_owned());
    Settings::from_source(&source).unwrap().models
}

fn model(id: &str, types: &[&str]) -> FoundationModel {
    FoundationModel {
        model_id: id.into(),
        model_arn: format!("arn:aws:bedrock:us-east-1::foundation-model/{id}"),
        inference_types_supported: types.iter().map(|t| (*t).to_owned()).collect(),
        ..FoundationModel::default()
    }
}

fn profile(id: &str, kind: &str, regions: &[&str], of: &str) -> Profile {
    let resource = if kind == "APPLICATION" { "application-inference-profile" } else { "inference-profile" };
    Profile {
        inference_profile_id: id.into(),
        inference_profile_arn: format!("arn:aws:bedrock:us-east-1:1:{resource}/{id}"),
        kind: kind.into(),
        status: "ACTIVE".into(),
        models: regions
            .iter()
            .map(|region| ProfileModel { model_arn: format!("arn:aws:bedrock:{region}::foundation-model/{of}") })
            .collect(),
        ..Profile::default()
    }
}

fn catalogue() -> Catalogue {
    Catalogue::new(
        vec![
            model("a.on-demand-v1:0", &["ON_DEMAND"]),
            model("a.both-v1:0", &["ON_DEMAND", "INFERENCE_PROFILE"]),
            model("a.profile-only-v1:0", &["INFERENCE_PROFILE"]),
            model("a.global-only-v1:0", &["INFERENCE_PROFILE"]),
            model("a.no-profile-v1:0", &["INFERENCE_PROFILE"]),
            model("a.provisioned-v1:0", &["PROVISIONED"]),
        ],
        vec![
            profile("us.a.profile-only-v1:0", "SYSTEM_DEFINED", &["us-east-1", "us-west-2"], "a.profile-only-v1:0"),
            profile("eu.a.profile-only-v1:0", "SYSTEM_DEFINED", &["eu-west-1"], "a.profile-only-v1:0"),
            profile("us.a.both-v1:0", "SYSTEM_DEFINED", &["us-east-1"], "a.both-v1:0"),
            profile("global.a.global-only-v1:0", "SYSTEM_DEFINED", &["us-east-1", ""], "a.global-only-v1:0"),
            profile("app1", "APPLICATION", &["us-east-1"], "a.profile-only-v1:0"),
            profile("app2", "APPLICATION", &["us-east-1", ""], "a.global-only-v1:0"),
        ],
    )
}

fn ask_with(asked: &str, settings: &Models) -> Result<Resolution, Refusal> {
    resolve(asked, Known { settings, caller: None, catalogue: Some(&catalogue()), learned: None, looked_up: None })
}

fn sent(asked: &str) -> String {
    match ask_with(asked, &settings()) {
        Ok(Resolution::Send(target)) => format!("{} {}", target.identifier, target.how.as_str()),
        Ok(Resolution::Create { source_arn, .. }) => format!("create {source_arn}"),
        Ok(Resolution::LookUp { .. }) => "look up".to_owned(),
        Err(refusal) => format!("{}", refusal.kind.status().as_u16()),
    }
}

#[test]
fn the_order_of_resolution() {
    assert_eq!(sent("a.on-demand-v1:0"), "a.on-demand-v1:0 as_is");
    assert_eq!(sent("a.both-v1:0"), "a.both-v1:0 as_is");
    assert_eq!(sent("a.profile-only-v1:0"), "us.a.profile-only-v1:0 discovered");
    assert_eq!(sent("claude"), "us.a.profile-only-v1:0 discovered");
    assert_eq!(sent("us.a.profile-only-v1:0"), "us.a.profile-only-v1:0 as_is");
    assert_eq!(sent("a.no-profile-v1:0"), "create arn:aws:bedrock:us-east-1::foundation-model/a.no-profile-v1:0");
    assert_eq!(sent("a.provisioned-v1:0"), "a.provisioned-v1:0 as_is");
    assert_eq!(sent("a.unknown-v1:0"), "a.unknown-v1:0 as_is");
    let arn = "arn:aws:bedrock:us-east-1:1:inference-profile/us.a.profile-only-v1:0";
    assert_eq!(sent(arn), format!("{arn} as_is"));
}

#[test]
fn govcloud_forms_become_commercial_ones() {
    assert_eq!(sent("us-gov.a.both-v1:0"), "us.a.both-v1:0 discovered");
    assert_eq!(sent("us-gov.a.on-demand-v1:0"), "a.on-demand-v1:0 as_is");
    assert_eq!(
        sent("arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/a.profile-only-v1:0"),
        "us.a.profile-only-v1:0 discovered"
    );
    assert_eq!(
        sent("arn:aws-us-gov:bedrock:us-gov-west-1:1:inference-profile/us-gov.a.both-v1:0"),
        "us.a.both-v1:0 discovered"
    );
    assert_eq!(sent("arn:aws-us-gov:bedrock:us-gov-west-1:1:application-inference-profile/x"), "400");
}

#[test]
fn geographies_hold_for_what_is_asked_and_for_what_is_behind_it() {
    assert_eq!(sent("eu.a.profile-only-v1:0"), "403");
    assert_eq!(sent("global.a.global-only-v1:0"), "403");
    assert_eq!(sent("a.global-only-v1:0"), "403");
    let application = |id| format!("arn:aws:bedrock:us-east-1:1:application-inference-profile/{id}");
    assert_eq!(sent(&application("app1")), format!("{} as_is", application("app1")));
    assert_eq!(sent(&application("app2")), "403");
    assert_eq!(sent(&application("unknown")), "look up");
    let mut wider = settings();
    wider.geographies.push("global".into());
    let Ok(Resolution::Send(target)) = ask_with("a.global-only-v1:0", &wider) else { panic!() };
    assert_eq!(target.identifier, "global.a.global-only-v1:0");
}

#[test]
fn allow_and_deny_look_at_the_model_behind_a_name() {
    let mut strict = settings();
    strict.allow.patterns = vec![Glob::new("a.*")];
    strict.deny.patterns = vec![Glob::new("*profile-only*")];
    for (asked, allowed) in [
        ("a.on-demand-v1:0", true),
        ("us.a.both-v1:0", true),
        ("us.a.profile-only-v1:0", false),
        ("claude", false),
        ("us-gov.a.profile-only-v1:0", false),
        ("b.other-v1:0", false),
        ("arn:aws:bedrock:us-east-1:1:application-inference-profile/app1", false),
        ("arn:aws:bedrock:us-east-1::foundation-model/a.profile-only-v1:0", false),
        ("arn:aws:bedrock:us-east-1:1:provisioned-model/x", false),
    ] {
        assert_eq!(matches!(ask_with(asked, &strict), Ok(Resolution::Send(_))), allowed, "{asked}");
    }
    // It may be of an allowed model, so it is looked up and not sent yet.
    let provisioned = "arn:aws:bedrock:us-east-1:1:provisioned-model/x";
    assert!(matches!(ask_with(provisioned, &strict), Ok(Resolution::LookUp { .. })));
    strict.deny.patterns = vec![Glob::new("us.*")];
    assert!(ask_with("a.profile-only-v1:0", &strict).is_err(), "what would be sent counts too");
}

#[test]
fn what_was_learned_is_used_and_still_checked() {
    let mut settings = settings();
    let catalogue = catalogue();
    let arn = "arn:aws:bedrock:us-east-1:1:application-inference-profile/app1";
    let ask = |settings: &Models| {
        resolve(
            "a.no-profile-v1:0",
            Known { settings, caller: None, catalogue: Some(&catalogue), learned: Some(arn), looked_up: None },
        )
    };
    let Ok(Resolution::Send(target)) = ask(&settings) else { panic!() };
    assert_eq!((target.identifier.as_str(), target.how, target.is_profile), (arn, How::Learned, true));
    settings.deny.patterns = vec![Glob::new("*profile-only*")];
    assert!(ask(&settings).is_err());
}

#[test]
fn no_profile_is_made_of_a_model_that_none_can_reach() {
    let (settings, catalogue) = (settings(), catalogue());
    let known =
        Known { settings: &settings, caller: None, catalogue: Some(&catalogue), learned: None, looked_up: None };
    let made = |model| matches!(profile_for(model, known), Ok(Resolution::Create { .. }));
    assert!(made("a.on-demand-v1:0") && made("a.no-profile-v1:0") && !made("a.provisioned-v1:0"));
}

#[test]
fn without_a_catalogue_the_name_goes_as_it_is() {
    let settings = settings();
    let known = Known { settings: &settings, caller: None, catalogue: None, learned: None, looked_up: None };
    let Ok(Resolution::Send(target)) = resolve("a.profile-only-v1:0", known) else { panic!() };
    assert_eq!(target.identifier, "a.profile-only-v1:0");
    assert!(matches!(profile_for("a.x-v1:0", known), Ok(Resolution::Send(target)) if !target.is_profile));
}
