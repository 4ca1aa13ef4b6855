//! The documentation against the code and the tree: docs/record.md lists what a record holds, links lead somewhere, and
//! the tests that SECURITY.md names exist.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bedrock_sidecar::auditor::{self, Query, Scope};
use bedrock_sidecar::config::{Durability, OnFailure, OnFull};
use bedrock_sidecar::ledger::Ledger;
use bedrock_sidecar::record::{Former, FormerChain, Outcome, Record, Usage};
use bedrock_sidecar::settings;
use serde_json::Value;

/// What docs/record.md says of one attribute.
#[derive(Debug)]
struct Row {
    kind: String,
    always_there: bool,
}

#[tokio::test]
async fn the_record_page_lists_every_attribute_with_its_type_and_when_it_is_absent() {
    let documented = attributes_of_the_page();
    let full = stored(full_record(), true).await;
    let least = stored(least_record(), false).await;

    let mut names: Vec<&str> = documented.keys().map(String::as_str).collect();
    let mut written: Vec<&str> = full.keys().map(String::as_str).collect();
    names.sort_unstable();
    written.sort_unstable();
    assert_eq!(names, written, "docs/record.md (left) and the record (right) name different attributes");

    for (name, row) in &documented {
        assert_eq!(row.kind, kind(&full[name]), "the type of {name}");
        assert_eq!(row.always_there, least.contains_key(name), "docs/record.md on when {name} is absent");
    }
}

#[tokio::test]
async fn the_record_page_explains_every_outcome() {
    let outcomes = [
        Outcome::Completed,
        Outcome::UpstreamError,
        Outcome::Refused,
        Outcome::ClientDisconnected,
        Outcome::ClientStalled,
        Outcome::UpstreamBroke,
        Outcome::Interrupted,
    ];
    let page = std::fs::read_to_string(root().join("docs/record.md")).unwrap();
    for outcome in outcomes {
        // Without `_`: an outcome that is added has to be added to the list above too.
        match outcome {
            Outcome::Completed
            | Outcome::UpstreamError
            | Outcome::Refused
            | Outcome::ClientDisconnected
            | Outcome::ClientStalled
            | Outcome::UpstreamBroke
            | Outcome::Interrupted => {}
        }
        assert!(page.contains(&format!("\n| `{}` |", outcome.as_str())), "{outcome:?} is not explained");
    }
}

/// Against the code, because a metric without a sample is on no page. `tests/e2e/telling.rs` holds types and labels against a
/// page.
#[test]
fn the_metrics_page_lists_every_metric_with_its_help() {
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `bedrock_sidecar_"));
    let documented: BTreeMap<String, String> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let suffix = match cells[1] {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let name = cells[0].trim_end_matches('`').strip_suffix(suffix);
            (name.unwrap_or_else(|| panic!("{row}: the name lacks {suffix}")).to_owned(), cells[3].to_owned())
        })
        .collect();
    let mut registered = BTreeMap::new();
    for file in std::fs::read_dir(root().join("src/metrics")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let calls = ["add(", "add_as(", "register("].map(|name| text.match_indices(name)).into_iter().flatten();
        for (at, call) in calls {
            // What registers names a metric and says what it is, in the first two texts of the call.
            let (before, rest) = text[at + call.len()..].split_once('"').unwrap_or_default();
            if !matches!(before.trim(), "" | "registry," | "&mut registry,") {
                continue;
            }
            let parts: Vec<&str> = rest.splitn(4, '"').collect();
            let [name, between, help, _] = parts[..] else { panic!("{rest}") };
            assert_eq!(between.trim(), ",", "the help of {name} is no plain text");
            assert!(registered.insert(name.to_owned(), help.to_owned()).is_none(), "{name} twice");
        }
    }
    assert!(registered.len() > 35, "only {} metrics were found", registered.len());
    assert_eq!(documented, registered, "docs/metrics.md (left) and src/metrics (right)");
}

