use http::Method;

use super::*;
use crate::model::resolve::{Known, Resolution, resolve};
use crate::operation;
use crate::settings::Settings;

const OPUS: &str = "anthropic.claude-opus-4-1-20250805-v1:0";

fn settings(text: &str) -> Settings {
    let source = crate::config::Source::new(std::path::Path::new("config.toml"), text.to_owned());
    Settings::from_source(&source).unwrap()
}

fn rules(settings: &Settings) -> Rules<'_> {
    Rules::new(&settings.models, settings.callers.entries.first().map(|entry| &**entry))
}

/// xorshift64: the same sequence on every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    fn one_of<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn any_case(&mut self, text: &str) -> String {
        let mut flip = |c: char| if self.below(4) == 0 { c.to_ascii_uppercase() } else { c };
        text.chars().map(&mut flip).collect()
    }

    fn encoded(&mut self, text: &str) -> String {
        let mut encode = |b: u8| match self.below(3) {
            0 => format!("%{b:02X}"),
            1 => format!("%{b:02x}"),
            _ if b == b'/' => "%2F".to_owned(),
            _ => char::from(b).to_string(),
        };
        text.bytes().map(&mut encode).collect()
    }
}

/// Whatever a client can write for a model: case, prefixes known and unknown, ARNs of either partition, percent-encoding.
fn spelling(chance: &mut Chance) -> String {
    let mut name = if chance.below(2) == 0 { OPUS.to_owned() } else { chance.any_case(OPUS) };
    for _ in 0..chance.below(4) {
        let prefix = chance.one_of(&["us", "us-gov", "eu", "global", "xx", "US", "jp", "anthropic", "openai", "a-b"]);
        name = format!("{prefix}.{name}");
    }
    if chance.below(2) == 0 {
        let partition = chance.one_of(&["aws", "aws", "aws-us-gov", "AWS", "aws-cn"]);
        let service = chance.one_of(&["bedrock", "bedrock", "Bedrock", "sagemaker"]);
        let region = chance.one_of(&["us-east-1", "us-gov-west-1", ""]);
        let kind = chance.one_of(&[
            "foundation-model",
            "foundation-model",
            "inference-profile",
            "inference-profile",
            "Foundation-Model",
            "application-inference-profile",
            "provisioned-model",
            "custom-model",
            "prompt",
            "x/foundation-model",
        ]);
        let scheme = chance.one_of(&["arn", "arn", "arn", "ARN"]);
        name =
            format!("{scheme}:{partition}:{service}:{region}:{}:{kind}/{name}", chance.one_of(&["", "123456789012"]));
    }
    name
}

#[test]
fn no_spelling_of_a_denied_model_is_sent() {
    let caller = "[[callers]]\nname = \"me\"\nusers = [\"1\"]\n";
    let denying = [
        "[models]\ndeny = [\"*opus*\"]".to_owned(),
        "[models]\ndeny = [\"anthropic.Claude-OPUS-4*\"]".to_owned(),
        format!("[models]\ndeny = [\"{OPUS}\"]\ngeographies = [\"us\", \"eu\", \"global\", \"jp\"]"),
        format!("{caller}deny_models = [\"*opus*\"]"),
        format!("{caller}deny_models = [\"{OPUS}\"]\nmodels = [\"*\"]"),
        format!("{caller}models = [\"amazon.*\"]"),
    ];
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let (mut refused, mut looked) = (0, 0);
    for text in denying {
        let settings = settings(&text);
        let caller = settings.callers.entries.first().map(|entry| &**entry);
        for _ in 0..3_000 {
            let spelled = spelling(&mut chance);
            let path = format!("/model/{}/converse", chance.encoded(&spelled));
            let Ok(found) = operation::find(&Method::POST, &path) else { continue };
            let asked = found.identifier.unwrap();
            assert_eq!(asked, spelled);
            let known = Known { settings: &settings.models, caller, catalogue: None, learned: None, looked_up: None };
            match resolve(&asked, known) {
                Err(_) => refused += 1,
                // Nothing is sent before it is judged by what stands behind it.
                Ok(Resolution::LookUp { .. }) => looked += 1,
                Ok(sent) => panic!("{text}\n{asked}: {sent:?}"),
            }
        }
    }
    assert!(refused > 12_000 && looked > 50, "{refused} {looked}");
}

