//! Clients of all kinds, at a modest rate: DynamoDB Local, the stand-ins and the daemon share the machine with them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use test_support::{ON_DEMAND, PROFILE_ONLY, converse, encoded, padded, request};
use tokio::task::JoinSet;

use crate::ask::{Door, Line, Manner, Protocol};
use crate::book::{Answer, Book, End, Entry, Saw};
use crate::random::Random;
use crate::stage::{DENIED, Stage, WRITE_TIMEOUT, token};

/// Callers that are known by a bearer token, and what else their entries say. Whoever brings none is `local`.
pub(crate) const CALLERS: [(&str, &str); 3] =
    [("alpha", ""), ("beta", "deny_models = [\"*premier*\"]"), ("scarce", "requests_per_minute = 3")];

/// What a client asks for.
#[derive(Debug, Clone)]
struct Question {
    operation: &'static str,
    /// The last segment of the path.
    verb: &'static str,
    model: &'static str,
    caller: &'static str,
    prompt: String,
    /// The least length of the body.
    length: usize,
    manner: Manner,
}

const UNARY: [(&str, &str); 2] = [("Converse", "converse"), ("InvokeModel", "invoke")];
const STREAMS: [(&str, &str); 2] =
    [("ConverseStream", "converse-stream"), ("InvokeModelWithResponseStream", "invoke-with-response-stream")];

fn unary(random: &mut Random) -> Question {
    let (operation, verb) = random.of(&UNARY);
    let caller = random.of(&["local", "alpha", "alpha", "beta"]);
    let model = if caller == "beta" { ON_DEMAND } else { random.of(&[ON_DEMAND, ON_DEMAND, PROFILE_ONLY]) };
    let prompt = "word ".repeat(usize::try_from(random.within(1, 30)).unwrap());
    Question { operation, verb, model, caller, prompt, length: 0, manner: Manner::Reads }
}

fn stream(random: &mut Random) -> Question {
    let (operation, verb) = random.of(&STREAMS);
    let prompt = format!("events {} pace {}", random.within(3, 60), random.within(5, 60));
    Question { operation, verb, prompt, ..unary(random) }
}

/// 20 MB, and never shorter than another client's.
fn large(random: &mut Random) -> Question {
    Question { length: 20_000_000, ..unary(random) }
}

/// More than the buffers between take: those who do not read hold up the daemon.
fn slow(random: &mut Random) -> Question {
    let pause = Duration::from_millis(random.within(1, 10));
    let stall = Duration::from_millis(random.within(1000, 12_000));
    let manner = if random.one_in(3) { Manner::Stalls(stall) } else { Manner::Slowly(pause) };
    let prompt = format!("repeat {}", random.within(1_000_000, 6_000_000));
    let (operation, verb) = random.of(&[UNARY[0], UNARY[1], STREAMS[0]]);
    Question { operation, verb, prompt, manner, ..unary(random) }
}

fn leaving(random: &mut Random) -> Question {
    let question = if random.one_in(3) { unary(random) } else { stream(random) };
    let time = Manner::LeavesAfter(Duration::from_millis(random.within(0, 800)));
    let manner = if random.one_in(2) { time } else { Manner::LeavesAt(random.within(0, 3000)) };
    // Some of them leave while the model has not begun.
    let think = if random.one_in(4) { "think 700 " } else { "" };
    Question { prompt: format!("{think}{}", question.prompt), manner, ..question }
}

/// Too few a minute for the daemon to let them share records.
fn refused(random: &mut Random) -> Question {
    let question = unary(random);
    match random.within(0, 4) {
        0 => Question { model: DENIED, ..question },
        1 => Question { model: PROFILE_ONLY, caller: "beta", ..question },
        2 => Question { operation: "Unknown", verb: "no-such-operation", ..question },
        _ => Question { caller: "scarce", model: ON_DEMAND, ..question },
    }
}

/// With which status policy and limits refuse a request, whatever else happens; with 429 only if there were too many.
pub(crate) fn refusal(entry: &Entry) -> Option<u16> {
    match (entry.operation, entry.caller, entry.model) {
        ("Unknown", _, _) => Some(404),
        (_, _, DENIED) | (_, "beta", PROFILE_ONLY) => Some(403),
        (_, "scarce", _) => Some(429),
        _ => None,
    }
}

/// A kind of client.
struct Kind {
    count: usize,
    protocol: Protocol,
    /// By the unix socket.
    local: bool,
    /// Requests at the same time on a connection; HTTP/2 only.
    parallel: usize,
    /// The longest pause between two rounds of requests, in milliseconds; the shortest is a quarter of it.
    pause: u64,
    question: fn(&mut Random) -> Question,
}

fn kinds() -> Vec<Kind> {
    use Protocol::{Http1, Http2};
    let kind = |count, protocol, parallel, pause, question: fn(&mut Random) -> Question| Kind {
        count,
        protocol,
        local: false,
        parallel,
        pause,
        question,
    };
    vec![
        kind(2, Http1, 1, 400, unary),
        Kind { local: true, ..kind(1, Http1, 1, 400, unary) },
        kind(2, Http2, 2, 600, unary),
        kind(2, Http1, 1, 400, stream),
        kind(1, Http2, 3, 800, stream),
        kind(1, Http1, 1, 16_000, large),
        kind(1, Http2, 1, 16_000, large),
        kind(1, Http1, 1, 2_000, slow),
        kind(1, Http2, 2, 2_000, slow),
        kind(1, Http1, 1, 600, leaving),
        kind(1, Http2, 2, 800, leaving),
        kind(1, Http1, 1, 6_000, refused),
        kind(1, Http2, 1, 6_000, refused),
    ]
}

