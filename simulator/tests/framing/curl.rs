//! curl takes every benign framing for what it is: a second opinion, from a client that shares nothing with hyper.

use std::io::ErrorKind;
use std::process::{Command, Output};

use simulator::framing::{BENIGN, Framing};
use simulator::{DEFAULT_BEARER_TOKEN, Ended, Options, Simulator};

use crate::client::{CONVERSE, STREAM};

/// `None` when there is no curl here.
async fn curl(arguments: Vec<String>) -> Option<Output> {
    let output = tokio::task::spawn_blocking(move || Command::new("curl").args(arguments).output());
    match output.await.unwrap() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("curl: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_takes_every_benign_framing() {
    let Some(version) = curl(vec!["--version".to_owned()]).await else {
        eprintln!("skipped curl_takes_every_benign_framing: there is no curl here");
        return;
    };
    let has_http2 = String::from_utf8_lossy(&version.stdout).contains("HTTP2");
    let simulator =
        Simulator::start(Options { framing: Some(Framing::PLAIN.into()), ..Options::default() }).await.unwrap();
    for call in [CONVERSE, STREAM] {
        let mut whole = None;
        for framing in BENIGN.iter() {
            for http2 in [false, true] {
                if http2 && !has_http2 || !framing.fits(http2, false, call.stream) {
                    continue;
                }
                simulator.set_framing(Some((*framing).into()));
                let url = format!("{}{}", simulator.plain_endpoint(), call.path);
                let protocol = if http2 { "--http2-prior-knowledge" } else { "--http1.1" };
                let token = format!("authorization: Bearer {DEFAULT_BEARER_TOKEN}");
                let arguments =
                    ["-sS", "--max-time", "10", protocol, "-H", "content-type: application/json", "-H", &token, "-d"];
                let arguments = arguments.into_iter().chain([call.body, &url]).map(str::to_owned).collect();
                let output = curl(arguments).await.unwrap();
                let error = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{framing} {protocol}: {error}");
                assert_eq!(whole.get_or_insert_with(|| output.stdout.clone()), &output.stdout, "{framing} {protocol}");
            }
        }
    }
    for request in simulator.requests() {
        let name = request.framing.unwrap();
        assert_eq!((request.status, request.bytes_sent), (Some(200), request.answer_length), "{name}");
        // curl is done at the announced length, and does not wait for an end that comes late.
        let late = ["h2-empty-end-late", "h2-trailers-late"].contains(&name.as_str());
        assert!(request.sent_whole || late, "{name}");
        assert!(request.ended == Ended::Completed || late, "{name}");
    }
}
