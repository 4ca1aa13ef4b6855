//! Between our unsigned counts and the signed integers of SQLite. What does not fit is the nearest that does.

pub(crate) fn to_unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(crate) fn to_signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
