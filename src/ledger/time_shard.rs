//! The key of a table's index by time: `timeShard`, which spreads the records of a fleet over several partitions.
//!
//! A partition of DynamoDB takes 1,000 writes a second, and all that are made now stand at the end of an index by time.
//! So that one key does not hold up the fleet, the index has sixteen, and a host writes to four of them: enough for four
//! thousand records a second, and what one host wrote is found in a quarter of the index. The keys never change with the
//! time: a question of any range asks each key once, and DynamoDB learns once which partitions are busy.

/// The attribute.
pub(crate) const NAME: &str = "timeShard";
/// Its values.
const VALUES: [&str; 16] =
    ["00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12", "13", "14", "15"];
/// How many of them one host uses.
const SHARDS_OF_A_HOST: u32 = 4;

/// Every value, each of which has to be asked.
pub(crate) fn all() -> Vec<String> {
    VALUES.map(str::to_owned).into()
}

/// The values in this host's records.
pub(crate) fn of_host(host_id: &str) -> Vec<String> {
    (0..SHARDS_OF_A_HOST).map(|number| value(hash(host_id).wrapping_add(number)).to_owned()).collect()
}

/// The value in the record of this request.
pub(crate) fn of_record(host_id: &str, request_id: &str) -> &'static str {
    value(hash(host_id).wrapping_add(hash(request_id) % SHARDS_OF_A_HOST))
}

fn value(number: u32) -> &'static str {
    VALUES[number as usize % VALUES.len()]
}

/// Part of the format: another hash would look for a host's records in other places.
fn hash(text: &str) -> u32 {
    // FNV-1a alone hardly moves its middle bits for the last character, and hosts are often numbered.
    let fnv = fnv_1a(text);
    let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed >> 32) as u32
}

fn fnv_1a(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_host_writes_evenly_to_its_shards_and_to_no_other() {
        for host in ["i-0abc", "i-0abd", "db-7.example-1f2e3d4c"] {
            let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
            for _ in 0..4000 {
                *counts.entry(of_record(host, &uuid::Uuid::now_v7().to_string())).or_default() += 1;
            }
            let mut shards = of_host(host);
            shards.sort();
            assert_eq!(counts.keys().copied().collect::<Vec<_>>(), shards);
            assert!(counts.values().all(|count| (800..1200).contains(count)), "{counts:?}");
            assert!(shards.iter().all(|shard| all().contains(shard)));
        }
    }

    #[test]
    fn hosts_are_spread_over_all_shards() {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for host in 0..1600 {
            for shard in of_host(&format!("i-{host:017x}")) {
                *counts.entry(shard).or_default() += 1;
            }
        }
        assert_eq!(counts.len(), all().len());
        assert!(counts.values().all(|count| (280..520).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_values_are_those_of_every_version() {
        // The published test vector.
        assert_eq!(fnv_1a("foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(of_record("i-0abc", "r-1"), "00");
    }
}
