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
/// Of 12,000 requests a minute, a thousand polite hosts ask for 6,000, in gusts. One asks for 20,000: it has what they leave.
#[test]
fn one_that_asks_for_too_much_takes_nothing_that_others_need() {
    let served = |greed: f64| {
        let limit = Amount { requests: 12_000, tokens: 12_000_000 };
        let mut world = World::new(1_001, limit, 200..600, OnUnavailable::LocalShare);
        world.tries = 2;
        world.demand(|host| if host == 0 { greed } else { 6.0 });
        world.run_until(8 * MINUTE);
        let (before, asked) = (world.admitted.clone(), world.asked.clone());
        world.run_until(12 * MINUTE);
        let polite = (1..=1_000).map(|host| world.admitted[host] - before[host]).sum::<u64>();
        let wanted = (1..=1_000).map(|host| world.asked[host] - asked[host]).sum::<u64>();
        let one = (world.admitted[0] - before[0]) / 4;
        println!("of {greed} a minute the one gets {one}; the thousand get {} of {}", polite / 4, wanted / 4);
        assert!(world.worst().0 <= 1.01, "{:?}", world.worst());
        (one, polite as f64 / wanted as f64)
    };
    let ((_, alone), (greedy, beside)) = (served(0.0), served(20_000.0));
    assert!(beside > alone - 0.04, "they are served {beside} of what they ask for beside it, {alone} without it");
    assert!(greedy > 1_000, "{greedy}: what they leave is not left unused");
}
