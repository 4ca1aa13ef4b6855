//! What `[mantle]` means: whether `bedrock-mantle`, the second inference host of a region, is used, and which host that is.

use std::ops::Range;

use toml::Spanned;

use crate::config::{self, ConfigError, Endpoint, Source};
use crate::operation::Plane;

/// Whether the host is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mantle {
    pub enabled: bool,
    /// Also beside upstreams of which only FIPS hosts are used: AWS lists no FIPS host of it.
    allow_non_fips: bool,
    /// Where the file enables it, if it does.
    span: Range<usize>,
}

/// An upstream, as far as its mantle host depends on it.
pub(super) struct Beside<'a> {
    pub region: &'a str,
    /// Requests to it go to FIPS hosts, as far as nobody has said where to.
    pub is_fips: bool,
    /// Its other endpoints are written, so that it sends to no public host beside them.
    pub is_private: bool,
}

impl Mantle {
    pub(super) fn new(written: &config::Mantle) -> Mantle {
        let config::Mantle { enabled, allow_non_fips } = written;
        let span = if *enabled.get_ref() { enabled.span() } else { 0..0 };
        Mantle { enabled: *enabled.get_ref(), allow_non_fips: *allow_non_fips, span }
    }

    /// Whether the mantle host of an upstream is used.
    ///
    /// # Errors
    /// It would be the only host without FIPS.
    pub(super) fn is_used(
        &self,
        written: Option<&Spanned<Endpoint>>,
        upstream: &Beside<'_>,
        warnings: &mut Vec<String>,
        source: &Source,
    ) -> Result<bool, ConfigError> {
        let region = upstream.region;
        if !self.enabled {
            if let Some(written) = written {
                let sentence = "mantle_endpoint is not used as long as [mantle] does not say enabled = true.";
                warnings.push(source.error(written.span(), sentence).to_string());
            }
            return Ok(false);
        }
        if written.is_none() && upstream.is_private {
            let sentence = format!(
                "bedrock-mantle is not used in {region}: its other endpoints are written, and nothing goes to a public host beside them; write mantle_endpoint there too."
            );
            warnings.push(source.error(self.span.clone(), sentence).to_string());
            return Ok(false);
        }
        let span = written.map_or_else(|| self.span.clone(), Spanned::span);
        let endpoint = written.map_or_else(|| host(region), |written| written.get_ref().clone());
        if upstream.is_fips && is_without_fips(&endpoint) && !self.allow_non_fips {
            let sentence = format!(
                "requests to {region} go to FIPS hosts only, and AWS lists no FIPS host of bedrock-mantle, so {} would be one without; write allow_non_fips = true under [mantle] if that may be, or leave enabled = false.",
                endpoint.host
            );
            return Err(source.error(span, sentence));
        }
        Ok(true)
    }

    /// Refuses to be enabled where no upstream has such a host.
    pub(super) fn check_used(&self, upstreams: &[super::Upstream], source: &Source) -> Result<(), ConfigError> {
        if !self.enabled || upstreams.iter().any(|upstream| upstream.serves(Plane::Mantle)) {
            return Ok(());
        }
        let sentence = "no upstream has a bedrock-mantle host: their other endpoints are written, and nothing goes to a public host beside them; write mantle_endpoint at one of them, or leave enabled = false.";
        Err(source.error(self.span.clone(), sentence))
    }
}

/// AWS's own host of a region, in GovCloud too.
pub(super) fn host(region: &str) -> Endpoint {
    Endpoint::https(format!("bedrock-mantle.{region}.api.aws"))
}

