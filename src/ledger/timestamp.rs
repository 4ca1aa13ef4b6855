//! The time of a record, as text.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// `YYYY-MM-DDTHH:MM:SS.mmmZ` has so many bytes.
const LENGTH: usize = 24;

/// RFC 3339 in UTC with milliseconds and `Z`.
pub(crate) fn timestamp(ms: i64) -> String {
    let instant = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let moment = Offset::UTC.to_datetime(instant);
    let Ok(year @ 0..=9999) = u16::try_from(moment.year()) else { return format!("{instant:.3}") };
    let small = |number: i8| u16::from(number.unsigned_abs());
    let thousandths = moment.millisecond().unsigned_abs();
    let pairs = [
        (0, year / 100),
        (2, year),
        (5, small(moment.month())),
        (8, small(moment.day())),
        (11, small(moment.hour())),
        (14, small(moment.minute())),
        (17, small(moment.second())),
        (20, thousandths / 10),
    ];
    let mut text = *b"YYYY-MM-DDTHH:MM:SS.mmmZ";
    for (at, number) in pairs {
        (text[at], text[at + 1]) = (digit(number / 10), digit(number));
    }
    text[22] = digit(thousandths);
    std::str::from_utf8(&text).unwrap_or_default().to_owned()
}

/// Milliseconds since 1970, of any text in RFC 3339; 0 when it cannot be read.
pub(crate) fn milliseconds(text: &str) -> i64 {
    let instant = parse(text).or_else(|| text.parse().ok());
    instant.map_or(0, Timestamp::as_millisecond)
}

/// Reads what [`timestamp`] writes.
fn parse(text: &str) -> Option<Timestamp> {
    let text: &[u8; LENGTH] = text.as_bytes().try_into().ok()?;
    let between = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (23, b'Z')];
    if between.iter().any(|(at, byte)| text[*at] != *byte) {
        return None;
    }
    let number = |from: usize, to: usize| {
        let digits = &text[from..to];
        let is_number = digits.iter().all(u8::is_ascii_digit);
        is_number.then(|| digits.iter().fold(0_i16, |number, digit| 10 * number + i16::from(digit - b'0')))
    };
    let small = |from: usize| number(from, from + 2).and_then(|number| i8::try_from(number).ok());
    let nanoseconds = i32::from(number(20, 23)?) * 1_000_000;
    let moment =
        DateTime::new(number(0, 4)?, small(5)?, small(8)?, small(11)?, small(14)?, small(17)?, nanoseconds).ok()?;
    Offset::UTC.to_timestamp(moment).ok()
}

/// The last digit of a number.
fn digit(number: u16) -> u8 {
    b"0123456789"[usize::from(number % 10)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::Random;

    #[test]
    fn a_time_is_written_and_read_as_jiff_does_it() {
        let (earliest, latest) = (1_000 * Timestamp::MIN.as_second(), 1_000 * Timestamp::MAX.as_second());
        let years = (-400..400).map(|year| year * 31_556_952_000 - 62_167_219_200_000 + 1);
        let mut random = Random(7);
        let any = (0..100_000).map(|_| earliest + random.below((latest - earliest).unsigned_abs()).cast_signed());
        let near = (0..200_000).map(|step| 1_700_000_000_000 + step * 43_211_987);
        for ms in years.chain(any).chain(near).chain([earliest, -1, 0, 1, latest]) {
            let text = timestamp(ms);
            assert_eq!(text, format!("{:.3}", Timestamp::from_millisecond(ms).unwrap()));
            assert_eq!(milliseconds(&text), ms);
        }
        assert_eq!(timestamp(i64::MAX), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn other_forms_are_read_and_what_is_no_time_is_0() {
        for (text, ms) in [
            ("2023-11-14T22:13:20Z", 1_700_000_000_000),
            ("2023-11-14T23:13:20.007+01:00", 1_700_000_000_007),
            ("2023-11-14T22:13:20,007Z", 1_700_000_000_007),
            ("2016-12-31T23:59:60.000Z", 1_483_228_799_000),
            ("2023-02-30T22:13:20.007Z", 0),
            ("2023-11-14T22:13:2x.007Z", 0),
            ("", 0),
        ] {
            assert_eq!(milliseconds(text), ms, "{text}");
        }
    }
}
