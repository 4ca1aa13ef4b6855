//! `check --online`: what the configuration says of models, against the models that the account has.

use crate::auditor::check::{CheckLine, Verdict};
use crate::config::{Glob, nearest};
use crate::limits::model_pattern::fits;
use crate::model::Overview;
use crate::settings::limits::Rates;
use crate::settings::{Models, Settings};

/// So many models are named in one sentence.
const NAMED: usize = 5;

/// Advice on patterns that fit nothing, and on models that cost nothing under a budget. `names` are those of all models
/// and profiles that were listed.
pub(super) fn advice(settings: &Settings, names: &[String], models: &[Overview]) -> Vec<CheckLine> {
    let mut lines: Vec<CheckLine> = patterns(settings)
        .into_iter()
        .filter(|(_, pattern, _)| !may_fit_what_is_not_listed(pattern))
        .filter(|(_, pattern, any_case)| !names.iter().any(|name| names_it(pattern, name, *any_case)))
        .map(|(place, pattern, _)| {
            let near = nearest(&pattern.to_string(), names.iter().map(String::as_str));
            let hint = near.map(|name| format!("did you mean \"{name}\"?"));
            let hint = hint.unwrap_or_else(|| "`bedrock-sidecar models` lists them".to_owned());
            CheckLine::new(Verdict::Advice, format!("{pattern:?} in {place} fits no model or profile of the account"))
                .remedy(hint)
        })
        .collect();
    lines.extend(without_price(settings, models));
    lines
}

/// All patterns on models, with the place that they are in, and whether case does not count there.
fn patterns(settings: &Settings) -> Vec<(String, &Glob, bool)> {
    let Models { allow, deny, pins, .. } = &settings.models;
    let mut rules = vec![("models.allow".to_owned(), allow, false), ("models.deny".to_owned(), deny, true)];
    for caller in &settings.callers.entries {
        let place = |key: &str| format!("{key} of the caller \"{}\"", caller.name);
        rules.extend(caller.models.iter().map(|rule| (place("models"), rule, false)));
        rules.extend(caller.deny_models.iter().map(|rule| (place("deny_models"), rule, true)));
    }
    let of_rules = rules.into_iter().flat_map(|(place, rule, any_case)| {
        rule.patterns.iter().map(move |pattern| (place.clone(), pattern, any_case))
    });
    let of_limits = settings.limits.models.iter().map(|(pattern, _)| ("[limits.models]".to_owned(), pattern, false));
    let of_pins = pins.iter().map(|pin| ("[models.partition]".to_owned(), &pin.pattern, false));
    let of_prices = settings.limits.prices.patterns().map(|pattern| ("the price file".to_owned(), pattern, false));
    of_rules.chain(of_pins).chain(of_limits).chain(of_prices).collect()
}

/// Imported models, prompts and the like have ARNs that no listing shows; `*` is meant for everything there is.
fn may_fit_what_is_not_listed(pattern: &Glob) -> bool {
    let text = pattern.to_string();
    pattern.is_everything() || text.contains('/') || text.starts_with("arn:")
}

fn names_it(pattern: &Glob, name: &str, any_case: bool) -> bool {
    if !any_case {
        return fits(pattern, name);
    }
    let without_geography = name.split_once('.').map(|(_, rest)| rest);
    pattern.matches_any_case(name) || without_geography.is_some_and(|rest| pattern.matches_any_case(rest))
}

