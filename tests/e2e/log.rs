//! The log: what a request leaves there, and that nothing waits for whoever reads it.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

use http::Method;
use serde_json::Value;
use simulator::{Effect, Fault};
use test_support::*;

/// More bytes than the daemon keeps of a log that nobody reads (4 MiB), and than a pipe holds.
const MORE_THAN_KEPT: usize = 5 * 1024 * 1024;
/// Of the line that a request of [`wordy`] leaves.
const LINE: usize = 8 * 1024;

/// Lets each request leave a long line.
const WORDY: &str = r#"[headers]
record = ["x-1", "x-2", "x-3", "x-4", "x-5", "x-6", "x-7", "x-8"]"#;

fn wordy() -> Request {
    let mut asked = request(Method::POST, &converse_path(ON_DEMAND), converse("hello"));
    for name in ["x-1", "x-2", "x-3", "x-4", "x-5", "x-6", "x-7", "x-8"] {
        // Escaped twice, in the tags and in the line: 1024 bytes.
        asked.headers_mut().insert(name, "\"".repeat(256).parse().unwrap());
    }
    asked
}

/// What the daemon's own records say of its requests, the newest first, up to a hundred.
async fn recorded(admin: SocketAddr) -> Vec<Value> {
    let answer = get(admin, "/v1/dashboard/requests?limit=100").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["requests"].as_array().unwrap().clone()
}

/// Nobody reads, the pipe fills, then what the daemon keeps: it serves as before, says afterwards what is missing, and the
/// lines that are there are whole and in order.
#[tokio::test]
async fn a_log_that_nobody_reads_holds_nothing_up() {
    let bedrock = bedrock().await;
    let mut daemon = Setup::plain(&bedrock).with(WORDY).ready().await;
    let dropped = "bedrock_sidecar_log_lines_dropped_total";
    assert_eq!(metric(&daemon.metrics().await, dropped), Some(0.0));
    daemon.read_log(false);
    let mut ids = Vec::new();
    for _ in 0..MORE_THAN_KEPT / LINE {
        let answer = within("an answer", send(daemon.address(), wordy())).await;
        assert_eq!(answer.status, 200);
        ids.push(answer.header("x-bedrock-sidecar-request-id").unwrap().to_owned());
    }
    assert_eq!(within("health", daemon.get("/health")).await.status, 200);
    assert_eq!(within("health", daemon.admin_get("/health")).await.status, 200);
    let last = ids.last().unwrap().clone();
    until_async("the record of the last request", || async {
        recorded(daemon.admin)
            .await
            .into_iter()
            .find(|record| record["requestId"] == *last && record["success"] == true)
    })
    .await;
    assert!(metric(&daemon.metrics().await, dropped).unwrap() > 0.0, "more was logged than is kept");

    daemon.read_log(true);
    let said = daemon.says("log: lines were lost, because what reads the log does not keep up").await;
    assert_eq!(said["lines"].as_f64(), metric(&daemon.metrics().await, dropped), "{said}");
    let lost = usize::try_from(said["lines"].as_u64().unwrap()).unwrap();
    let lines = daemon.log_text();
    assert!(lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "a line is not whole");
    let logged: Vec<String> =
        daemon.records().iter().map(|record| record["requestId"].as_str().unwrap().to_owned()).collect();
    assert!(logged.len() + lost >= ids.len(), "{} and {lost} of {}", logged.len(), ids.len());
    assert_eq!(logged, ids[..logged.len()], "the newest are lost, and the others are in order");
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed", "it goes on");

    daemon.signal("TERM");
    assert!(daemon.ended().await.success());
    daemon.says("stopped").await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_does_not_hold_up_the_end() {
    let bedrock = bedrock().await;
    let mut daemon = Setup::plain(&bedrock).with(WORDY).ready().await;
    daemon.read_log(false);
    for _ in 0..40 {
        assert_eq!(within("an answer", send(daemon.address(), wordy())).await.status, 200);
    }
    daemon.signal("TERM");
    let ended = daemon.ended().await;
    assert!(ended.success(), "{ended}");
}

/// A panic that ends the process is told although the log is written by a thread of its own, and does not wait for a reader
/// that never comes.
#[tokio::test]
async fn a_log_that_nobody_reads_does_not_hold_up_a_panic() {
    use std::os::unix::process::ExitStatusExt;
    if !cfg!(debug_assertions) {
        println!("NOT RUN: panics (the build is optimised)");
        return;
    }
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock).with(WORDY).env("BEDROCK_SIDECAR_PANIC", format!("ledger:{PROFILE_ONLY}"));
    let mut daemon = setup.ready().await;
    daemon.read_log(false);
    for _ in 0..40 {
        assert_eq!(within("an answer", send(daemon.address(), wordy())).await.status, 200);
    }
    let address = daemon.address();
    let asked =
        tokio::spawn(async move { post(address, &converse_path(PROFILE_ONLY), converse("hello")).await.status });
    assert_eq!(daemon.ended().await.signal(), Some(6));
    assert!(asked.await.is_err());
}

