//! The framings by name.

use super::shape::{
    Body, Chunks, Cut, Digits, Fields, GoAway, H1, H1End, H1Stop, H2, H2End, Hpack, Length, Names, Needs, Noise,
    Settings, Shape,
};
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

const P1: H1 = H1::PLAIN;
const P2: H2 = H2::PLAIN;
const CHUNKS: Chunks = Chunks::PLAIN;

const fn h1(name: &'static str, about: &'static str, shape: H1) -> Framing {
    Framing { name, about, needs: Needs::Http1, shape: Shape::H1(shape), ..PLAIN }
}

const fn h2(name: &'static str, about: &'static str, shape: H2) -> Framing {
    Framing { name, about, needs: Needs::Http2, shape: Shape::H2(shape), ..PLAIN }
}

const fn chunked(name: &'static str, about: &'static str, chunks: Chunks) -> Framing {
    h1(name, about, H1 { body: Body::Chunked(chunks), ..P1 })
}

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

const fn stop(stop: H1Stop, body: Body) -> H1 {
    H1 { end: H1End::Stop(stop), body, ..P1 }
}

const CHUNKED: Body = Body::Chunked(CHUNKS);

const H1_WHOLE: &[Framing] = &[
    h1("h1-length", "content-length, event streams too", H1 { body: Body::Length, ..P1 }),
    h1("h1-write-1", "every byte in a write of its own", H1 { write: 1, ..P1 }),
    h1("h1-write-7", "writes of 7 bytes", H1 { write: 7, ..P1 }),
    chunked("h1-chunked", "chunked, whatever the answer", CHUNKS),
    chunked("h1-chunked-1", "chunks of 1 byte", Chunks { size: 1, ..CHUNKS }),
    chunked("h1-chunked-2", "chunks of 2 bytes", Chunks { size: 2, ..CHUNKS }),
    chunked("h1-chunked-7", "chunks of 7 bytes", Chunks { size: 7, ..CHUNKS }),
    chunked("h1-chunked-1000", "chunks of 1000 bytes", Chunks { size: 1000, ..CHUNKS }),
    chunked(
        "h1-chunked-1-ext",
        "chunks of 1 byte with an extension",
        Chunks { size: 1, extension: ";sim=1", ..CHUNKS },
    ),
    chunked(
        "h1-chunked-ext-quoted",
        "chunk extensions with quotes, spaces and no value",
        Chunks { extension: " ; sim = \"a;b\" ;alone", ..CHUNKS },
    ),
    chunked("h1-chunked-upper", "chunk sizes in upper-case hex", Chunks { size: 26, digits: Digits::Upper, ..CHUNKS }),
    chunked(
        "h1-chunked-zeros",
        "chunk sizes with leading zeros, the last one too",
        Chunks { size: 100, digits: Digits::LeadingZeros, ..CHUNKS },
    ),
    chunked("h1-chunked-trailers", "chunked, with trailers", Chunks { trailers: true, ..CHUNKS }),
    chunked("h1-chunked-late-end", "the last chunk 50 ms behind the body", Chunks { late: 50, ..CHUNKS }),
    chunked(
        "h1-chunked-late-trailers",
        "the last chunk and trailers 50 ms behind the body",
        Chunks { late: 50, trailers: true, ..CHUNKS },
    ),
    h1("h1-names-title", "Title-Case header names", H1 { names: Names::Title, ..P1 }),
    h1("h1-names-upper", "UPPER-CASE header names", H1 { names: Names::Upper, ..P1 }),
    h1("h1-names-odd", "oDd-cAsE header names", H1 { names: Names::Odd, ..P1 }),
    h1("h1-no-space", "no space behind the colon", H1 { colon: ":", ..P1 }),
    h1("h1-odd-space", "tabs and spaces around header values", H1 { colon: ": \t ", behind: " \t", ..P1 }),
    h1("h1-no-reason", "a status line without a reason", H1 { reason: false, ..P1 }),
    h1("h1-fields-reversed", "header fields in the opposite order", H1 { fields: Fields::Reversed, ..P1 }),
    h1("h1-fields-doubled", "header fields that occur several times", H1 { fields: Fields::Doubled, ..P1 }),
    h1("h1-fields-large", "a header field of 8,000 bytes", H1 { fields: Fields::Large(8_000), ..P1 }),
    h1("h1-fields-many", "60 more header fields", H1 { fields: Fields::Many(60), ..P1 }),
    h1("h1-100", "100 first", H1 { interim: &[100], ..P1 }),
    h1("h1-102-103", "102 and 103 first", H1 { interim: &[102, 103], ..P1 }),
    h1("h1-103-103-103", "103 three times first", H1 { interim: &[103, 103, 103], ..P1 }),
    h1("h1-close", "Connection: close, with a length or chunks", H1 { end: H1End::Close, ..P1 }),
    h1(
        "h1-close-delimited",
        "Connection: close and no length: the connection's end is the body's",
        H1 { body: Body::UntilClose, end: H1End::Close, ..P1 },
    ),
    h1(
        "h1-close-unsaid",
        "the connection is closed behind the answer, without a word",
        H1 { end: H1End::CloseUnsaid, ..P1 },
    ),
    h1(
        "h1-close-idle",
        "the connection is closed when it has been idle for 50 ms",
        H1 { end: H1End::CloseIdle(50), ..P1 },
    ),
    h1(
        "h1-extra",
        "bytes behind the body, then the connection is closed",
        H1 { body: Body::Length, end: H1End::Extra("\0\u{1}not asked for\r\n"), ..P1 },
    ),
    h1(
        "h1-extra-answer",
        "an answer behind the answer that no request asked for, then the connection is closed",
        H1 { end: H1End::Extra("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nanother one!"), ..P1 },
    ),
];