/// What docs/models.md recommends, against what it says that it does.
#[test]
fn the_recipes_of_the_documentation_do_what_they_say() {
    let page = include_str!("../../../docs/models.md");
    let shown = |start: &str| {
        let text = page.split_once(&format!("\n{start}")).unwrap_or_else(|| panic!("no recipe: {start}")).1;
        text.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0
    };
    let (claude, nova, llama) = (OPUS, "amazon.nova-lite-v1:0", "meta.llama3-3-70b-instruct-v1:0");
    for (recipe, refused, allowed) in [
        (
            "Only what has been approved.",
            vec![llama, "deepseek.r1-v1:0", "amazon.titan-embed-text-v2:0"],
            vec![claude, nova],
        ),
        (
            "Everything but some vendors.",
            vec!["deepseek.r1-v1:0", "qwen.qwen3-32b-v1:0", "moonshotai.kimi-k2", "minimax.minimax-m2", "zai.glm-4.7"],
            vec![claude, nova, llama],
        ),
        ("One vendor, in any generation:", vec![llama, "meta.llama4-scout-17b-instruct-v1:0"], vec![claude, nova]),
        (
            "No image or video models:",
            vec![
                "stability.sd3-5-large-v1:0",
                "amazon.nova-canvas-v1:0",
                "amazon.nova-reel-v1:0",
                "amazon.titan-image-generator-v2:0",
                "luma.ray-v2:0",
                "twelvelabs.pegasus-1-2-v1:0",
            ],
            vec![claude, nova, llama],
        ),
        (
            "No model that may be served outside the United States.",
            vec!["global.anthropic.x", "eu.anthropic.x"],
            vec![],
        ),
    ] {
        let settings = settings(shown(recipe));
        let judge = |name: &str| rules(&settings).judge(name, Facts::default()).map_err(|refusal| refusal.kind);
        let spelled = |name: &&str| [(*name).to_owned(), format!("us.{name}")];
        for name in refused.iter().flat_map(spelled) {
            assert!(judge(&name).is_err(), "{recipe} {name}");
        }
        for name in allowed.iter().flat_map(spelled) {
            assert_eq!(judge(&name), Ok(Verdict::Allowed), "{recipe} {name}");
        }
    }
    let settings = settings(shown("The most expensive models for one team only:"));
    for (at, opus) in [(0, true), (1, false)] {
        let rules = Rules::new(&settings.models, Some(&settings.callers.entries[at]));
        assert_eq!(rules.judge(OPUS, Facts::default()).is_ok(), opus);
        assert!(rules.judge(nova, Facts::default()).is_ok());
    }
}

#[test]
fn what_may_be_a_geography_fails_closed() {
    let settings = settings("[models]\ngeographies = [\"us\", \"ca\"]\n");
    let judge = |name: &str| rules(&settings).judge(name, Facts::default()).map_err(|refusal| refusal.kind);
    for allowed in ["us.anthropic.claude-v1:0", "ca.vendor.model-v1:0", "openai.gpt-5.5", "us.openai.gpt-5.5", "a.b"] {
        assert_eq!(judge(allowed), Ok(Verdict::Allowed), "{allowed}");
    }
    for unknown in ["xx.anthropic.claude-v1:0", "us.xx.anthropic.claude", "us-gov.xx.a.b", "US.anthropic.claude.v1"] {
        assert!(judge(unknown).is_err(), "{unknown}");
    }
    for nested in [
        "us-gov.us-gov.anthropic.claude",
        "us.us.anthropic.claude",
        "us-gov.global.anthropic.claude",
        "us.Global.anthropic.claude",
        "arn:aws:bedrock:us-east-1::foundation-model/global.anthropic.claude",
        "arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/us.anthropic.claude",
        "arn:aws:bedrock:us-east-1:1:inference-profile/us.global.anthropic.claude",
        "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude/x",
        "anthropic.claude/x",
        "ARN:aws:bedrock:us-east-1::foundation-model/anthropic.claude",
    ] {
        assert_eq!(judge(nested), Err(RefusalKind::Validation), "{nested}");
    }
}

