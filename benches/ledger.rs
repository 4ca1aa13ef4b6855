//! What the ledger costs: records per second, CPU per record, and memory while a table is away.
//!
//! `cargo bench --bench ledger`; figures go to standard output. With a number as argument, so many records a part.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints what it measured")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bedrock_sidecar::auditor;
use bedrock_sidecar::config::{Durability, OnFailure, OnFull};
use bedrock_sidecar::ledger::Ledger;
use bedrock_sidecar::record::{Outcome, Record};
use bedrock_sidecar::settings;

fn main() {
    let count = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(200_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!(
        "{} cores; a record is one open and one close, items of about 800 bytes",
        std::thread::available_parallelism().unwrap()
    );
    runtime.block_on(async {
        throughput("process, 1 task", Durability::Process, 1, count).await;
        throughput("process, 64 tasks", Durability::Process, 64, count).await;
        throughput("disk, 64 tasks", Durability::Disk, 64, count / 20).await;
        on_request_thread(count).await;
        shipping(count).await;
        unshipped(5 * count).await;
    });
}

async fn throughput(name: &str, durability: Durability, tasks: u64, count: u64) {
    let directory = tempfile::tempdir_in(".").unwrap();
    let audit = Ledger::start(&settings(directory.path(), durability, None)).await.unwrap();
    let (begin, cpu) = (Instant::now(), cpu());
    run(&audit, tasks, count).await;
    let road = begin.elapsed();
    audit.flush().await;
    let (all, cpu) = (begin.elapsed(), cpu_since(cpu));
    println!(
        "{name:<20} {:>9.0} records/s accepted, {:>9.0} records/s into SQLite, {:>6.2} µs CPU a record in all",
        rate(count, road),
        rate(count, all),
        cpu.as_secs_f64() * 1e6 / count as f64
    );
    audit.stop(Instant::now()).await;
}

/// What of it a request waits for: the time of the thread that opens and closes, without what it costs to make a record.
async fn on_request_thread(count: u64) {
    let directory = tempfile::tempdir_in(".").unwrap();
    let audit = Ledger::start(&settings(directory.path(), Durability::Process, None)).await.unwrap();
    let (runtime, shared) = (tokio::runtime::Handle::current(), audit.clone());
    let used = std::thread::spawn(move || {
        let before = thread_cpu();
        let mut record = record();
        for number in 0..count {
            record.request_id = uuid::Uuid::now_v7().to_string();
            record.request_size = number;
            std::hint::black_box(ended(&record));
        }
        let made = thread_cpu();
        for number in 0..count {
            record.request_id = uuid::Uuid::now_v7().to_string();
            record.request_size = number;
            let opened = runtime.block_on(shared.open(&record)).unwrap();
            shared.close(opened, &ended(&record));
        }
        (thread_cpu() - made).saturating_sub(made - before)
    });
    let used = used.join().unwrap();
    println!("on the request's thread: {:.2} µs CPU a record", used.as_secs_f64() * 1e6 / count as f64);
    audit.stop(Instant::now()).await;
}

fn ended(record: &Record) -> Record {
    Record { outcome: Outcome::Completed, success: true, status_code: 200, ..record.clone() }
}

/// User and system time of this thread.
fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// What it costs to send records to a table that takes all of them at once.
async fn shipping(count: u64) {
    let directory = tempfile::tempdir_in(".").unwrap();
    let table = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = client(&format!("http://{}", table.local_addr().unwrap()));
    std::thread::spawn(move || {
        for connection in table.incoming() {
            std::thread::spawn(move || take_all(connection.unwrap()));
        }
    });
    let settings = settings(directory.path(), Durability::Process, Some("records"));
    let audit = Ledger::start_with(&settings, Some(client)).await.unwrap();
    let begin = Instant::now();
    let before = ["audit-ship", "audit-index"].map(cpu_of_thread);
    run(&audit, 64, count).await;
    while audit.status().shipped_total < count {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let time = begin.elapsed();
    let [ship, index] = ["audit-ship", "audit-index"].map(cpu_of_thread);
    println!(
        "shipping: {:>9.0} records/s, {:.2} µs CPU a record on its thread, {:.2} on the index writer's",
        rate(count, time),
        (ship - before[0]).as_secs_f64() * 1e6 / count as f64,
        (index - before[1]).as_secs_f64() * 1e6 / count as f64
    );
    audit.stop(Instant::now()).await;
}

/// Answers every call of a connection as a table does that has processed all.
fn take_all(connection: TcpStream) {
    let mut requests = BufReader::new(connection);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if requests.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(bytes) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = bytes.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        requests.read_exact(&mut body).unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: 24\r\n\r\n{\"UnprocessedItems\": {}}";
        requests.get_mut().write_all(answer).unwrap();
    }
}

/// Time on a CPU of this process's thread of that name.
fn cpu_of_thread(name: &str) -> Duration {
    let tasks = Path::new("/proc/self/task").read_dir().unwrap().map(|task| task.unwrap().path());
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let of_name = tasks.filter(|task| read(&task.join("comm")).trim() == name);
    let times = of_name.map(|task| read(&task.join("schedstat")).split(' ').next().unwrap().parse::<u64>().unwrap());
    Duration::from_nanos(times.sum())
}

fn client(endpoint: &str) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(aws_sdk_dynamodb::config::Region::new("us-gov-west-1"))
        .credentials_provider(aws_sdk_dynamodb::config::Credentials::new("AKIA", "secret", None, None, "bench"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    aws_sdk_dynamodb::Client::from_conf(config)
}

/// A table that cannot be reached, and a million records that wait for it.
async fn unshipped(count: u64) {
    let directory = tempfile::tempdir_in(".").unwrap();
    let settings = settings(directory.path(), Durability::Process, Some("away"));
    let client = client("http://127.0.0.1:9");
    let audit = Ledger::start_with(&settings, Some(client.clone())).await.unwrap();
    println!("resident before: {}", resident());
    run(&audit, 64, count).await;
    audit.flush().await;
    println!(
        "{} records unshipped, {} MiB on disk: resident {}",
        audit.status().pending,
        megabytes(directory.path()),
        resident()
    );
    drop(audit);
    let begin = Instant::now();
    let audit = Ledger::start_with(&settings, Some(client)).await.unwrap();
    println!(
        "started on them in {:.0} ms, {} pending: resident {}",
        begin.elapsed().as_secs_f64() * 1e3,
        audit.status().pending,
        resident()
    );
    let begin = Instant::now();
    let answer = auditor::answer(&audit, &auditor::Query::default(), auditor::Scope::All).await.unwrap();
    println!(
        "a question over all {} of them: {:.0} ms, resident {}",
        answer["totalCount"],
        begin.elapsed().as_secs_f64() * 1e3,
        resident()
    );
    audit.stop(Instant::now()).await;
}

async fn run(audit: &Arc<Ledger>, tasks: u64, count: u64) {
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let audit = audit.clone();
            tokio::spawn(async move {
                let mut record = record();
                for number in (task..count).step_by(usize::try_from(tasks).unwrap()) {
                    record.request_id = uuid::Uuid::now_v7().to_string();
                    record.request_size = number;
                    let opened = audit.open(&record).await.unwrap();
                    audit.close(opened, &ended(&record));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

fn settings(directory: &Path, durability: Durability, table: Option<&str>) -> settings::Audit {
    settings::Audit {
        state_dir: Some(directory.to_owned()),
        table: table.map(str::to_owned),
        region: "us-gov-west-1".into(),
        retention: Duration::from_secs(30 * 86_400),
        on_failure: OnFailure::Deny,
        durability,
        max_ledger_bytes: 8 << 30,
        on_full: OnFull::Deny,
        anchor: None,
    }
}

fn record() -> Record {
    Record {
        started_ms: jiff::Timestamp::now().as_millisecond(),
        operation: "Converse".into(),
        model_id: "anthropic.claude-sonnet-4-20250514-v1:0".into(),
        inference_profile_used: Some("us.anthropic.claude-sonnet-4-20250514-v1:0".into()),
        destination_region: "us-east-1".into(),
        upstream_request_id: Some("7d1f4c0e-3a63-4c52-9a3a-0a4c5a2f8d11".into()),
        user_arn: "arn:aws-us-gov:sts::123456789012:assumed-role/app/i-0123456789abcdef0".into(),
        source_ip: "127.0.0.1".into(),
        caller: Some("billing".into()),
        caller_uid: Some(1007),
        identity_verified: true,
        latency: 1234,
        first_byte_latency: Some(321),
        attempts: 1,
        ..Record::default()
    }
}

fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// User and system time of all threads.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn cpu_since(before: Duration) -> Duration {
    cpu() - before
}

/// Now and at most.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| -> u64 {
        status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok()).unwrap()
    };
    format!("{:.1} MiB (peak {:.1})", field("VmRSS:") as f64 / 1024.0, field("VmHWM:") as f64 / 1024.0)
}

fn megabytes(directory: &Path) -> u64 {
    let files = directory.read_dir().unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| if path.is_dir() { megabytes(&path) } else { path.metadata().unwrap().len() >> 20 }).sum()
}
