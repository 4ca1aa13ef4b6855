//! The binary as a child process with a directory, an environment and a log of its own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Answer, eventually, get, until, until_async};

/// Keeps the SDKs of a child on this host: no instance metadata, and an STS that nobody listens for.
const CLOSED: [(&str, &str); 2] =
    [("AWS_EC2_METADATA_DISABLED", "true"), ("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")];

/// What must not stand in any log, whatever a test does.
const SECRETS: [&str; 6] = [
    simulator::DEFAULT_BEARER_TOKEN,
    simulator::ROTATED_BEARER_TOKEN,
    simulator::DEFAULT_SECRET_ACCESS_KEY,
    simulator::DEFAULT_TEMPORARY_SECRET_ACCESS_KEY,
    simulator::DEFAULT_SESSION_TOKEN,
    "not-a-real-secret-only-for-the-simulator",
];

/// The daemon's program, as cargo built it for the tests that are running.
pub fn program() -> Command {
    Command::new(std::env::var_os("CARGO_BIN_EXE_bedrock-sidecar").expect("cargo sets it: run the tests with cargo"))
}

/// Runs the program to its end, with nothing of this process's environment.
pub async fn command(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = program();
    command.args(arguments).env_clear().envs(CLOSED).envs(environment.iter().copied()).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// A running daemon; killed by its own pid when dropped, and its log searched for keys.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    /// What reads the log; it ends with the log.
    reader: JoinHandle<()>,
    /// Nobody reads the log for now.
    unread: Arc<(Mutex<bool>, Condvar)>,
    /// As the daemon names them: `127.0.0.1:PORT`, or a path.
    pub places: Vec<String>,
    /// The admin address, as bound.
    pub admin: SocketAddr,
    /// A test asked it to panic.
    panics: bool,
    /// Holds its configuration, its credential and its state; removed when dropped.
    pub directory: TempDir,
}

impl Daemon {
    /// Starts the program and waits until it listens.
    pub async fn spawn(mut program: Command, environment: BTreeMap<String, String>, directory: TempDir) -> Daemon {
        program.stdin(Stdio::null()).stdout(Stdio::null());
        Daemon::spawn_with_files(program, environment, directory).await
    }

    /// The same, with the standard input and output that the command has been given.
    pub async fn spawn_with_files(
        mut program: Command,
        environment: BTreeMap<String, String>,
        directory: TempDir,
    ) -> Daemon {
        let panics = environment.contains_key("BEDROCK_SIDECAR_PANIC");
        let state = directory.path().join("state");
        std::fs::create_dir_all(&state).unwrap();
        program.env_clear().envs(CLOSED).env("STATE_DIRECTORY", &state).env("HOME", directory.path()).envs(environment);
        program.stderr(Stdio::piped());
        let mut child = program.spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let unread: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let (stderr, lines, pause) = (child.stderr.take().unwrap(), Arc::clone(&log), Arc::clone(&unread));
        let reader = std::thread::spawn(move || {
            let mut stderr = BufReader::new(stderr);
            let mut line = Vec::new();
            loop {
                drop(pause.1.wait_while(pause.0.lock().unwrap(), |unread| *unread).unwrap());
                if !stderr.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                    break;
                }
                lines.lock().unwrap().push(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
        });
        let placeholder = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut daemon =
            Daemon { child, log, reader, unread, places: Vec::new(), admin: placeholder, panics, directory };
        let line = until("the daemon to listen", || {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("the daemon ended with {status}:\n{}", daemon.log_text());
            }
            daemon.lines().into_iter().find(|line| line["message"] == "listening")
        })
        .await;
        daemon.places = line["addresses"].as_str().unwrap().split(',').map(str::to_owned).collect();
        daemon.admin = line["admin_address"].as_str().unwrap().parse().unwrap();
        daemon
    }

    /// The first TCP address.
    pub fn address(&self) -> SocketAddr {
        self.places.iter().find_map(|place| place.parse().ok()).expect("a TCP address")
    }

    /// The process id of the child.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that holds the commercial credential.
    pub fn secret_path(&self) -> PathBuf {
        self.directory.path().join("secret")
    }

    /// Waits until `/ready` answers 200.
    pub async fn until_ready(&self) {
        until_async("readiness", || async { (self.admin_get("/ready").await.status == 200).then_some(()) }).await;
    }

