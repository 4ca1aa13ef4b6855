//! docs/configuration.md, of which bedrock-sidecar.toml(5) is made, against the reader of the configuration and against
//! config.example.toml.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bedrock_sidecar::settings::Settings;

/// The keys that every limit has.
const RATES: [&str; 8] = [
    "requests_per_minute",
    "request_burst",
    "concurrent_requests",
    "tokens_per_minute",
    "tokens_per_day",
    "usd_per_day",
    "usd_per_month",
    "max_wait",
];

/// What the page says: each table's head, with its keys and their defaults in the order of the page.
fn documented() -> BTreeMap<String, Vec<(String, String)>> {
    let page = read("docs/configuration.md");
    let mut tables = BTreeMap::<String, Vec<(String, String)>>::new();
    let mut table = String::new();
    for line in page.lines() {
        let head = line.strip_prefix("## `").or_else(|| line.strip_prefix("### `"));
        if let Some(head) = head.and_then(|head| head.strip_suffix('`')) {
            table = head.to_owned();
        }
        let Some(row) = line.strip_prefix("| `") else { continue };
        let cells: Vec<&str> = row.trim_end_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 4, "{line}");
        let keys = cells[0].split(", ").map(|key| key.trim_matches('`').to_owned());
        tables.entry(table.clone()).or_default().extend(keys.map(|key| (key, cells[2].to_owned())));
    }
    assert!(tables.len() > 15, "{tables:?}");
    tables
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Reads a configuration of this text.
fn load(text: &str) -> Result<Settings, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    Settings::load(&path).map_err(|error| error.sentence)
}

