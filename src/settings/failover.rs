//! Which upstream gets which requests: `[upstreams_policy]`, and the weights of `[[upstreams]]`.

use toml::Spanned;

use crate::config::{self, ConfigError, Source, Strategy};

/// The largest weight: finer shares than a thousandth are nobody's need.
const MOST_WEIGHT: u32 = 1_000;

/// What `[upstreams_policy]` means.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UpstreamsPolicy {
    pub strategy: Strategy,
    /// A request that may have reached a model is sent to another upstream all the same.
    pub retry_after_send: bool,
}

/// The share of one upstream; 1 where none is written.
pub(super) fn weight(written: Option<&Spanned<i64>>, source: &Source) -> Result<u32, ConfigError> {
    let Some(written) = written else { return Ok(1) };
    let sentence = "weight is a whole number from 1 to 1000; remove an upstream that should get no request.";
    u32::try_from(*written.get_ref())
        .ok()
        .filter(|weight| (1..=MOST_WEIGHT).contains(weight))
        .ok_or_else(|| source.error(written.span(), sentence))
}

/// Takes over `[upstreams_policy]`, and warns of what changes nothing.
pub(super) fn policy(
    written: &config::UpstreamsPolicy,
    upstreams: Option<&[Spanned<config::Upstream>]>,
    warnings: &mut Vec<String>,
    source: &Source,
) -> UpstreamsPolicy {
    let strategy = *written.strategy.get_ref();
    let upstreams = upstreams.unwrap_or_default();
    if strategy == Strategy::Spread && upstreams.len() < 2 {
        let sentence = "strategy = \"spread\" has one upstream only, which gets all requests.";
        warnings.push(source.error(written.strategy.span(), sentence).to_string());
    }
    let weights = upstreams.iter().filter_map(|upstream| upstream.get_ref().weight.as_ref());
    for weight in weights.filter(|weight| strategy == Strategy::Ordered && *weight.get_ref() != 1) {
        let sentence = "weight has no effect, because requests go to the upstreams in their order; write strategy = \"spread\" under [upstreams_policy], or remove it.";
        warnings.push(source.error(weight.span(), sentence).to_string());
    }
    UpstreamsPolicy { strategy, retry_after_send: written.retry_after_send }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::settings::Settings;

    const TWO: &str = "[[upstreams]]\nregion = \"us-east-1\"\n[[upstreams]]\nregion = \"us-west-2\"\n";

    fn load(text: &str) -> Result<Settings, String> {
        let source = Source::new(Path::new("config.toml"), text.to_owned());
        Settings::from_source(&source).map_err(|error| error.to_string())
    }

    fn warnings(text: &str) -> Vec<String> {
        load(text).unwrap().warnings
    }

    #[test]
    fn weights_are_shares_of_what_is_spread() {
        let settings = load(&format!("{TWO}weight = 3\n[upstreams_policy]\nstrategy = \"spread\"")).unwrap();
        assert_eq!(settings.upstreams.iter().map(|upstream| upstream.weight).collect::<Vec<_>>(), [1, 3]);
        assert_eq!((settings.upstreams_policy.strategy, settings.warnings.len()), (Strategy::Spread, 0));
        for weight in ["0", "-1", "1001", "99999999999"] {
            assert_eq!(
                load(&format!("{TWO}weight = {weight}")).unwrap_err(),
                "config.toml:5:10: weight is a whole number from 1 to 1000; remove an upstream that should get no request."
            );
        }
    }

    #[test]
    fn what_changes_nothing_is_warned_of() {
        let weight = "config.toml:5:10: weight has no effect, because requests go to the upstreams in their order; write strategy = \"spread\" under [upstreams_policy], or remove it.";
        assert_eq!(warnings(&format!("{TWO}weight = 3")), [weight]);
        let one = "[[upstreams]]\nregion = \"us-east-1\"\n[upstreams_policy]\nstrategy = \"spread\"";
        let alone = "config.toml:4:12: strategy = \"spread\" has one upstream only, which gets all requests.";
        assert_eq!(warnings(one), [alone]);
        assert!(warnings(&format!("{TWO}weight = 1")).is_empty(), "as without it");
    }

    #[test]
    fn by_default_upstreams_are_asked_in_order_and_nothing_is_sent_twice() {
        let policy = load(TWO).unwrap().upstreams_policy;
        assert_eq!((policy.strategy, policy.retry_after_send), (Strategy::Ordered, false));
        assert!(load("[upstreams_policy]\nretry_after_send = true").unwrap().upstreams_policy.retry_after_send);
        let error = load("[upstreams_policy]\nstrategy = \"spred\"").unwrap_err();
        assert!(error.starts_with("config.toml:2:12: ") && error.ends_with("did you mean `spread`?"), "{error}");
    }
}