const H1_OTHER: &[Framing] = &[
    is(
        Verdict::NextUnprocessed,
        h1(
            "h1-close-under-next",
            "the connection is closed when the next request begins to arrive",
            H1 { end: H1End::CloseUnderNext, ..P1 },
        ),
    ),
    is(
        Verdict::Early,
        h1(
            "h1-early",
            "413 before the request's body is read, then closed with courtesy",
            H1 { end: H1End::Early, ..P1 },
        ),
    ),
    is(
        Verdict::Either,
        h1("h1-chunked-stop-trailers", "ends behind `0` of the last chunk", stop(H1Stop::InTrailers, CHUNKED)),
    ),
    broken(
        Cut::Nothing,
        h1("h1-stop-before-head", "ends before the status line", stop(H1Stop::BeforeHead, Body::AsIs)),
    ),
    broken(Cut::Nothing, h1("h1-stop-in-head", "ends in the header fields", stop(H1Stop::InHead, Body::AsIs))),
    broken(Cut::Everything, h1("h1-length-cut-all", "content-length, and no body", stop(H1Stop::InBody, Body::Length))),
    broken(Cut::To(1), h1("h1-length-cut-first", "content-length, and 1 byte", stop(H1Stop::InBody, Body::Length))),
    broken(
        Cut::Half,
        h1("h1-length-cut-half", "content-length, and half the body", stop(H1Stop::InBody, Body::Length)),
    ),
    broken(
        Cut::Off(1),
        h1("h1-length-cut-last", "content-length, and all but 1 byte", stop(H1Stop::InBody, Body::Length)),
    ),
    broken(Cut::Everything, h1("h1-chunked-cut-all", "chunked, and no chunk", stop(H1Stop::InBody, CHUNKED))),
    broken(Cut::Half, h1("h1-chunked-cut-half", "chunked, and half the body", stop(H1Stop::InBody, CHUNKED))),
    broken(
        Cut::Nothing,
        h1("h1-chunked-stop", "chunked, the whole body, and no last chunk", stop(H1Stop::InBody, CHUNKED)),
    ),
    broken(Cut::Half, h1("h1-chunked-stop-chunk", "ends in a chunk", stop(H1Stop::InChunk, CHUNKED))),
    broken(Cut::Half, h1("h1-chunked-stop-size", "ends in a chunk's size", stop(H1Stop::InChunkSize, CHUNKED))),
    needs(
        Needs::Http1EventStream,
        broken(
            Cut::HalfTheEvents,
            h1(
                "h1-chunked-cut-between",
                "ends between two events, without the last chunk",
                stop(H1Stop::InBody, CHUNKED),
            ),
        ),
    ),
    needs(
        Needs::Http1OverTls,
        broken(
            Cut::Half,
            h1(
                "h1-close-delimited-cut",
                "no length, half the body, and no close_notify",
                H1 { body: Body::UntilClose, end: H1End::StopUnsaid, ..P1 },
            ),
        ),
    ),
    needs(
        Needs::Http1OverTls,
        broken(
            Cut::Nothing,
            h1(
                "h1-close-delimited-no-notify",
                "no length, the whole body, and no close_notify",
                H1 { body: Body::UntilClose, end: H1End::StopUnsaid, ..P1 },
            ),
        ),
    ),
];