#[test]
fn what_nobody_can_tell_has_to_be_named() {
    let arn = |resource: &str| format!("arn:aws:bedrock:us-east-1:123456789012:{resource}");
    let judge = |text: &str, resource: &str| {
        rules(&settings(text)).judge(&arn(resource), Facts::default()).map_err(|refusal| refusal.kind)
    };
    // Without rules, what stays in its region is sent; a prompt may name a profile of any geography.
    for own in ["imported-model/abc", "custom-model-deployment/abc", "provisioned-model/abc"] {
        assert_eq!(judge("", own), Ok(Verdict::Allowed), "{own}");
    }
    assert_eq!(judge("", "prompt/ABC:1"), Err(RefusalKind::AccessDenied));
    assert_eq!(judge("[models]\nallow = [\"*\", \"*:prompt/*\"]", "prompt/ABC:1"), Ok(Verdict::Allowed));
    assert_eq!(judge("", "default-prompt-router/a:1"), Ok(Verdict::LookUp));
    for text in [
        "[models]\ndeny = [\"x\"]",
        "[models]\nallow = [\"a*\"]",
        "[models]\nallow = [\"*a*\", \"*1\"]",
        "[[callers]]\nname = \"me\"\nusers = [\"1\"]\nmodels = [\"a*\"]",
        "[[callers]]\nname = \"me\"\nusers = [\"1\"]\ndeny_models = [\"x\"]",
    ] {
        assert_eq!(judge(text, "imported-model/a1"), Err(RefusalKind::AccessDenied), "{text}");
        assert_eq!(judge(text, "provisioned-model/a1"), Ok(Verdict::LookUp), "{text}");
    }
    // Whose rules they are decides who has to name it.
    let both = "[models]\nallow = [\"*\", \"*:imported-model/a1\"]\ndeny = [\"x\"]\n\
        [[callers]]\nname = \"me\"\nusers = [\"1\"]\ndeny_models = [\"x\"]\n";
    assert_eq!(judge(both, "imported-model/a1"), Err(RefusalKind::AccessDenied));
    let named = format!("{both}models = [\"*\", \"*:imported-model/*\"]");
    assert_eq!(judge(&named, "imported-model/a1"), Ok(Verdict::Allowed));
}

#[test]
fn what_stands_behind_is_judged_by_both_sets_of_rules() {
    let arn = "arn:aws:bedrock:us-east-1:123456789012:prompt-router/abc";
    let looked = Looked { models: vec!["us.anthropic.opus-v1:0".into(), "amazon.nova-v1:0".into()], profile: None };
    let caller = "[[callers]]\nname = \"me\"\nusers = [\"1\"]\n";
    let judge = |text: &str| {
        let settings = settings(text);
        let facts = Facts { catalogue: None, looked_up: Some(Ok(&looked)) };
        rules(&settings).judge(arn, facts).map_err(|refusal| refusal.message.into_owned())
    };
    assert_eq!(judge(""), Ok(Verdict::Allowed));
    for (text, says) in [
        ("[models]\ndeny = [\"*OPUS*\"]".to_owned(), "models.deny"),
        ("[models]\nallow = [\"amazon.*\"]".to_owned(), "is not in models.allow"),
        ("[models]\ngeographies = [\"eu\"]".to_owned(), "geography \"us\""),
        (format!("{caller}deny_models = [\"*opus*\"]"), "deny_models at"),
        (format!("{caller}models = [\"amazon.*\"]"), "models at config.toml:4 does not list it"),
        // A name for the ARN stands for its models in a list of what is allowed, and takes nothing from what is denied.
        (format!("{caller}models = [\"*:prompt-router/abc\"]\ndeny_models = [\"*opus*\"]"), "deny_models at"),
    ] {
        let said = judge(&text);
        assert!(said.as_ref().is_err_and(|sentence| sentence.contains(says)), "{text}: {said:?}");
    }
    assert_eq!(judge(&format!("{caller}models = [\"*:prompt-router/abc\"]")), Ok(Verdict::Allowed));
    assert_eq!(judge(&format!("{caller}models = [\"amazon.*\", \"anthropic.*\"]")), Ok(Verdict::Allowed));
}
