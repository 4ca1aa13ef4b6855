//! What fleets of 10 to 1,000 hosts ask of the table, how they share, and how soon: docs/scale.md has the figures.

use bedrock_sidecar::config::OnUnavailable;
use bedrock_sidecar::limits::fleet::amount::Amount;

use super::world::{MINUTE, World};

fn measure(count: usize) {
    let started = std::time::Instant::now();
    let hosts = count as u64;
    // Thirty requests a minute for each host: half of the hosts want ten, half of them a hundred.
    let limit = Amount { requests: hosts * 30, tokens: hosts * 30 * 1_000 };
    let mut world = World::new(count, limit, 200..600, OnUnavailable::LocalShare);
    world.tries = 2;
    world.demand(|host| if host % 2 == 0 { 10.0 } else { 100.0 });
    let mut converged = None;
    for minute in 1..=12 {
        world.run_until(minute * MINUTE);
        let used = world.share((minute - 1) * MINUTE, minute * MINUTE).0;
        if used > 0.9 {
            converged.get_or_insert(minute);
        }
        println!("{count} hosts: minute {minute}: {used:.3} of the limit used");
    }
    let (reads, writes) = (world.read_halves, world.write_units);
    let (conflicts, throttles) = (world.conflicts, world.throttles);
    let before = world.admitted.clone();
    world.run_until(16 * MINUTE);
    let seconds = 240.0;
    let got = |parity: usize| {
        let sum: u64 =
            (0..count).filter(|host| host % 2 == parity).map(|host| world.admitted[host] - before[host]).sum();
        sum as f64 / (count as f64 / 2.0) / 4.0
    };
    println!(
        "{count} hosts: {:.1} RCU/s, {:.1} WCU/s, {:.2} conflicts/s, {:.2} throttles/s; polite {:.1}, greedy {:.1} a minute; converged {converged:?}; worst {:?}; {:.1} s",
        (world.read_halves - reads) as f64 / 2.0 / seconds,
        (world.write_units - writes) as f64 / seconds,
        (world.conflicts - conflicts) as f64 / seconds,
        (world.throttles - throttles) as f64 / seconds,
        got(0),
        got(1),
        world.worst(),
        started.elapsed().as_secs_f64()
    );
    assert!(world.worst().0 <= 1.01, "{:?}", world.worst());
    assert!(converged.is_some());
}

#[test]
fn ten_hosts() {
    measure(10);
}
#[test]
fn a_hundred_hosts() {
    measure(100);
}
#[test]
fn a_thousand_hosts() {
    measure(1_000);
}
/// Shares go by claimed demand: it takes an eighth. docs/scale.md says what is to change that.
#[test]
fn one_that_asks_for_too_much_takes_part_of_what_others_need() {
    let mut world =
        World::new(1_001, Amount { requests: 6_000, tokens: 6_000_000 }, 200..600, OnUnavailable::LocalShare);
    world.tries = 0;
    world.demand(|host| if host == 0 { 4_000.0 } else { 6.0 });
    world.run_until(8 * MINUTE);
    let before = world.admitted.clone();
    world.run_until(12 * MINUTE);
    println!(
        "the one gets {} a minute, the thousand {} a minute",
        (world.admitted[0] - before[0]) / 4,
        (1..=1_000).map(|host| world.admitted[host] - before[host]).sum::<u64>() / 4
    );
    assert!(world.worst().0 <= 1.01, "{:?}", world.worst());
}
