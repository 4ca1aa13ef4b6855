//! What fleets of 10 to 100,000 hosts ask of the table, how they share, and how soon: docs/scale.md has the figures.

use bedrock_sidecar::config::OnUnavailable;
use bedrock_sidecar::limits::fleet::amount::Amount;

use super::world::{MINUTE, World};

/// A clock that is fast by two thousandths lets its host use that much more.
const CLOCKS: f64 = 1.002;

/// Runs a fleet in which half of the hosts want a third of an even part of the limit, and half more than three times as much.
/// `even`: that part, in requests a minute; `enough`: the part of the limit that must be used in the end. It is less where hosts
/// have few requests a minute: what a polite one keeps for its gusts is then more of what it uses. The largest fleet has not
/// settled by then: its last hosts start after eight minutes.
fn measure(count: usize, even: u64, enough: f64) {
    let started = std::time::Instant::now();
    let hosts = count as u64;
    let limit = Amount { requests: hosts * even, tokens: hosts * even * 1_000 };
    let mut world = World::new(count, limit, 200..600, OnUnavailable::LocalShare);
    world.tries = 2;
    let part = even as f64 / 3.0;
    world.demand(|host| if host % 2 == 0 { part } else { part * 10.0 });
    let mut by_minute = Vec::new();
    // Minutes: until it is measured, and while it is.
    let (settle, measured) = if count > 10_000 { (8, 2) } else { (12, 4) };
    for minute in 1..=settle {
        world.run_until(minute * MINUTE);
        let used = world.share((minute - 1) * MINUTE, minute * MINUTE).0;
        by_minute.push(used);
        println!("{count} hosts: minute {minute}: {used:.3} of the limit used");
    }
    let (reads, writes) = (world.read_halves, world.write_units);
    let (conflicts, throttles) = (world.conflicts, world.throttles);
    let before = world.admitted.clone();
    world.run_until((settle + measured) * MINUTE);
    let seconds = (measured * 60) as f64;
    let got = |parity: usize| {
        let sum: u64 =
            (0..count).filter(|host| host % 2 == parity).map(|host| world.admitted[host] - before[host]).sum();
        sum as f64 / (count as f64 / 2.0) / measured as f64
    };
    let used = world.share(settle * MINUTE, (settle + measured) * MINUTE).0;
    let settled = by_minute.iter().position(|before| *before > used - 0.05).map_or(settle + 1, |at| at as u64 + 1);
    println!("{count} hosts: {}", world.free());
    println!(
        "{count} hosts in {} shards: {:.1} RCU/s, {:.1} WCU/s, {:.2} conflicts/s, {:.2} throttles/s; polite {:.1} of {part:.1}, greedy {:.1} of {:.1} a minute; used {used:.3}; settled after {settled} min; worst {:?}; {:.1} s",
        world.shards(),
        (world.read_halves - reads) as f64 / 2.0 / seconds,
        (world.write_units - writes) as f64 / seconds,
        (world.conflicts - conflicts) as f64 / seconds,
        (world.throttles - throttles) as f64 / seconds,
        got(0),
        got(1),
        part * 10.0,
        world.worst(),
        started.elapsed().as_secs_f64()
    );
    assert!(world.worst().0 <= CLOCKS, "{:?}", world.worst());
    assert!(used > enough, "{used}");
    world.check_sums();
    if count > 10_000 {
        return;
    }
    // One host is cut off, until its lease is taken back and it uses its share beside the others, and comes back.
    world.cut_off[1] = true;
    let alone = world.admitted[1];
    world.run_until((settle + measured + 8) * MINUTE);
    let alone = world.admitted[1] - alone;
    world.cut_off[1] = false;
    world.run_until((settle + measured + 11) * MINUTE);
    println!(
        "{count} hosts: one is cut off for eight minutes: it uses {alone}; worst {:?}; {:.1} s",
        world.worst(),
        started.elapsed().as_secs_f64()
    );
    assert!(alone > 0, "its share");
    assert!(world.worst().0 <= CLOCKS + 1.0 / count as f64, "{:?}", world.worst());
    world.check_sums();
}

#[test]
fn ten_hosts() {
    measure(10, 30, 0.9);
}

#[test]
fn a_hundred_hosts() {
    measure(100, 30, 0.9);
}

#[test]
fn a_thousand_hosts() {
    measure(1_000, 30, 0.85);
}

#[test]
#[ignore = "slow: minutes without optimisation"]
fn ten_thousand_hosts() {
    measure(10_000, 9, 0.7);
}

#[test]
#[ignore = "slow: minutes with optimisation"]
fn a_hundred_thousand_hosts() {
    measure(100_000, 6, 0.3);
}

/// Nobody in it gives back what it has; a host of another shard does.
#[test]
fn a_shard_whose_hosts_have_all_died_is_emptied() {
    let mut world = World::new(200, Amount { requests: 6_000, tokens: 6_000_000 }, 200..600, OnUnavailable::LocalShare);
    world.tries = 2;
    world.demand(|_| 60.0);
    world.run_until(5 * MINUTE);
    let dead = world.hosts_of(1);
    assert!(dead.len() > 10 && world.budget(1).requests > 300, "{dead:?}: {:?}", world.budget(1));
    dead.iter().for_each(|host| world.hosts[*host].alive = false);
    world.run_until(20 * MINUTE);
    assert_eq!((world.hosts_of(1).len(), world.budget(1)), (0, Amount::default()));
    let used = world.share(17 * MINUTE, 20 * MINUTE).0;
    println!("{} of 200 hosts have died: {used:.3} used", dead.len());
    assert!(used > 0.93, "{used}");
    assert!(world.worst().0 <= CLOCKS, "{:?}", world.worst());
    world.check_sums();
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
    assert!(beside > alone - 0.03, "they are served {beside} of what they ask for beside it, {alone} without it");
    assert!(greedy > 1_000, "{greedy}: what they leave is not left unused");
}
