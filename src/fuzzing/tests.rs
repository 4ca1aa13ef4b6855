//! The fuzz targets on their seeds, and on mutations of them from a fixed sequence: what runs everywhere.
//!
//! Seeds whose names start with `refused` or `found` (inputs that once broke a promise) need not get past the front door.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::*;

/// Runs the target on every seed and on so many mutations. At least one in twenty of these must get past the front door.
fn holds(name: &str, rounds: usize, target: fn(&[u8]) -> bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut seeds = Vec::new();
    for path in &paths {
        let seed = std::fs::read(path).unwrap();
        let file = path.file_name().unwrap().to_str().unwrap();
        let free = file.starts_with("refused") || file.starts_with("found");
        assert!(run(name, &seed, target) || free, "{}", path.display());
        seeds.push(seed);
    }
    assert!(seeds.len() >= 8, "{name} has too few seeds");

    // Built without optimisation a round takes some ten times as long.
    let rounds = if cfg!(debug_assertions) { rounds } else { 20 * rounds };
    let mut mutations = Mutations { seeds, state: 0x9e37_79b9_7f4a_7c15 };
    let accepted = (0..rounds).filter(|_| run(name, &mutations.next(), target)).count();
    println!("{name}: {accepted} of {rounds} mutations got past the front door");
    assert!(accepted > rounds / 20);
}

fn run(name: &str, data: &[u8], target: fn(&[u8]) -> bool) -> bool {
    catch_unwind(AssertUnwindSafe(|| target(data))).unwrap_or_else(|panic| {
        eprintln!("{name} broke on: {}", data.escape_ascii());
        resume_unwind(panic)
    })
}

struct Mutations {
    seeds: Vec<Vec<u8>>,
    state: u64,
}

impl Mutations {
    /// xorshift64: the same sequence on every run.
    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        usize::try_from(self.state % bound.max(1) as u64).unwrap()
    }

    fn next(&mut self) -> Vec<u8> {
        const SPECIAL: &[u8] = b"\"\\{}[]:,.;/%=&|-+ \t\r\n\0\x7f\xff";
        let seed = self.below(self.seeds.len());
        let mut data = self.seeds[seed].clone();
        for _ in 0..=self.below(3) {
            if data.is_empty() {
                break;
            }
            let at = self.below(data.len());
            match self.below(7) {
                0 => data[at] = u8::try_from(self.below(256)).unwrap(),
                1 => data[at] ^= 1 << self.below(8),
                2 => data.truncate(at),
                3 => drop(data.drain(at..(at + self.below(16)).min(data.len()))),
                4 => data[at] = SPECIAL[self.below(SPECIAL.len())],
                5 => data.insert(at, SPECIAL[self.below(SPECIAL.len())]),
                _ => {
                    let from = self.below(self.seeds.len());
                    let start = self.below(self.seeds[from].len());
                    let end = (start + self.below(80)).min(self.seeds[from].len());
                    let piece = self.seeds[from][start..end].to_vec();
                    data.splice(at..at, piece);
                }
            }
        }
        data
    }
}

#[test]
fn signatures_are_read_back_and_none_verifies() {
    holds("authorization", 20_000, authorization);
}

#[test]
fn answers_arrive_and_are_understood_the_same_however_they_are_cut() {
    holds("answer", 5_000, answer);
}

#[test]
fn frames_of_a_client_are_opened_or_refused() {
    holds("client_event", 20_000, client_event);
}

#[test]
fn the_library_reads_what_the_head_judge_has_read() {
    holds("head", 10_000, head);
}

#[test]
fn operations_are_found_again() {
    holds("operation", 30_000, operation);
}

#[test]
fn what_is_sent_for_an_identifier_is_allowed() {
    holds("identifier", 20_000, identifier);
}

#[test]
fn the_model_in_a_body_is_the_one_that_serde_json_reads() {
    holds("body_model", 30_000, body_model);
}

#[test]
fn estimates_cover_what_serde_json_reads() {
    holds("estimate", 20_000, estimate);
}

#[test]
fn event_streams_say_the_same_however_they_are_cut() {
    holds("event_stream", 10_000, event_stream);
}

#[test]
fn server_sent_events_say_the_same_however_they_are_cut() {
    holds("server_sent_events", 20_000, server_sent_events);
}

#[test]
fn json_answers_say_the_same_however_they_are_cut() {
    holds("json_answer", 20_000, json_answer);
}

#[test]
fn no_secret_is_quoted() {
    holds("secret", 20_000, secret);
}

#[test]
fn errors_of_the_configuration_are_one_line_with_a_place() {
    holds("configuration", 10_000, configuration);
}
