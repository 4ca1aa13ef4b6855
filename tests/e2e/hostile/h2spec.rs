//! h2spec, which plays 145 clients that break a rule of HTTP/2 or of HPACK, against a path that reads its body.

use std::collections::BTreeSet;
use std::process::Command;

use test_support::*;

use super::is_served;

const TEST: &str = "h2spec_finds_only_what_is_meant_so";

/// What h2spec does not like, and why it is right here.
const MEANT_SO: [(&str, &str); 1] = [(
    "Sends invalid connection preface",
    "the port serves HTTP/1.1 too: what does not begin like HTTP/2 gets HTTP/1.1's 400 before the connection ends, and \
     h2spec expects the end alone",
)];

/// Many cases break a rule amid a request, and expect that its stream is reset. So the daemon must not have answered by then:
/// here it reads the body first, whatever the method. A POST to /foundation-models, which is no operation, is refused as soon
/// as its head has come, and the answer of four cases was a race.
const PATH: &str = "/inference-profiles";

#[tokio::test]
async fn h2spec_finds_only_what_is_meant_so() {
    let install = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/h2spec/install");
    let installed = tokio::task::spawn_blocking(move || Command::new(install).output().unwrap()).await.unwrap();
    if installed.status.code() == Some(3) {
        println!("NOT RUN: {TEST} ({})", String::from_utf8_lossy(&installed.stderr).trim());
        return;
    }
    assert!(installed.status.success(), "{installed:?}");
    let program = String::from_utf8(installed.stdout).unwrap().trim().to_owned();

    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).managing_profiles("").ready().await;
    let port = daemon.address().port().to_string();
    // A case that passes waits for no time-out, so a long one costs nothing; a busy machine may need it.
    let patience = DEADLINE.as_secs().to_string();
    let arguments = ["-h", "127.0.0.1", "-p", &port, "-P", PATH, "-o", &patience].map(str::to_owned);
    let output = tokio::task::spawn_blocking(move || Command::new(program).args(arguments).output().unwrap());
    let (output, ()) = tokio::join!(output, is_served(&daemon, "while h2spec runs"));
    let report = String::from_utf8_lossy(&output.unwrap().stdout).into_owned();
    assert!(report.contains("145 tests, ") && report.contains(" 0 skipped"), "{report}");
    let failed: BTreeSet<&str> = report
        .lines()
        .filter_map(|line| line.split_once("\u{d7} ")?.1.split_once(": "))
        .map(|(_, title)| title)
        .collect();
    let meant: BTreeSet<&str> = MEANT_SO.iter().map(|(title, _)| *title).collect();
    assert_eq!(failed, meant, "left: what h2spec found; right: what is meant so, and why: {MEANT_SO:#?}\n{report}");
    is_served(&daemon, "after h2spec").await;
}