fn without_price(settings: &Settings, models: &[Overview]) -> Option<CheckLine> {
    let limits = &settings.limits;
    let in_dollars = |rates: &Rates| rates.usd_per_day.is_some() || rates.usd_per_month.is_some();
    let for_all = in_dollars(&limits.host) || settings.callers.entries.iter().any(|entry| in_dollars(&entry.limits));
    let is_budgeted =
        |id: &str| for_all || limits.models.iter().any(|(pattern, rates)| in_dollars(rates) && fits(pattern, id));
    let can_be_used =
        models.iter().filter(|model| model.sent.is_invokable()).map(|model| model.model.model_id.as_str());
    let free: Vec<&str> =
        can_be_used.filter(|id| is_budgeted(id) && limits.prices.of(|pattern| fits(pattern, id)).is_none()).collect();
    let (first, further) = free.split_at(free.len().min(NAMED));
    let more = if further.is_empty() { String::new() } else { format!(" and {} more", further.len()) };
    (!free.is_empty()).then(|| {
        let named = first.join(", ");
        CheckLine::new(
            Verdict::Advice,
            format!("no price is known for {named}{more}, so they use up no budget in dollars"),
        )
        .remedy("add [[prices]] for them to limits.prices_file, or a last one for \"*\" with your highest prices")
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Source;
    use crate::model::Sent;
    use crate::model::catalogue::FoundationModel;

    fn told(text: &str, prices: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("prices.toml");
        std::fs::write(&path, prices).unwrap();
        let text = text.replace("PRICES", &format!("prices_file = \"{}\"", path.display()));
        let settings = Settings::from_source(&Source::new(Path::new("c.toml"), text)).unwrap();
        let model = |id: &str, sent: bool| Overview {
            model: FoundationModel { model_id: id.into(), ..FoundationModel::default() },
            sent: if sent { Sent::As(id.into()) } else { Sent::Never("it is denied".into()) },
        };
        let models = [model("anthropic.claude-v1", true), model("amazon.nova-v1:0", true), model("meta.llama", false)];
        let names: Vec<String> = models
            .iter()
            .map(|model| model.model.model_id.clone())
            .chain(["us.anthropic.claude-v1".to_owned()])
            .collect();
        advice(&settings, &names, &models).into_iter().map(|line| line.finding).collect()
    }

    #[test]
    fn patterns_that_fit_nothing_are_named_wherever_they_stand() {
        let prices = "[[prices]]\nmodel = \"cohere.*\"\ninput = 1\noutput = 1\n[[prices]]\nmodel = \"*\"\ninput = 1\noutput = 1\n";
        let text = "[models]\nallow = [\"antropic.*\", \"amazon.*\", \"us.anthropic.*\"]\ndeny = [\"*OPUS*\", \"META.*\"]\n\
            [limits]\nPRICES\n[limits.models.\"claude*\"]\nrequests_per_minute = 1\n\
            [[callers]]\nname = \"a\"\nusers = [\"0\"]\nmodels = [\"Amazon.*\"]\ndeny_models = [\"*haiku*\"]\n";
        let no = "fits no model or profile of the account";
        assert_eq!(
            told(text, prices),
            [
                format!("\"antropic.*\" in models.allow {no}"),
                format!("\"*OPUS*\" in models.deny {no}"),
                format!("\"Amazon.*\" in models of the caller \"a\" {no}"),
                format!("\"*haiku*\" in deny_models of the caller \"a\" {no}"),
                format!("\"claude*\" in [limits.models] {no}"),
                format!("\"cohere.*\" in the price file {no}"),
            ]
        );
        let fine =
            "[models]\nallow = [\"*\", \"arn:aws:*\", \"*:imported-model/*\", \"anthropic.*\"]\ndeny = [\"*llama\"]";
        assert_eq!(told(fine, ""), Vec::<String>::new());
    }

    #[test]
    fn models_without_a_price_are_named_under_a_budget_alone() {
        let prices = "[[prices]]\nmodel = \"anthropic.*\"\ninput = 1\noutput = 1\n";
        let budget = "usd_per_day = 5";
        let nova = ["no price is known for amazon.nova-v1:0, so they use up no budget in dollars"];
        assert_eq!(told("[limits]\nPRICES", prices), Vec::<String>::new());
        assert_eq!(told(&format!("[limits]\nPRICES\n{budget}"), prices), nova);
        let caller = "[limits]\nPRICES\n[[callers]]\nname = \"a\"\nusers = [\"0\"]\nusd_per_month = 5";
        assert_eq!(told(caller, prices), nova);
        let of_group = |group: &str| format!("[limits]\nPRICES\n[limits.models.\"{group}\"]\n{budget}");
        assert_eq!(told(&of_group("anthropic.*"), prices), Vec::<String>::new());
        assert_eq!(told(&of_group("a*"), prices), nova);
    }
}