/// A daemon whose log goes to a file and need not tell its addresses.
struct Quiet {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    setup: Setup,
}

impl Quiet {
    async fn start(setup: Setup) -> Quiet {
        let sockets = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
        let [address, admin] = [0, 1].map(|at: usize| sockets[at].local_addr().unwrap());
        let setup = setup.listen(&format!("addresses = [\"{address}\"]\nadmin_address = \"{admin}\""));
        let mut program = setup.command_with_sockets(sockets.map(OwnedFd::from), "main:admin");
        program.stderr(Stdio::from(File::create(setup.path().join("log")).unwrap()));
        program.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("STATE_DIRECTORY", setup.path());
        program.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1");
        let child = program.spawn().unwrap();
        // The sockets wait for it; a client just waits for its answer.
        until_async("readiness", || async { (get(admin, "/ready").await.status == 200).then_some(()) }).await;
        Quiet { child, address, admin, setup }
    }

    /// Lets it end, and gives its whole log.
    async fn log(mut self) -> String {
        assert!(std::process::Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        let ended = until("the end", || self.child.try_wait().unwrap()).await;
        let log = std::fs::read_to_string(self.setup.path().join("log")).unwrap();
        assert!(ended.success(), "{ended}: {log}");
        log
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request that succeeds, one that is the client's fault, one that is nobody's; and the level's lines of them.
#[tokio::test]
async fn the_level_decides_which_requests_are_logged() {
    for format in ["json", "text"] {
        for (level, shown) in [("error", &[][..]), ("warn", &[503][..]), ("info", &[200, 404, 503][..])] {
            let bedrock = bedrock().await;
            let setup = Setup::plain(&bedrock).with(&format!("[log]\nformat = \"{format}\"\nlevel = \"{level}\""));
            let daemon = Quiet::start(setup).await;
            bedrock.inject(Fault::once(Effect::ServiceUnavailable).on("Converse"));
            let failed = post(daemon.address, &converse_path(ON_DEMAND), converse("hello")).await;
            let good = post(daemon.address, &converse_path(ON_DEMAND), converse("hello")).await;
            let unknown = get(daemon.address, "/nothing/here").await;
            assert_eq!([failed.status, good.status, unknown.status], [503, 200, 404]);
            let admin = daemon.admin;
            until_async("three records", || async {
                let records = recorded(admin).await;
                let mut statuses: Vec<_> = records.iter().filter_map(|record| record["statusCode"].as_u64()).collect();
                statuses.sort_unstable();
                (statuses == [200, 404, 503]).then_some(())
            })
            .await;
            let log = daemon.log().await;
            let mut logged: Vec<u64> = log
                .lines()
                .filter_map(|line| match serde_json::from_str::<Value>(line) {
                    Ok(line) => line["statusCode"].as_u64(),
                    Err(_) => line
                        .split_once("request operation=")?
                        .1
                        .split_once(" status=")?
                        .1
                        .split(' ')
                        .next()?
                        .parse()
                        .ok(),
                })
                .collect();
            logged.sort_unstable();
            assert_eq!(logged, shown, "{format} {level}:\n{log}");
            assert_eq!(log.contains("listening"), level == "info", "{log}");
        }
    }
}