const H2_WHOLE: &[Framing] = &[
    h2("h2-data-1", "DATA of 1 byte", H2 { data: 1, ..P2 }),
    h2("h2-data-2", "DATA of 2 bytes", H2 { data: 2, ..P2 }),
    h2("h2-data-7", "DATA of 7 bytes", H2 { data: 7, ..P2 }),
    h2("h2-data-1000", "DATA of 1000 bytes", H2 { data: 1000, ..P2 }),
    h2("h2-data-16384", "DATA of 16,384 bytes", H2 { data: 16_384, ..P2 }),
    h2("h2-length", "content-length, event streams too", H2 { length: Length::Announced, ..P2 }),
    h2("h2-no-length", "no content-length", H2 { length: Length::Omitted, ..P2 }),
    h2(
        "h2-empty-end",
        "END_STREAM in an empty DATA frame, content-length announced",
        H2 { length: Length::Announced, end: H2End::Empty, ..P2 },
    ),
    h2(
        "h2-empty-end-no-length",
        "END_STREAM in an empty DATA frame, no content-length",
        H2 { length: Length::Omitted, end: H2End::Empty, ..P2 },
    ),
    h2(
        "h2-empty-end-late",
        "the same with content-length, 50 ms behind the body",
        H2 { length: Length::Announced, end: H2End::EmptyLate(50), ..P2 },
    ),
    h2(
        "h2-empty-end-late-no-length",
        "the same without content-length, 50 ms behind the body",
        H2 { length: Length::Omitted, end: H2End::EmptyLate(50), ..P2 },
    ),
    h2("h2-trailers", "trailers end the stream", H2 { end: H2End::Trailers, ..P2 }),
    h2(
        "h2-trailers-length",
        "trailers end the stream, content-length announced",
        H2 { length: Length::Announced, end: H2End::Trailers, ..P2 },
    ),
    h2(
        "h2-trailers-late",
        "trailers 50 ms behind a body of announced length",
        H2 { length: Length::Announced, end: H2End::TrailersLate(50), ..P2 },
    ),
    h2("h2-padding", "padded DATA", H2 { data: 100, padding: Some(7), ..P2 }),
    h2("h2-padding-0", "DATA with a padding of no bytes", H2 { padding: Some(0), ..P2 }),
    h2("h2-padding-255", "DATA of 1 byte with a padding of 255", H2 { data: 1, padding: Some(255), ..P2 }),
    h2("h2-gaps", "an empty DATA frame between any two", H2 { data: 100, gaps: true, ..P2 }),
    h2(
        "h2-gaps-empty-end",
        "empty DATA frames between and at the end",
        H2 { data: 100, gaps: true, end: H2End::Empty, ..P2 },
    ),
    h2("h2-continuation", "a header block in frames of 5 bytes", H2 { block: 5, ..P2 }),
    h2("h2-headers-adorned", "HEADERS with padding and priority", H2 { adorned: true, block: 50, ..P2 }),
    h2("h2-never-indexed", "header fields that are never to be indexed", H2 { hpack: Hpack::NeverIndexed, ..P2 }),
    h2(
        "h2-indexed",
        "header fields into the dynamic table, large ones too",
        H2 { hpack: Hpack::Incremental, fields: Fields::Large(3_000), ..P2 },
    ),
    h2(
        "h2-table-resized",
        "the dynamic table shrunk and grown in front of the fields",
        H2 { hpack: Hpack::Resized, ..P2 },
    ),
    h2("h2-fields-reversed", "header fields in the opposite order", H2 { fields: Fields::Reversed, ..P2 }),
    h2("h2-fields-doubled", "header fields that occur several times", H2 { fields: Fields::Doubled, ..P2 }),
    h2("h2-fields-large", "a header field of 8,000 bytes", H2 { fields: Fields::Large(8_000), ..P2 }),
    h2("h2-fields-many", "60 more header fields", H2 { fields: Fields::Many(60), ..P2 }),
    h2("h2-100", "100 first", H2 { interim: &[100], ..P2 }),
    h2("h2-102-103", "102 and 103 first", H2 { interim: &[102, 103], ..P2 }),
    h2("h2-103-103-103", "103 three times first", H2 { interim: &[103, 103, 103], ..P2 }),
    h2("h2-ping", "PING between the frames", H2 { noise: Noise::Ping, data: 100, ..P2 }),
    h2("h2-unknown-frames", "frames of unknown types and PRIORITY between", H2 { noise: Noise::Unknown, ..P2 }),
    h2("h2-window-updates", "WINDOW_UPDATE that nobody needs", H2 { noise: Noise::Windows, ..P2 }),
    h2("h2-settings-empty", "SETTINGS without a setting first", H2 { settings: Settings::Empty, ..P2 }),
    h2("h2-settings-unknown", "unknown settings first", H2 { settings: Settings::Unknown, ..P2 }),
    h2("h2-settings-streams-1", "from now on 1 stream at a time", H2 { settings: Settings::OneStream, ..P2 }),
    h2("h2-settings-streams-0", "for 100 ms no new stream, then 100", H2 { settings: Settings::NoStreams, ..P2 }),
    h2("h2-settings-streams-10000", "from now on 10,000 streams", H2 { settings: Settings::ManyStreams, ..P2 }),
    h2("h2-settings-window-100", "from now on windows of 100 bytes", H2 { settings: Settings::SmallWindow, ..P2 }),
    h2(
        "h2-settings-window-0",
        "from now on windows that only WINDOW_UPDATE opens",
        H2 { settings: Settings::ZeroWindow, ..P2 },
    ),
    h2("h2-settings-window-16m", "from now on windows of 16 MiB", H2 { settings: Settings::LargeWindow, ..P2 }),
    h2("h2-settings-frame-1m", "from now on frames of 1 MiB are taken", H2 { settings: Settings::LargeFrames, ..P2 }),
    h2("h2-settings-table-0", "from now on no dynamic table for requests", H2 { settings: Settings::NoTable, ..P2 }),
    h2("h2-settings-table-64k", "from now on 64 KiB of dynamic table", H2 { settings: Settings::LargeTable, ..P2 }),
    h2(
        "h2-goaway-before",
        "GOAWAY that lets this stream finish, before the answer",
        H2 { goaway: GoAway::Before, ..P2 },
    ),
    h2(
        "h2-goaway-middle",
        "GOAWAY that lets this stream finish, in the middle",
        H2 { data: 10, goaway: GoAway::Middle, ..P2 },
    ),
    h2("h2-goaway-after", "GOAWAY behind the answer", H2 { goaway: GoAway::After, ..P2 }),
    h2(
        "h2-goaway-twice",
        "GOAWAY for no stream before the answer, and for new ones behind it",
        H2 { goaway: GoAway::Twice, ..P2 },
    ),
    h2(
        "h2-goaway-calm-before",
        "GOAWAY ENHANCE_YOUR_CALM that lets this stream finish",
        H2 { goaway: GoAway::CalmBefore, ..P2 },
    ),
    h2("h2-end-then-rst", "RST_STREAM NO_ERROR behind END_STREAM", H2 { end: H2End::EndThenReset(0), ..P2 }),
];

