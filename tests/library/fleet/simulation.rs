//! A life of a thousand hosts, with all that can happen to them.

use bedrock_sidecar::config::OnUnavailable;
use bedrock_sidecar::limits::fleet::amount::Amount;

use super::world::{MINUTE, World};

/// Runs all that can happen to a fleet, and reports what was used. `per_host`: requests a minute that make two limits.
fn life(name: &str, limit: Amount, tokens: std::ops::Range<u64>, per_host: f64, bound: fn((f64, f64)) -> f64) {
    let started = std::time::Instant::now();
    let mut world = World::new(1_000, limit, tokens, OnUnavailable::LocalShare);
    let phase = |world: &mut World, what: &str, until: u64, measured: u64, least: f64| {
        let from = world.now;
        world.run_until(until * MINUTE);
        let used = bound(world.share((until - measured) * MINUTE, until * MINUTE));
        let writes = world.writes_a_minute(from, until * MINUTE);
        let worst = bound(world.worst());
        println!("{name}: {what}: {:.1} % used, {writes} writes a minute, worst so far {worst:.4}", used * 100.0);
        (used < least).then(|| format!("{what}: {used}"))
    };
    let mut short = Vec::new();
    short.extend(phase(&mut world, "idle", 3, 1, 0.0));
    world.demand(|_| per_host);
    short.extend(phase(&mut world, "twice the limit on all hosts, from idle", 8, 2, 0.95));
    short.extend(phase(&mut world, "the same, steady", 12, 4, 0.95));
    world.demand(|host| if host % 20 == 0 { per_host * 20.0 } else { 0.0 });
    short.extend(phase(&mut world, "twice the limit on 50 hosts", 19, 2, 0.95));
    world.demand(|_| per_host);
    for host in 100..200 {
        world.hosts[host].alive = false;
    }
    // Two upheavals at once: measured after nine minutes, and not all has found its place by then.
    short.extend(phase(&mut world, "100 hosts died, demand on the rest", 31, 3, 0.94));
    // All at once, everywhere: what idle hosts hold must not add up to more.
    for host in 0..1_000 {
        (0..20).for_each(|_| world.one_request(host));
    }
    short.extend(phase(&mut world, "a storm on every host", 33, 1, 0.95));
    world.down = true;
    short.extend(phase(&mut world, "the table is down", 42, 1, 0.0));
    world.down = false;
    short.extend(phase(&mut world, "the table is back", 50, 3, 0.94));
    world.tries = 0;
    short.extend(phase(&mut world, "the same demand, and nobody tries again", 54, 2, 0.7));
    world.demand(|_| per_host / 6.0);
    short.extend(phase(&mut world, "a third of the limit, and nobody tries again", 59, 2, 0.2));
    let worst = world.worst();
    println!(
        "{name}: at most {:.2} % of requests and {:.2} % of tokens in any sixty seconds; {} reads a minute; {:.1} s",
        worst.0 * 100.0,
        worst.1 * 100.0,
        world.reads / (world.now / MINUTE),
        started.elapsed().as_secs_f64()
    );
    assert!(worst.0 <= 1.01 && worst.1 <= 1.01, "{worst:?}");
    assert!(short.is_empty(), "{short:?}");
}

#[test]
#[ignore = "slow: minutes without optimisation"]
fn a_thousand_hosts_share_requests() {
    life("requests", Amount { requests: 3_000, tokens: 2_000_000 }, 200..600, 6.0, |share| share.0);
}

#[test]
#[ignore = "slow: minutes without optimisation"]
fn a_thousand_hosts_share_tokens() {
    life("tokens", Amount { requests: 30_000, tokens: 20_000_000 }, 200..4_000, 19.0, |share| share.1);
}
