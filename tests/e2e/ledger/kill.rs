//! `kill -9` under load. `BEDROCK_SIDECAR_KILLS=N` sets how often in the slow test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use simulator::{Options, Received};
use test_support::*;
use tokio::net::TcpStream;

use super::{DENIED, Scene, id_of, says, shipped, stopped, text};

/// What a client has sent, and the answer that it saw to its end.
#[derive(Debug, Clone)]
struct Sent {
    operation: &'static str,
    model: &'static str,
    seen: Option<Answer>,
}

/// By body length, which no two requests share.
type Book = Arc<Mutex<BTreeMap<usize, Sent>>>;

const SORTS: [(&str, &str, &str); 5] = [
    ("InvokeModel", "invoke", ON_DEMAND),
    ("Converse", "converse", PROFILE_ONLY),
    ("ConverseStream", "converse-stream", ON_DEMAND),
    ("InvokeModel", "invoke", DENIED),
    ("ConverseStream", "converse-stream", PROFILE_ONLY),
];

struct Load {
    book: Book,
    next: AtomicUsize,
    not_found: Mutex<Vec<Answer>>,
}

impl Load {
    /// Enters a request into the book, before it is sent.
    fn draw(&self, sort: usize, prompt: &str) -> (usize, Request) {
        let length = self.next.fetch_add(1, Ordering::SeqCst);
        let (operation, verb, model) = SORTS[sort % SORTS.len()];
        let path = format!("/model/{}/{verb}", encoded(model));
        self.book.lock().unwrap().insert(length, Sent { operation, model, seen: None });
        (length, request(Method::POST, &path, padded(&converse(prompt), length)))
    }

    /// A request with so many words that the next one's tokens are others.
    fn draw_words(&self, sort: usize) -> (usize, Request) {
        let words = 1 + self.next.load(Ordering::SeqCst) % 11;
        self.draw(sort, &"word ".repeat(words))
    }

    fn saw(&self, length: usize, answer: Answer) {
        self.book.lock().unwrap().get_mut(&length).unwrap().seen = Some(answer);
    }