/// The clients that are running.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: std::sync::Mutex<JoinSet<()>>,
    probes: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    book: Book,
    doors: [Door; 2],
    paused: AtomicBool,
    stopped: AtomicBool,
}

impl Load {
    pub(crate) fn start(stage: &Stage, seed: u64) -> Load {
        let shared = Arc::new(Shared {
            book: Book::default(),
            doors: [Door::Tcp(stage.address()), Door::Unix(stage.socket())],
            paused: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        let mut clients = JoinSet::new();
        for (number, kind) in kinds().into_iter().enumerate() {
            let kind = Arc::new(kind);
            for at in 0..kind.count {
                let random = Random::new(seed ^ ((number * 100 + at) as u64) << 32);
                clients.spawn(client(Arc::clone(&shared), Arc::clone(&kind), random));
            }
        }
        Load { shared, clients: std::sync::Mutex::new(clients), probes: AtomicU64::new(0) }
    }

    pub(crate) fn book(&self) -> &Book {
        &self.shared.book
    }

    /// Lets clients finish what they do and begin nothing more, or go on.
    pub(crate) fn pause(&self, pause: bool) {
        self.shared.paused.store(pause, Ordering::SeqCst);
    }

    /// Waits until all clients have finished what they do.
    pub(crate) async fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let clients = std::mem::take(&mut *self.clients.lock().unwrap());
        clients.join_all().await;
    }

    /// One request on a connection of its own: the region that has served it, or what came instead.
    pub(crate) async fn probe(&self) -> Result<String, String> {
        let number = self.probes.fetch_add(1, Ordering::SeqCst);
        let protocol = if number.is_multiple_of(2) { Protocol::Http1 } else { Protocol::Http2 };
        let (operation, verb) = [UNARY[0], STREAMS[0], UNARY[1], STREAMS[1]][usize::try_from(number % 4).unwrap()];
        let model = if number.is_multiple_of(3) { PROFILE_ONLY } else { ON_DEMAND };
        let prompt = "events 3".to_owned();
        let question = Question { operation, verb, model, caller: "local", prompt, length: 0, manner: Manner::Reads };
        let mut line = None;
        let saw = self.shared.put(&mut line, &self.shared.doors[0], protocol, &question).await;
        match saw {
            Saw::Answer(Answer { status: 200, region: Some(region), end: End::Whole, .. }) => Ok(region),
            other => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                Err(format!("{other:?}"))
            }
        }
    }
}

async fn client(shared: Arc<Shared>, kind: Arc<Kind>, mut random: Random) {
    let door = shared.doors[usize::from(kind.local)].clone();
    let mut line = None;
    while !shared.stopped.load(Ordering::SeqCst) {
        let next = Instant::now() + Duration::from_millis(random.within(kind.pause / 4, kind.pause));
        while Instant::now() < next && !shared.rests() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if shared.rests() {
            // An idle client has no connection, so that what is still there then is a leak.
            line = None;
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let questions: Vec<Question> = (0..kind.parallel).map(|_| (kind.question)(&mut random)).collect();
        if let [question] = &questions[..] {
            shared.put(&mut line, &door, kind.protocol, question).await;
            continue;
        }
        if line.as_ref().is_none_or(|line: &Line| !line.is_open()) {
            line = Line::to(&door, kind.protocol).await.ok();
        }
        let mut asks = JoinSet::new();
        for question in questions {
            let (shared, door, protocol) = (Arc::clone(&shared), door.clone(), kind.protocol);
            let mut line = line.as_ref().and_then(Line::share);
            asks.spawn(async move {
                shared.put(&mut line, &door, protocol, &question).await;
            });
        }
        asks.join_all().await;
    }
}

impl Shared {
    /// Whether nothing new shall begin.
    fn rests(&self) -> bool {
        self.paused.load(Ordering::SeqCst) || self.stopped.load(Ordering::SeqCst)
    }

    /// Puts a question on the line, or on a new one where that has ended; notes what was seen.
    async fn put(&self, line: &mut Option<Line>, door: &Door, protocol: Protocol, question: &Question) -> Saw {
        let Question { operation, verb, model, caller, prompt, length, manner } = question;
        line.take_if(|line| !line.is_open());
        let reused = line.is_some();
        let slow = matches!(manner, Manner::Stalls(time) if *time + Duration::from_secs(1) > WRITE_TIMEOUT);
        let entry = Entry { operation, model, caller, began: Instant::now(), reused, slow, saw: None };
        let length = self.book.enter(*length, entry);
        // The answer echoes the prompt, so no two answers are the same.
        let body = padded(&converse(&format!("number {length} {prompt}")), length);
        let mut request = request(Method::POST, &format!("/model/{}/{verb}", encoded(model)), body);
        if CALLERS.iter().any(|(name, _)| name == caller) {
            let token = format!("Bearer {}", token(caller)).parse().unwrap();
            request.headers_mut().insert("authorization", token);
        }
        let connected = match line.take() {
            Some(line) => Ok(line),
            None => Line::to(door, protocol).await,
        };
        let saw = match connected {
            Err(why) => Saw::Unconnected(why),
            Ok(mut open) => {
                let saw = open.ask(request, *manner).await;
                // Whoever leaves HTTP/1.1 closes the connection.
                let left = matches!(saw, Saw::Left | Saw::Answer(Answer { end: End::Left, .. }));
                *line = Some(open).filter(|_| !(left && protocol == Protocol::Http1));
                saw
            }
        };
        self.book.saw(length, saw.clone());
        saw
    }
}