/// The keys that a table takes, as the reader lists them when it meets one that it does not know.
fn taken(head: &str) -> BTreeSet<String> {
    let sentence = load(&format!("{head}\nno_such_key = 1")).unwrap_err();
    let (_, expected) = sentence.split_once("`no_such_key`, expected ").unwrap_or_else(|| panic!("{head}: {sentence}"));
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Keys of a table that are tables with a head of their own.
fn tables_below(head: &str, documented: &BTreeMap<String, Vec<(String, String)>>) -> BTreeSet<String> {
    let name = head.trim_matches(['[', ']']);
    let heads = documented.keys().map(|head| head.trim_matches(['[', ']']));
    let below =
        heads.filter_map(|head| if name.is_empty() { Some(head) } else { head.strip_prefix(&format!("{name}.")) });
    below.map(|rest| rest.split('.').next().unwrap().to_owned()).collect()
}

#[test]
fn the_page_has_every_table_and_every_key_and_no_other() {
    let documented = documented();
    let mut tables = tables_below("", &documented);
    assert!(tables.remove("prices"), "the price file is a file of its own");
    assert_eq!(tables, taken(""), "the page (left) and the reader (right) know different tables");
    for (head, keys) in documented.iter().filter(|(head, _)| *head != "[[prices]]") {
        let names: BTreeSet<String> = keys.iter().map(|(key, _)| key.clone()).collect();
        assert_eq!(names.len(), keys.len(), "{head} has a key twice");
        // A table of names that admins choose.
        if names.iter().any(|name| name.starts_with('"')) {
            continue;
        }
        let named: BTreeSet<String> = names.union(&tables_below(head, &documented)).cloned().collect();
        assert_eq!(named, taken(head), "{head}: the page (left) and the reader (right) know different keys");
    }
}

#[test]
fn the_price_file_has_the_keys_of_the_page() {
    let directory = tempfile::tempdir().unwrap();
    let prices = directory.path().join("prices.toml");
    std::fs::write(&prices, "[[prices]]\nno_such_key = 1").unwrap();
    let sentence = load(&format!("[limits]\nprices_file = \"{}\"", prices.display())).unwrap_err();
    let taken: BTreeSet<&str> = sentence.split('`').skip(3).step_by(2).collect();
    let documented = documented();
    let named: BTreeSet<&str> = documented["[[prices]]"].iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(named, taken, "{sentence}");
}

/// Whether a default is a value, and not a description of one.
fn value(default: &str) -> Option<&str> {
    default.strip_prefix('`')?.strip_suffix('`').filter(|text| format!("value = {text}").parse::<toml::Table>().is_ok())
}

#[test]
fn the_defaults_of_the_page_are_those_that_hold() {
    // What a table needs beside its defaults.
    let needed = BTreeMap::from([
        ("[listen]", "unix_socket = \"/run/bedrock-sidecar/bedrock.sock\""),
        ("[[upstreams]]", "region = \"us-east-1\""),
        ("[credentials]", "source = \"secrets_manager\"\nsecret_id = \"s\""),
        ("[[callers]]", "name = \"a\"\nusers = [\"0\"]"),
        ("[audit.anchor]", "to = \"s3\"\nbucket = \"bucket\""),
        ("[fleet]", "table = \"fleet\"\nrequests_per_minute = 1000"),
        ("[telemetry]", "otlp_endpoint = \"http://127.0.0.1:4318\""),
    ]);
    let mut compared = 0;
    let mut wrong = Vec::new();
    for (head, keys) in documented().iter().filter(|(head, _)| *head != "[[prices]]") {
        let needed = needed.get(head.as_str()).copied().unwrap_or_default();
        for (key, default) in keys {
            let Some(default) = value(default).filter(|_| !needed.contains(&format!("{key} ="))) else { continue };
            // A key that is there in both has its lines in the same places.
            let [without, with] = ["# nothing".to_owned(), format!("{key} = {default}")].map(|line| {
                load(&format!("{head}\n{needed}\n{line}")).unwrap_or_else(|error| panic!("{head} {key}: {error}"))
            });
            if meaning(&without) != meaning(&with) {
                wrong.push(format!("{head} {key} = {default}"));
            }
            compared += 1;
        }
    }
    assert!(compared > 35, "only {compared} defaults were compared");
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// What was read, without where it stood.
fn meaning(settings: &Settings) -> String {
    let text = format!("{settings:?}");
    let (before, after) = text.split_once("path: Some(\"").unwrap();
    let after = after.split_once('"').unwrap().1;
    let places = after.split("line: ").map(|text| text.trim_start_matches(|c: char| c.is_ascii_digit()));
    format!("{before}{}", places.collect::<String>())
}

#[test]
fn the_example_shows_every_key_with_its_default() {
    let documented = documented();
    let mut head = String::new();
    let mut shown = BTreeMap::<String, BTreeSet<String>>::new();
    for line in read("config.example.toml").lines() {
        let (line, is_comment) = line.strip_prefix("# ").map_or((line, false), |line| (line, true));
        if line.starts_with('[') {
            line.split('#').next().unwrap().trim().clone_into(&mut head);
            continue;
        }
        let Some((key, rest)) = line.split_once(" = ") else { continue };
        let is_key = key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_key || head.is_empty() {
            continue;
        }
        shown.entry(head.clone()).or_default().insert(key.to_owned());
        let table = documented.get(&head).unwrap_or_else(|| panic!("{head} is not on the page"));
        let (_, default) = table.iter().find(|(name, _)| name == key).unwrap_or_else(|| panic!("{head} {key}"));
        // `key = value   # remark`, in which a remark may say that the value is an example.
        let (written, remark) = rest.split_once(" #").unwrap_or((rest, ""));
        if let Some(default) = value(default)
            && is_comment
            && !remark.contains("example")
            && !remark.contains("default:")
        {
            assert_eq!(written.trim(), default, "{head} {key} in the example, and its default on the page");
        }
    }
    for (head, keys) in documented.iter().filter(|(head, _)| *head != "[[prices]]") {
        let none = BTreeSet::new();
        let there = shown.get(head).unwrap_or(&none);
        let repeated = head == "[[callers]]" || head.starts_with("[limits.models.");
        let is_elsewhere = |key: &str| key.starts_with('"') || (repeated && RATES.contains(&key));
        for (key, _) in keys.iter().filter(|(key, _)| !is_elsewhere(key)) {
            assert!(there.contains(key), "config.example.toml lacks {key} of {head}");
        }
    }
}