const H2_OTHER: &[Framing] = &[
    is(
        Verdict::Empty,
        Framing { cut: Cut::Everything, ..h2("h2-headers-only", "END_STREAM on HEADERS, and no body", P2) },
    ),
    is(
        Verdict::Empty,
        Framing {
            cut: Cut::Everything,
            ..h2("h2-headers-empty-data", "no body, END_STREAM in an empty DATA frame", H2 { end: H2End::Empty, ..P2 })
        },
    ),
    is(Verdict::Early, h2("h2-early", "413 before the request's body is read, which is left lying", P2)),
    is(
        Verdict::Early,
        h2(
            "h2-early-rst",
            "413 before the request's body is read, then RST_STREAM NO_ERROR",
            H2 { end: H2End::EndThenReset(0), ..P2 },
        ),
    ),
    is(
        Verdict::Unprocessed,
        h2(
            "h2-goaway-below",
            "GOAWAY for streams below this one, which is not processed",
            H2 { goaway: GoAway::Below, ..P2 },
        ),
    ),
    is(
        Verdict::Unprocessed,
        h2("h2-goaway-calm-below", "the same with ENHANCE_YOUR_CALM", H2 { goaway: GoAway::CalmBelow, ..P2 }),
    ),
    broken(
        Cut::Nothing,
        h2(
            "h2-goaway-close-before",
            "GOAWAY for new streams, and closed before the answer",
            H2 { end: H2End::CloseBefore { goaway: Some(0), notify: true }, ..P2 },
        ),
    ),
    broken(
        Cut::Nothing,
        h2(
            "h2-calm-close-before",
            "GOAWAY ENHANCE_YOUR_CALM, and closed before the answer",
            H2 { end: H2End::CloseBefore { goaway: Some(0xb), notify: true }, ..P2 },
        ),
    ),
    broken(
        Cut::Half,
        h2(
            "h2-goaway-close-middle",
            "GOAWAY for new streams, and closed in the middle",
            H2 { end: H2End::Close { goaway: Some(0), notify: true }, ..P2 },
        ),
    ),
    broken(
        Cut::Half,
        h2(
            "h2-calm-close-middle",
            "GOAWAY ENHANCE_YOUR_CALM, and closed in the middle",
            H2 { end: H2End::Close { goaway: Some(0xb), notify: true }, ..P2 },
        ),
    ),
    broken(
        Cut::Nothing,
        h2(
            "h2-close-before",
            "closed before the answer",
            H2 { end: H2End::CloseBefore { goaway: None, notify: true }, ..P2 },
        ),
    ),
    broken(
        Cut::Half,
        h2("h2-close-middle", "closed in the middle", H2 { end: H2End::Close { goaway: None, notify: true }, ..P2 }),
    ),
    needs(
        Needs::Http2EventStream,
        broken(
            Cut::HalfTheEvents,
            h2(
                "h2-close-between",
                "closed between two events",
                H2 { end: H2End::Close { goaway: None, notify: true }, ..P2 },
            ),
        ),
    ),
    needs(
        Needs::Http2OverTls,
        broken(
            Cut::Half,
            h2(
                "h2-close-middle-no-notify",
                "closed in the middle without close_notify",
                H2 { end: H2End::Close { goaway: None, notify: false }, ..P2 },
            ),
        ),
    ),
    broken(
        Cut::Nothing,
        h2(
            "h2-close-after",
            "the whole body, and closed before END_STREAM; no content-length",
            H2 { length: Length::Omitted, end: H2End::Close { goaway: None, notify: true }, ..P2 },
        ),
    ),
    is(
        Verdict::Either,
        h2(
            "h2-close-after-length",
            "the whole body of announced length, and closed before END_STREAM",
            H2 { length: Length::Announced, end: H2End::Close { goaway: None, notify: true }, ..P2 },
        ),
    ),
    broken(
        Cut::Half,
        h2(
            "h2-end-early-length",
            "END_STREAM after half of the announced content-length",
            H2 { length: Length::Announced, ..P2 },
        ),
    ),
];