    /// Asks one thing after the other until the daemon is gone.
    async fn run(&self, address: std::net::SocketAddr, answered: &AtomicU64) {
        loop {
            let Ok(stream) = TcpStream::connect(address).await else { return };
            let mut client = Http1::on(stream, &address.to_string()).await;
            for turn in 0..6 {
                if turn == 5 {
                    let asked = request(Method::GET, "/no/such/operation", "");
                    let Some(answer) = whole(&mut client, asked).await else { return };
                    assert_eq!(answer.status, 404, "{answer:?}");
                    self.not_found.lock().unwrap().push(answer);
                } else {
                    let (length, asked) = self.draw_words(turn);
                    let Some(answer) = whole(&mut client, asked).await else { return };
                    self.saw(length, answer);
                }
                answered.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

/// The answer if all of it came.
async fn whole(client: &mut Http1, request: Request) -> Option<Answer> {
    let response = client.start(request).await.ok()?;
    within("the body", Answer::of(response)).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_doubled_or_misattributed_by_kill_9_under_load() {
    killed("e2e-killed", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: fifty kills"]
async fn no_request_is_lost_doubled_or_misattributed_by_many_kills() {
    let kills = std::env::var("BEDROCK_SIDECAR_KILLS").ok().and_then(|kills| kills.parse().ok());
    killed("e2e-killed-often", kills.unwrap_or(50)).await;
}

/// The profile that a request went through, as the upstream was asked for it.
fn profile_of(request: &Received) -> Option<&str> {
    request.model.as_deref().filter(|model| Some(*model) != request.model_resolved.as_deref())
}

/// Input and output tokens, as the client was told.
fn tokens_of(operation: &str, answer: &Answer) -> (u64, u64) {
    let of = |usage: &Value| (usage["inputTokens"].as_u64().unwrap(), usage["outputTokens"].as_u64().unwrap());
    match operation {
        "Converse" => of(&answer.json()["usage"]),
        "ConverseStream" => {
            let messages = simulator::eventstream::decode_all(&answer.body).unwrap();
            let last: Value = serde_json::from_slice(&messages.last().unwrap().payload).unwrap();
            of(&last["usage"])
        }
        _ => {
            let count = |name: &str| answer.header(name).unwrap().parse().unwrap();
            (count("x-amzn-bedrock-input-token-count"), count("x-amzn-bedrock-output-token-count"))
        }
    }
}

async fn killed(table: &'static str, kills: usize) {
    let bedrock = bedrock_with(Options { record_limit: 1_000_000, ..Options::default() }).await;
    let scene = Scene::new(table).await;
    let more = "[models]\ndeny = [\"cohere.*\"]\n[log]\nlevel = \"info\"\n";
    let load = Arc::new(Load { book: Book::default(), next: AtomicUsize::new(300), not_found: Mutex::default() });
    let mut hanging = Vec::new();
    for round in 0..kills {
        let mut daemon = scene.setup(&bedrock, "", more).ready().await;
        let address = daemon.address();
        // Two that are certainly under way when it dies: one before its first byte, one amid its stream.
        let (thinking, asked) = load.draw(1, "think 600000");
        let (book, client) = (load.clone(), TcpStream::connect(address).await.unwrap());
        let thinker = tokio::spawn(async move {
            let mut client = Http1::on(client, &address.to_string()).await;
            if let Some(answer) = whole(&mut client, asked).await {
                book.saw(thinking, answer);
            }
        });
        let (streaming, asked) = load.draw(2, "events 100000 pace 20");
        let mut client = Http1::to(address).await;
        let mut reader = Reader::new(client.start(asked).await.unwrap());
        reader.until(1).await.unwrap();
        until("the slow one to arrive", || {
            bedrock.requests().iter().any(|received| received.body_length == thinking).then_some(())
        })
        .await;
        hanging.extend([thinking, streaming]);

        let answered = Arc::new(AtomicU64::new(0));
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let (load, answered) = (load.clone(), answered.clone());
                tokio::spawn(async move { load.run(address, &answered).await })
            })
            .collect();
        // The moment is drawn: after so many answers, and then within some microseconds.
        let chance = uuid::Uuid::now_v7().as_u64_pair().1;
        until("answers", || (answered.load(Ordering::SeqCst) >= chance % 97).then_some(())).await;
        let moment = std::time::Instant::now();
        while moment.elapsed() < Duration::from_micros((chance >> 8) % 5_000) {
            tokio::task::yield_now().await;
        }
        daemon.signal("KILL");
        assert!(daemon.ended().await.code().is_none(), "killed by a signal");
        for worker in workers {
            worker.await.unwrap();
        }
        thinker.await.unwrap();
        println!("round {round}: killed after {} answers", answered.load(Ordering::SeqCst));
    }
    let daemon = scene.setup(&bedrock, "", more).ready().await;
    shipped(&daemon).await;
    let items = scene.items().await;
    let received: Vec<_> = bedrock
        .requests()
        .into_iter()
        .filter(|received| matches!(received.operation.as_deref(), Some("InvokeModel" | "Converse" | "ConverseStream")))
        .collect();
    let book = load.book.lock().unwrap().clone();
    let not_found: BTreeSet<String> = load.not_found.lock().unwrap().iter().map(id_of).collect();

    let mut by_length: BTreeMap<usize, &Value> = BTreeMap::new();
    for item in items.values().filter(|item| item["requestSize"] != 0) {
        let length = usize::try_from(item["requestSize"].as_u64().unwrap()).unwrap();
        assert!(by_length.insert(length, item).is_none(), "two items for one request: {item:#}");
        let sent = book.get(&length).unwrap_or_else(|| panic!("nobody sent this: {item:#}"));
        says(item, json!({ "operation": sent.operation, "modelId": sent.model }));
    }
    // What the upstream received has one item.
    let mut arrived = BTreeSet::new();
    for request in &received {
        assert!(arrived.insert(request.body_length), "one request was sent upstream twice: {}", request.body_length);
        let item = by_length.get(&request.body_length).unwrap_or_else(|| panic!("LOST: {}", request.body_length));
        assert_eq!(item["operation"], request.operation.as_deref().unwrap());
        match item["outcome"].as_str().unwrap() {
            // As the upstream saw it end, also when the client no longer did.
            "completed" => says(
                item,
                json!({
                    "upstreamRequestId": request.request_id,
                    "statusCode": request.status,
                    "success": true,
                    "destinationRegion": request.region,
                    "inferenceProfileUsed": profile_of(request),
                    "responseSize": request.answer_length,
                    "inputTokens": request.input_tokens,
                    "outputTokens": request.output_tokens,
                    "streaming": request.operation.as_deref() == Some("ConverseStream"),
                    "ended": null,
                }),
            ),
            "interrupted" => says(item, json!({ "success": false, "responseSize": 0, "upstreamRequestId": null })),
            other => panic!("{other}: {item:#}"),
        }
    }
    // What a client saw to its end is recorded as such, under the id that it saw.
    let mut complete = 0;
    for (length, sent) in &book {
        let Some(answer) = &sent.seen else { continue };
        complete += 1;
        let item = items.get(&id_of(answer)).unwrap_or_else(|| panic!("LOST: {answer:?}"));
        assert_eq!(item["requestSize"], *length, "another's item: {item:#}");
        let refused = sent.model == DENIED;
        let tokens = if refused { None } else { Some(tokens_of(sent.operation, answer)) };
        assert_eq!(answer.status, if refused { 403 } else { 200 }, "{answer:?}");
        says(
            item,
            json!({
                "outcome": if refused { "refused" } else { "completed" },
                "success": !refused,
                "statusCode": answer.status,
                "responseSize": answer.body.len(),
                "upstreamRequestId": answer.header("x-amzn-requestid").filter(|_| !refused),
                "attempts": if refused { 0 } else { 1 },
                "operation": sent.operation,
                "modelId": sent.model,
                "destinationRegion": "us-east-1",
                "inputTokens": tokens.map(|(input, _)| input),
                "outputTokens": tokens.map(|(_, output)| output),
            }),
        );
    }
    for id in &not_found {
        says(&items[id], json!({ "outcome": "refused", "statusCode": 404, "operation": "Unknown", "requestSize": 0 }));
    }
    for length in &hanging {
        says(by_length[length], json!({ "outcome": "interrupted", "inputTokens": null, "outputTokens": null }));
    }
    let bodiless = items.values().filter(|item| item["requestSize"] == 0);
    for item in bodiless.clone() {
        says(item, json!({ "operation": "Unknown", "statusCode": 404 }));
    }
    let unseen = bodiless.count() - not_found.len();
    assert!(unseen <= kills * 8, "{unseen} requests without a body that nobody sent");
    let interrupted = items.values().filter(|item| item["outcome"] == "interrupted").count();
    println!(
        "{} kills: {} requests sent, {} received upstream, {complete} + {} answers seen whole, {} items, {interrupted} \
         interrupted; 0 lost, 0 twice, 0 misattributed",
        kills,
        book.len(),
        received.len(),
        not_found.len(),
        items.len()
    );
    stopped(daemon).await;

    let setup = scene.setup(&bedrock, "", more);
    for source in ["ledger", "dynamodb"] {
        let verdict = setup.command(&["audit", "verify", "--source", source]).await;
        assert_eq!(verdict.status.code(), Some(0), "{source}: {}", text(&verdict));
        let expected = format!("{} records checked; whole", scene.all_items().await.len());
        assert!(text(&verdict).contains(&expected), "{}", text(&verdict));
    }
    // By hand, one number of one record.
    let edited = by_length[&hanging[0]]["requestId"].as_str().unwrap().to_owned();
    let db = rusqlite::Connection::open(scene.state.path().join("ledger.db")).unwrap();
    let changed = db
        .execute(
            "UPDATE records SET item = replace(item, '\"responseSize\":0', '\"responseSize\":7') \
             WHERE instr(item, ?) > 0",
            [&edited],
        )
        .unwrap();
    assert_eq!(changed, 1);
    drop(db);
    for source in ["ledger", "dynamodb"] {
        let verdict = setup.command(&["audit", "verify", "--source", source]).await;
        let said = text(&verdict);
        assert_eq!(verdict.status.code(), Some(1), "{source}: {said}");
        assert!(said.contains("CHANGED") && said.contains(&edited) && said.contains("NOT WHOLE"), "{source}: {said}");
    }
}