    /// GET from the admin address.
    pub async fn admin_get(&self, path: &str) -> Answer {
        get(self.admin, path).await
    }

    /// The metrics page.
    pub async fn metrics(&self) -> String {
        let page = self.admin_get("/metrics").await;
        assert_eq!(page.status, 200);
        page.text()
    }

    /// GET from the first TCP address.
    pub async fn get(&self, path: &str) -> Answer {
        get(self.address(), path).await
    }

    /// POST of JSON on a connection of its own.
    pub async fn post(&self, path: &str, body: impl Into<bytes::Bytes>) -> Answer {
        crate::post(self.address(), path, body).await
    }

    /// Sends a signal by the pid of the child.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(status.success(), "kill -{name}");
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    /// Replaces a text of the configuration, and waits until the daemon has reloaded it.
    pub async fn reload(&self, old: &str, new: &str) {
        let text = std::fs::read_to_string(self.config_path()).unwrap();
        assert!(text.contains(old), "{text}");
        std::fs::write(self.config_path(), text.replace(old, new)).unwrap();
        let count = || self.lines().iter().filter(|line| line["message"] == "configuration reloaded").count();
        let before = count();
        self.signal("HUP");
        eventually("the reload", || count() > before).await;
    }

    /// Line number, from 1, of the first line of the configuration with this text.
    pub fn line_of(&self, text: &str) -> usize {
        let config = std::fs::read_to_string(self.config_path()).unwrap();
        1 + config.lines().position(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text} in {config}"))
    }

    /// The exit status, once it has ended by itself, and its log is read to the end unless nobody reads it.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = until("the daemon to end", || child.try_wait().unwrap()).await;
        eventually("the end of the log", || *self.unread.0.lock().unwrap() || self.reader.is_finished()).await;
        status
    }

    /// Whether the process has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Whether the log is read. A pipe that is not read takes 64 KiB; of those, a line or two may still be read.
    pub fn read_log(&self, read: bool) {
        *self.unread.0.lock().unwrap() = !read;
        self.unread.1.notify_all();
    }

    /// Waits until everything that the daemon has said so far stands in the log. Lines are written a little later, in their
    /// order: a request that nobody knows leaves the last one.
    pub async fn has_said_all(&self) {
        let answer = self.get("/no/such/operation").await;
        assert_eq!(self.record_of(&answer).await["operation"], "Unknown");
    }

    /// The log as far as it is read. What was said last may not stand in it yet: see [`Daemon::has_said_all`].
    pub fn log_text(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// The log's lines that are JSON, as far as they are read.
    pub fn lines(&self) -> Vec<Value> {
        self.log.lock().unwrap().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// One line a request, in the order of their ends, as far as they are read.
    pub fn records(&self) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["message"] == "request").collect()
    }

    /// Waits until so many requests have left their lines: an answer may reach its client before its line is written.
    pub async fn all_records(&self, count: usize) -> Vec<Value> {
        until(&format!("{count} lines of requests"), || Some(self.records()).filter(|all| all.len() >= count)).await
    }

    /// Waits for a line of a request.
    pub async fn record(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        until(&format!("the log line of {what}"), || self.records().into_iter().find(|record| fits(record))).await
    }

    /// Waits for the line of the request that got this answer.
    pub async fn record_of(&self, answer: &Answer) -> Value {
        self.record_with_id(answer.header("x-bedrock-sidecar-request-id").expect("the request id")).await
    }

    /// Waits for the line of the request with this id.
    pub async fn record_with_id(&self, id: &str) -> Value {
        self.record("a request", |record| record["requestId"] == id).await
    }

    /// Waits for a line whose message is so.
    pub async fn says(&self, message: &str) -> Value {
        until(message, || self.lines().into_iter().find(|line| line["message"] == message)).await
    }

    /// The resident set and its peak in KiB, from /proc.
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // To the log's end, unless a child of the daemon holds it open.
        self.read_log(true);
        let killed = Instant::now();
        while !self.reader.is_finished() && killed.elapsed() < Duration::from_secs(1) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", self.log_text());
            return;
        }
        let log = self.log_text();
        for secret in SECRETS {
            assert!(!log.contains(secret), "a key stands in the log");
        }
        let panicked = log.contains("panicked") || log.contains("an error in the daemon's own code");
        assert!(self.panics || !panicked, "the daemon panicked:\n{log}");
    }
}