/// RST_STREAM at every place, with every code.
macro_rules! resets {
    ($($name:literal = $code:literal),* $(,)?) => {
        const RESETS: &[Framing] = &[$(
            is(
                // The one code that says so.
                if $code == 7 { Verdict::Unprocessed } else { Verdict::Broken },
                h2(
                    concat!("h2-rst-", $name, "-before"),
                    "RST_STREAM in place of HEADERS",
                    H2 { end: H2End::ResetBefore($code), ..P2 },
                ),
            ),
            broken(
                Cut::Half,
                h2(
                    concat!("h2-rst-", $name, "-middle"),
                    "RST_STREAM in the middle of the body",
                    H2 { end: H2End::Reset($code), ..P2 },
                ),
            ),
            needs(
                Needs::Http2EventStream,
                broken(
                    Cut::HalfTheEvents,
                    h2(
                        concat!("h2-rst-", $name, "-between"),
                        "RST_STREAM between two events",
                        H2 { end: H2End::Reset($code), ..P2 },
                    ),
                ),
            ),
            broken(
                Cut::Nothing,
                h2(
                    concat!("h2-rst-", $name, "-after"),
                    "the whole body, and RST_STREAM in place of END_STREAM; no content-length",
                    H2 { length: Length::Omitted, end: H2End::Reset($code), ..P2 },
                ),
            ),
            is(
                Verdict::Either,
                h2(
                    concat!("h2-rst-", $name, "-after-length"),
                    "the whole body of announced length, and RST_STREAM in place of END_STREAM",
                    H2 { length: Length::Announced, end: H2End::Reset($code), ..P2 },
                ),
            ),
        )*];
    };
}