#[test]
fn every_relative_link_of_the_documentation_leads_to_a_file() {
    let mut broken = Vec::new();
    let mut links = 0;
    for page in pages(&root()) {
        let text = std::fs::read_to_string(&page).unwrap();
        for target in relative_links(&text) {
            links += 1;
            let (file, section) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let found = path.exists() && (section.is_empty() || sections(&path).iter().any(|name| name == section));
            if !found {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(links > 10, "the pages link to each other; only {links} links were found");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_path_that_the_documentation_names_is_in_the_tree() {
    let tops = ["benches/", "docs/", "examples/", "fuzz/", "packaging/", "simulator/", "src/", "tests/"];
    let mut missing = Vec::new();
    let mut named = 0;
    for page in pages(&root()) {
        let text = std::fs::read_to_string(&page).unwrap();
        let is_map = page.ends_with("ARCHITECTURE.md");
        for path in text.split('`').skip(1).step_by(2).filter(|span| is_path(span)) {
            // The map of the code leaves `src/` out where that is plain.
            let below_src = is_map && root().join("src").join(path).exists();
            if is_map || tops.iter().any(|top| path.starts_with(top)) {
                named += 1;
                if !below_src && !root().join(path).exists() {
                    missing.push(format!("{}: {path}", page.display()));
                }
            }
        }
    }
    assert!(named > 30, "only {named} paths were found");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// SECURITY.md names a test for each defence. A test that is renamed, moved or dropped has to be looked at there too.
#[test]
fn every_defence_of_the_threat_model_is_held_by_a_test_that_exists() {
    let page = std::fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let model = page.split_once("\n## From ").expect("attackers have sections").1;
    let (attacks, rest) = model.split_once("\n## What nothing here stops").expect("the last section");
    let mut missing = Vec::new();
    let mut defences = 0;
    for defence in attacks.split("\n- ").skip(1) {
        defences += 1;
        let named: Vec<(&str, &str)> =
            defence.split('`').skip(1).step_by(2).filter_map(|span| span.split_once("::")).collect();
        if named.is_empty() {
            missing.push(format!("no test holds: {defence}"));
        }
        for (file, function) in named {
            let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
            if !is_test(&text, function) {
                missing.push(format!("{file}::{function}"));
            }
        }
    }
    assert!(defences > 30, "only {defences} defences were found");
    assert!(!rest.contains("::"), "what is named below the defences is not looked for");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// A record in which everything is known.
fn full_record() -> Record {
    // Without `..`: a field that is added to Record has to be set here, so that the page is asked about it.
    Record {
        request_id: "01890a5d-ac96-774b-bcce-b302099a8057".into(),
        started_ms: 1_900_000_000_000,
        operation: "Converse".into(),
        model_id: "anthropic.claude-3-haiku-20240307-v1:0".into(),
        inference_profile_used: Some("us.anthropic.claude-3-haiku-20240307-v1:0".into()),
        destination_region: "us-east-1".into(),
        endpoint: Some("bedrock-mantle".into()),
        upstream_request_id: Some("0f7b".into()),
        user_arn: "arn:aws-us-gov:sts::123456789012:assumed-role/app/1".into(),
        source_ip: "127.0.0.1".into(),
        caller: Some("billing".into()),
        caller_uid: Some(1007),
        identity_verified: true,
        access_key_id: Some("LOCALBILLING".into()),
        data_classification: Some("internal".into()),
        tags: Some(r#"{"x-session":"a"}"#.into()),
        stored: true,
        request_size: 1,
        response_size: 2,
        latency: 3,
        first_byte_latency: Some(4),
        streaming: true,
        usage: Usage {
            input_tokens: Some(5),
            output_tokens: Some(6),
            cache_read_tokens: Some(7),
            cache_write_tokens: Some(8),
            cache_write_1h_tokens: Some(7),
        },
        service_tier: Some("flex".into()),
        cost_nano_usd: Some(9),
        success: true,
        status_code: 200,
        error_message: Some("nothing".into()),
        attempts: 1,
        outcome: Outcome::Completed,
        ended: Some("without_final_event".into()),
        repeated: Some(10),
        last_timestamp: Some("2030-03-17T17:46:59.000Z".into()),
        former: Some(Box::new(Former {
            former_chain: FormerChain::Found,
            former_chain_id: Some("c0".into()),
            former_chain_seq: Some(11),
            former_chain_hash: Some("h".into()),
            former_chain_ttl: Some(12),
        })),
    }
}

/// A record in which only that is known which is known of every request: of one that no model gets.
fn least_record() -> Record {
    let operation = Record::DASHBOARD.into();
    let Record { request_id, started_ms, destination_region, user_arn, source_ip, .. } = full_record();
    Record { request_id, started_ms, operation, destination_region, user_arn, source_ip, ..Record::default() }
}

/// The record as it is read back from a ledger.
async fn stored(record: Record, after_unclean_stop: bool) -> BTreeMap<String, Value> {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings::Audit {
        state_dir: Some(directory.path().to_owned()),
        table: None,
        region: "us-gov-west-1".into(),
        retention: Duration::from_secs(30 * 86_400),
        on_failure: OnFailure::Deny,
        durability: Durability::Process,
        max_ledger_bytes: 1 << 30,
        on_full: OnFull::Deny,
        anchor: None,
    };
    if after_unclean_stop {
        std::fs::write(directory.path().join("running"), "").unwrap();
    }
    let audit = Ledger::start(&settings).await.unwrap();
    audit.note(&record);
    let query = Query { own: true, ..Query::parse("timeRange=all").unwrap() };
    let answer = auditor::answer(&audit, &query, Scope::All).await.unwrap();
    assert_eq!(answer["requests"].as_array().unwrap().len(), 1, "{answer}");
    serde_json::from_value(answer["requests"][0].clone()).unwrap()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "boolean",
        other => panic!("{other} has no kind in DynamoDB that the daemon writes"),
    }
}

/// The rows of the page's tables that begin with "attribute".
fn attributes_of_the_page() -> BTreeMap<String, Row> {
    let page = std::fs::read_to_string(root().join("docs/record.md")).unwrap();
    let mut rows = BTreeMap::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if !line.starts_with("| attribute |") {
            continue;
        }
        for line in lines.by_ref().skip(1).take_while(|line| line.starts_with('|')) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 6, "{line}");
            let row = Row { kind: cells[1].to_owned(), always_there: cells[5] == "never" };
            assert!(rows.insert(cells[0].trim_matches('`').to_owned(), row).is_none(), "twice: {line}");
        }
    }
    rows
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Markdown files of the tree, apart from what builds and package managers put there.
fn pages(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
            found.extend(pages(&path));
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
    found
}

/// The targets of `[text](target)` outside code, without those that name a scheme.
fn relative_links(text: &str) -> Vec<&str> {
    let mut links = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code || line.starts_with("    ") {
            continue;
        }
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        links.extend(targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:")));
    }
    links
}

/// A code span that names a file or a folder: no pattern, no command, nothing from the root of a host or a URL.
fn is_path(span: &str) -> bool {
    let plain = span.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-'));
    plain && !span.starts_with('/') && span.contains('/') && (span.ends_with('/') || span.contains('.'))
}

/// Whether a file of Rust has a test of this name that every run of the tests runs.
fn is_test(text: &str, function: &str) -> bool {
    // Of Python's unittest.
    if function.starts_with("test_") {
        return text.lines().any(|line| line.trim_start().starts_with(&format!("def {function}(self)")));
    }
    let mut attributes = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") {
            attributes.push(line);
        } else if line.starts_with(&format!("fn {function}(")) || line.starts_with(&format!("async fn {function}(")) {
            let is_marked =
                attributes.iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
            return is_marked && !attributes.iter().any(|line| line.starts_with("#[ignore"));
        } else if !line.starts_with("//") {
            attributes.clear();
        }
    }
    false
}

/// The anchors of a page's headings, as forges make them.
fn sections(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let headings =
        text.lines().filter_map(|line| line.strip_prefix('#')).map(|line| line.trim_start_matches('#').trim());
    headings
        .map(|heading| {
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
        })
        .collect()
}
