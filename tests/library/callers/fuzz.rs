//! The fuzz target of the signature parser on its seeds, and on mutations of them from a fixed sequence.

#[path = "../../../fuzz/fuzz_targets/check.rs"]
mod check;

#[test]
fn seeds_and_their_mutations_hold() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/authorization");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert_eq!(seeds.len(), 13);
    for seed in &seeds {
        assert!(check::authorization(seed), "{}", String::from_utf8_lossy(seed));
    }

    // xorshift64: the same sequence on every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound.max(1) as u64) as usize
    };
    let rounds = if cfg!(debug_assertions) { 20_000 } else { 1_000_000 };
    let mut read = 0;
    for _ in 0..rounds {
        let mut data = seeds[below(seeds.len())].clone();
        for _ in 0..=below(3) {
            let at = below(data.len());
            match below(5) {
                0 => data[at] = below(256) as u8,
                1 => data[at] ^= 1 << below(8),
                2 => data.truncate(at),
                3 => drop(data.drain(at..(at + below(16)).min(data.len()))),
                _ => {
                    let from = &seeds[below(seeds.len())];
                    let start = below(from.len());
                    let piece = from[start..(start + below(80)).min(from.len())].to_vec();
                    data.splice(at..at, piece);
                }
            }
            if data.is_empty() {
                break;
            }
        }
        read += usize::from(check::authorization(&data));
    }
    println!("{read} of {rounds} mutations were read as signatures");
    assert!(read > rounds / 20);
}