resets!(
    "no-error" = 0x0,
    "protocol-error" = 0x1,
    "internal-error" = 0x2,
    "flow-control-error" = 0x3,
    "settings-timeout" = 0x4,
    "stream-closed" = 0x5,
    "frame-size-error" = 0x6,
    "refused-stream" = 0x7,
    "cancel" = 0x8,
    "compression-error" = 0x9,
    "connect-error" = 0xa,
    "enhance-your-calm" = 0xb,
    "inadequate-security" = 0xc,
    "http-1-1-required" = 0xd,
);

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

/// Not in a list by itself: whether the client sees the answer is up to chance.
const CHANCY: &[Framing] = &[is(
    Verdict::Either,
    h1(
        "h1-early-reset",
        "413 before the request's body is read, and closed with it unread",
        H1 { end: H1End::EarlyReset, ..P1 },
    ),
)];

pub(crate) fn all() -> Vec<Framing> {
    [&[PLAIN], H1_WHOLE, H2_WHOLE, EVENTS, H1_OTHER, H2_OTHER, RESETS, CHANCY].concat()
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
        "h1-chunked-" => chunked(family, about, Chunks { size, ..CHUNKS }),
        "h1-write-" => h1(family, about, H1 { write: size, ..P1 }),
        "h1-length-cut-" => broken(Cut::To(number), h1(family, about, stop(H1Stop::InBody, Body::Length))),
        "h1-chunked-cut-" => broken(Cut::To(number), h1(family, about, stop(H1Stop::InBody, CHUNKED))),
        "h2-data-" => h2(family, about, H2 { data: size, ..P2 }),
        "h2-rst-at-" => broken(Cut::To(number), h2(family, about, H2 { end: H2End::Reset(0), ..P2 })),
        _ => events(family, about, Verdict::Broken, Cut::To(number)),
    };
    Some(Framing { number: Some(number), ..framing })
}
