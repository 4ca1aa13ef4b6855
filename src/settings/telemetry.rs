//! What `[telemetry]` means: a collector of OpenTelemetry's traces and metrics.

use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::{DAY, at_most, ca_certificates};
use crate::config::{self, ConfigError, Endpoint, Signal, Source};

/// A collector.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Telemetry {
    pub endpoint: Endpoint,
    /// Trusted instead of the system's roots.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// What it gets.
    pub signals: Vec<Signal>,
    /// How often metrics are sent.
    pub metrics_interval: Duration,
}

const INTERVAL: Duration = Duration::from_secs(60);
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn telemetry(written: config::Telemetry, source: &Source) -> Result<Option<Telemetry>, ConfigError> {
    let Some(endpoint) = written.otlp_endpoint else {
        let stray = [
            written.ca_file.map(|key| ("ca_file", key.span())),
            written.signals.map(|key| ("signals", key.span())),
            written.metrics_interval.map(|key| ("metrics_interval", key.span())),
        ];
        return match stray.into_iter().flatten().next() {
            Some((key, span)) => {
                Err(source.error(span, format!("{key} needs otlp_endpoint beside it in [telemetry].")))
            }
            None => Ok(None),
        };
    };
    if let Some(file) = written.ca_file.as_ref().filter(|_| !endpoint.get_ref().tls) {
        let sentence = "ca_file has no meaning for an otlp_endpoint with http; write https, or remove ca_file.";
        return Err(source.error(file.span(), sentence));
    }
    let signals = written.signals.map_or_else(
        || Ok(vec![Signal::Traces, Signal::Metrics]),
        |signals| match signals.get_ref().is_empty() {
            true => Err(source.error(
                signals.span(),
                "signals is empty; name \"traces\", \"metrics\" or both, or remove otlp_endpoint.",
            )),
            false => Ok(signals.into_inner()),
        },
    )?;
    let metrics_interval = match &written.metrics_interval {
        Some(key) => match at_most("metrics_interval", key, DAY, source)? {
            interval if interval < LEAST_INTERVAL => {
                return Err(source.error(key.span(), "metrics_interval is at least \"1s\"."));
            }
            interval => interval,
        },
        None => INTERVAL,
    };
    Ok(Some(Telemetry {
        endpoint: endpoint.into_inner(),
        ca: written.ca_file.map(|file| ca_certificates(&file, source)).transpose()?,
        signals,
        metrics_interval,
    }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::settings::Settings;

    fn read(keys: &str) -> Result<Settings, String> {
        let source = Source::new(Path::new("config.toml"), format!("[telemetry]\n{keys}"));
        Settings::from_source(&source).map_err(|error| error.sentence)
    }

    #[test]
    fn a_collector_has_an_endpoint_and_defaults() {
        assert_eq!(read("").unwrap().telemetry, None);
        let telemetry = read("otlp_endpoint = \"http://127.0.0.1:4318\"").unwrap().telemetry.unwrap();
        assert_eq!(telemetry.endpoint.to_string(), "http://127.0.0.1:4318");
        assert_eq!(telemetry.metrics_interval, Duration::from_secs(60));
        assert_eq!(telemetry.signals, [Signal::Traces, Signal::Metrics]);
        let only = read("otlp_endpoint = \"https://collector.test\"\nsignals = [\"traces\"]").unwrap();
        assert_eq!(only.telemetry.unwrap().signals, [Signal::Traces]);
    }

    #[test]
    fn what_cannot_be_meant_is_a_mistake() {
        let endpoint = "otlp_endpoint = \"http://localhost:4318\"\n";
        for (keys, sentence) in [
            ("metrics_interval = \"10s\"", "metrics_interval needs otlp_endpoint"),
            ("ca_file = \"/ca.pem\"", "ca_file needs otlp_endpoint"),
            ("signals = [\"traces\"]", "signals needs otlp_endpoint"),
            (&format!("{endpoint}ca_file = \"/ca.pem\""), "ca_file has no meaning"),
            (&format!("{endpoint}signals = []"), "signals is empty"),
            (&format!("{endpoint}signals = [\"logs\"]"), "logs"),
            (&format!("{endpoint}metrics_interval = \"999ms\""), "at least \"1s\""),
            (&format!("{endpoint}metrics_interval = \"2d\""), "at most \"1d\""),
            ("otlp_endpoint = \"http://localhost:4318/v1/traces\"", "is not an endpoint"),
            ("otlp_endpoint = \"localhost:4318\"", "is not an endpoint"),
            ("otlp_endpoint = \"http://collector.test:4318\"", "loopback only"),
        ] {
            let said = read(keys).unwrap_err();
            assert!(said.contains(sentence), "{keys}: {said}");
        }
    }
}
