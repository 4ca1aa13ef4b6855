//! packaging/monitoring names only metrics that there are: docs/metrics.md lists those, and `docs.rs` holds that page
//! against the code. What promtool has to say of the rules, tests/lint-monitoring asks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

const PREFIX: &str = "bedrock_sidecar_";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every name with the daemon's prefix in a text.
fn names(text: &str) -> BTreeSet<String> {
    let found = text.match_indices(PREFIX).map(|(at, _)| {
        let rest = &text[at..];
        let end = rest.find(|one: char| !one.is_ascii_alphanumeric() && one != '_').unwrap_or(rest.len());
        rest[..end].to_owned()
    });
    found.collect()
}

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, into) } else { into.push(path) }
    }
}

/// The names of docs/metrics.md, and what a histogram's series are called.
fn metrics() -> BTreeSet<String> {
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let mut metrics = BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| `bedrock_sidecar_")) {
        let name = names(row).into_iter().next().unwrap();
        if row.contains("| histogram |") {
            metrics.extend(["_bucket", "_count", "_sum"].map(|end| format!("{name}{end}")));
        } else {
            metrics.insert(name);
        }
    }
    metrics
}

#[test]
fn rules_dashboard_and_agent_name_metrics_that_there_are() {
    let known = metrics();
    let mut all = Vec::new();
    files(&root().join("packaging/monitoring"), &mut all);
    all.push(root().join("docs/monitoring.md"));
    let mut looked_at = 0;
    let mut unknown = Vec::new();
    for file in all {
        for name in names(&std::fs::read_to_string(&file).unwrap()) {
            looked_at += 1;
            if !known.contains(&name) {
                unknown.push(format!("{}: {name}", file.display()));
            }
        }
    }
    assert!(looked_at > 60, "only {looked_at} names were found");
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn every_alert_says_what_to_do_and_has_a_test() {
    let folder = root().join("packaging/monitoring/prometheus");
    let rules = std::fs::read_to_string(folder.join("bedrock-sidecar.rules.yaml")).unwrap();
    let tests = std::fs::read_to_string(folder.join("rules_test.yaml")).unwrap();
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() > 10, "only {} alerts were found", alerts.len());
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        for key in ["expr:", "severity:", "summary:", "action:"] {
            assert!(alert.contains(key), "{name} has no {key}");
        }
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "{name} is not tested");
    }
}

#[test]
fn the_dashboard_is_whole() {
    let path = root().join("packaging/monitoring/grafana/bedrock-sidecar.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have the id {}", panel["id"]);
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{}: 24 columns", panel["title"]);
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            assert!(expression.contains("$instance"), "{expression}: of the hosts that are chosen");
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{expression}");
        }
    }
    let variables: Vec<&Value> =
        dashboard["templating"]["list"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(variables, ["datasource", "instance"]);
}

/// The agent scrapes what its configuration declares: a metric of another job is not sent.
#[test]
fn the_cloudwatch_agent_selects_the_job_that_the_scrape_configuration_names() {
    let folder = root().join("packaging/monitoring");
    let agent = std::fs::read_to_string(folder.join("cloudwatch/amazon-cloudwatch-agent.json")).unwrap();
    let agent: Value = serde_json::from_str(&agent).unwrap();
    let scrape = std::fs::read_to_string(folder.join("prometheus/scrape.yaml")).unwrap();
    assert!(scrape.contains("job_name: bedrock-sidecar\n"), "{scrape}");
    let processor = &agent["logs"]["metrics_collected"]["prometheus"]["emf_processor"];
    for declaration in processor["metric_declaration"].as_array().unwrap() {
        assert_eq!(declaration["label_matcher"], "^bedrock-sidecar$");
        assert_eq!(declaration["source_labels"], serde_json::json!(["job"]));
        for selector in declaration["metric_selectors"].as_array().unwrap() {
            let selector = selector.as_str().unwrap();
            assert!(selector.starts_with('^') && selector.ends_with('$'), "{selector} would select others too");
        }
    }
}
