//! The framings by name.

mod h1;
mod h2;

use super::shape::{Cut, H2, H2End, Needs, Shape};
use super::{Framing, Verdict};

pub(crate) const PLAIN: Framing = Framing {
    name: "plain",
    number: None,
    about: "content-length or a chunk an event; END_STREAM on the last DATA frame",
    verdict: Verdict::Whole,
    needs: Needs::Nothing,
    cut: Cut::Nothing,
    shape: Shape::Plain,
};

pub(crate) fn all() -> Vec<Framing> {
    [&[PLAIN], h1::WHOLE, h2::WHOLE, EVENTS, h1::OTHER, h2::OTHER, h2::RESETS].concat()
}

pub(crate) const FAMILIES: &[(&str, &str)] = &[
    ("h1-chunked-", "chunks of N bytes"),
    ("h1-write-", "writes of N bytes"),
    ("h1-length-cut-", "content-length, and N bytes of body; Broken where there are more"),
    ("h1-chunked-cut-", "chunked, and N bytes of body; Broken"),
    ("h2-data-", "DATA of N bytes"),
    ("h2-rst-at-", "N bytes of body, and RST_STREAM NO_ERROR; Broken"),
    ("events-cut-at-", "an event stream that ends cleanly after N bytes; Broken where that is inside an event"),
];

/// The member of a family that a name stands for.
pub(crate) fn member(name: &str) -> Option<Framing> {
    let (family, about) = FAMILIES.iter().find(|(family, _)| {
        name.strip_prefix(family).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    })?;
    let number: usize = name.strip_prefix(family)?.parse().ok()?;
    // Sizes are never nothing.
    let size = number.max(1);
    let framing = match *family {
        "h1-chunked-" => h1::in_chunks(family, about, size),
        "h1-write-" => h1::in_writes(family, about, size),
        "h1-length-cut-" => h1::cut_length(family, about, number),
        "h1-chunked-cut-" => h1::cut_chunks(family, about, number),
        "h2-data-" => h2::framing(family, about, H2 { data: size, ..H2::PLAIN }),
        "h2-rst-at-" => broken(Cut::To(number), h2::framing(family, about, H2 { end: H2End::Reset(0), ..H2::PLAIN })),
        _ => events(family, about, Verdict::Broken, Cut::To(number)),
    };
    Some(Framing { number: Some(number), ..framing })
}

/// Event streams that end as their protocol wants, but too early.
const EVENTS: &[Framing] = &[
    events("events-cut-first", "an event stream that ends 5 bytes into its first event", Verdict::Broken, Cut::To(5)),
    events("events-cut-half", "an event stream that ends inside an event, about half-way", Verdict::Broken, Cut::Half),
    events("events-cut-last", "an event stream that lacks its last byte", Verdict::Broken, Cut::Off(1)),
    events("events-no-final", "an event stream without its final event", Verdict::Unfinished, Cut::Events(1)),
    events("events-no-final-two", "an event stream without its final two events", Verdict::Unfinished, Cut::Events(2)),
    events("events-half", "an event stream with half of its events", Verdict::Unfinished, Cut::HalfTheEvents),
    events("events-none", "an event stream without an event", Verdict::Unfinished, Cut::Everything),
];

const fn is(verdict: Verdict, framing: Framing) -> Framing {
    Framing { verdict, ..framing }
}

const fn needs(needs: Needs, framing: Framing) -> Framing {
    Framing { needs, ..framing }
}

/// Broken off at a cut.
const fn broken(cut: Cut, framing: Framing) -> Framing {
    Framing { cut, verdict: Verdict::Broken, ..framing }
}

const fn events(name: &'static str, about: &'static str, verdict: Verdict, cut: Cut) -> Framing {
    Framing { name, about, verdict, needs: Needs::EventStream, cut, ..PLAIN }
}