/// A host of AWS that is not named as a FIPS host. What other names stand for is for the admin to know.
fn is_without_fips(endpoint: &Endpoint) -> bool {
    let host = endpoint.host.trim_end_matches('.').to_ascii_lowercase();
    (host.ends_with(".api.aws") || host.ends_with(".amazonaws.com")) && !host.contains("-fips")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::settings::Settings;

    fn read(text: &str) -> Result<Vec<Option<String>>, String> {
        let source = Source::new(Path::new("c.toml"), text.to_owned());
        let settings = Settings::from_source(&source).map_err(|error| error.to_string())?;
        let host = |upstream: &crate::settings::Upstream| {
            upstream.serves(Plane::Mantle).then(|| upstream.endpoint(Plane::Mantle).to_string())
        };
        Ok(settings.upstreams.iter().map(host).collect())
    }

    const EAST: &str = "[[upstreams]]\nregion = \"us-east-1\"\n";
    const PARIS: &str = "[[upstreams]]\nregion = \"eu-west-1\"\n";
    const GOV: &str = "[[upstreams]]\nregion = \"us-gov-west-1\"\ncredentials = { source = \"host\" }\n";
    const ON: &str = "[mantle]\nenabled = true\n";
    const ANYWAY: &str = "[mantle]\nenabled = true\nallow_non_fips = true\n";

    #[test]
    fn the_host_follows_from_the_region_where_it_is_enabled() {
        let east = Some("https://bedrock-mantle.us-east-1.api.aws".to_owned());
        assert_eq!(read(EAST), Ok(vec![None]));
        assert_eq!(read("[mantle]\nenabled = false\n"), Ok(vec![None]));
        assert_eq!(read(ANYWAY), Ok(vec![east.clone()]), "without [[upstreams]]");
        assert_eq!(read(&format!("{ANYWAY}{EAST}")), Ok(vec![east.clone()]));
        assert_eq!(read(&format!("{ON}{EAST}fips = false\n")), Ok(vec![east.clone()]));
        assert_eq!(
            read(&format!("{ON}{PARIS}")),
            Ok(vec![Some("https://bedrock-mantle.eu-west-1.api.aws".to_owned())])
        );
        let gov = Some("https://bedrock-mantle.us-gov-west-1.api.aws".to_owned());
        assert_eq!(read(&format!("{ANYWAY}{GOV}{EAST}")), Ok(vec![gov.clone(), east]));
        assert_eq!(read(&format!("{ON}{GOV}fips = false\n")), Ok(vec![gov]));
        let own = "mantle_endpoint = \"https://mantle.example\"\n";
        assert_eq!(read(&format!("{ON}{EAST}{own}")), Ok(vec![Some("https://mantle.example".to_owned())]));
    }

    #[test]
    fn beside_fips_hosts_it_has_to_be_allowed() {
        let vpce = "mantle_endpoint = \"https://vpce-0a1b.bedrock-mantle.us-east-1.vpce.amazonaws.com\"\n";
        let runtime = "runtime_endpoint = \"https://vpce-0a1b.bedrock-runtime-fips.us-east-1.vpce.amazonaws.com\"\n";
        for (text, line) in [
            (ON.to_owned(), 2),
            (format!("{ON}{EAST}"), 2),
            (format!("{ON}{EAST}fips = true\n"), 2),
            (format!("{ON}{EAST}{runtime}{vpce}"), 6),
            (format!("{ON}{EAST}{vpce}"), 5),
            // What is private is not therefore without FIPS.
            (format!("{ON}{EAST}runtime_endpoint = \"https://runtime.example\"\n{vpce}"), 6),
            (format!("{ON}{PARIS}{runtime}{vpce}").replace("us-east-1", "eu-west-1"), 6),
            (format!("{ON}{PARIS}{EAST}"), 2),
            (ON.to_owned() + GOV, 2),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.starts_with(&format!("c.toml:{line}:")), "{text}: {error}");
            assert!(error.contains("allow_non_fips = true under [mantle]"), "{error}");
            assert!(read(&text.replace(ON, ANYWAY)).is_ok(), "{text}");
        }
        let fips = "mantle_endpoint = \"https://bedrock-mantle-fips.us-east-1.api.aws\"\n";
        assert!(read(&format!("{ON}{EAST}{fips}")).is_ok(), "one that has the name of a FIPS host");
    }

    #[test]
    fn beside_written_endpoints_it_has_to_be_written_too() {
        let own = "mantle_endpoint = \"https://mantle.example\"\n";
        for key in ["runtime_endpoint", "control_endpoint"] {
            let private = format!("{EAST}{key} = \"https://bedrock.example\"\n");
            let error = read(&format!("{ANYWAY}{private}")).unwrap_err();
            assert!(
                error.starts_with("c.toml:2:") && error.contains("write mantle_endpoint at one of them"),
                "{error}"
            );
            assert_eq!(read(&format!("{ANYWAY}{private}{own}")), Ok(vec![Some("https://mantle.example".to_owned())]));
            let text = format!("{ANYWAY}{private}{PARIS}");
            let paris = Some("https://bedrock-mantle.eu-west-1.api.aws".to_owned());
            assert_eq!(read(&text), Ok(vec![None, paris]));
            let settings = Settings::from_source(&Source::new(Path::new("c.toml"), text)).unwrap();
            let told =
                |warning: &String| warning.contains("not used in us-east-1") && warning.contains("mantle_endpoint");
            assert!(settings.warnings.iter().any(told), "{:?}", settings.warnings);
            assert_eq!(read(&private), Ok(vec![None]), "not enabled");
        }
    }

    #[test]
    fn a_host_of_another_region_is_refused() {
        let host = "mantle_endpoint = \"https://bedrock-mantle.us-west-2.api.aws\"\n";
        for (upstream, says) in [(EAST, "serves us-west-2"), (GOV, "is not in GovCloud, whose key it must never see")] {
            let error = read(&format!("{ANYWAY}{upstream}{host}")).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_host_that_is_not_used_is_told() {
        let text = format!("{EAST}mantle_endpoint = \"https://mantle.example\"\n");
        let settings = Settings::from_source(&Source::new(Path::new("c.toml"), text)).unwrap();
        assert!(settings.warnings.iter().any(|warning| warning.contains("mantle_endpoint is not used")));
    }
}
