//! Numbers as people read them.

/// "12 s", "5 min", "3 h 5 min", "2 d 4 h".
pub(super) fn time(seconds: u64) -> String {
    let two = |large: u64, large_unit, small: u64, small_unit| match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// "512 B", "1.5 MiB".
pub(super) fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// "1,234,567".
pub(super) fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut shown = String::from(if number < 0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// "$12.34" of nano-dollars.
pub(super) fn dollars(nano_usd: u64) -> String {
    format!("${:.2}", nano_usd as f64 / 1e9)
}

/// "1 record", "2 records".
pub(super) fn of(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(i64::try_from(number).unwrap_or(i64::MAX)), if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let times = [0, 59, 60, 3_599, 3_600, 11_100, 86_400, 187_200].map(time);
        assert_eq!(times, ["0 s", "59 s", "1 min", "59 min", "1 h", "3 h 5 min", "1 d", "2 d 4 h"]);
        let sizes = [0, 1023, 1024, 1_572_864, 1_073_741_824, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "1.0 GiB", "16777216.0 TiB"]);
        assert_eq!([0, 999, 1_000, 1_234_567, -1_000].map(count), ["0", "999", "1,000", "1,234,567", "-1,000"]);
        assert_eq!([of(1, "record", "records"), of(2_000, "record", "records")], ["1 record", "2,000 records"]);
        assert_eq!(dollars(12_345_000_000), "$12.35");
    }
}
