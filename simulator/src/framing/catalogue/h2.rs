//! HTTP/2.

use super::{PLAIN, broken, is, needs};
use crate::framing::shape::{Cut, Fields, GoAway, H2, H2End, Hpack, Length, Needs, Noise, Settings, Shape};
use crate::framing::{Framing, Verdict};

const P2: H2 = H2::PLAIN;

pub(super) const WHOLE: &[Framing] = &[
    framing("h2-data-1", "DATA of 1 byte", H2 { data: 1, ..P2 }),
    framing("h2-data-2", "DATA of 2 bytes", H2 { data: 2, ..P2 }),
    framing("h2-data-7", "DATA of 7 bytes", H2 { data: 7, ..P2 }),
    framing("h2-data-1000", "DATA of 1000 bytes", H2 { data: 1000, ..P2 }),
    framing("h2-data-16384", "DATA of 16,384 bytes", H2 { data: 16_384, ..P2 }),
    framing("h2-length", "content-length, event streams too", H2 { length: Length::Announced, ..P2 }),
    framing("h2-no-length", "no content-length", H2 { length: Length::Omitted, ..P2 }),
    framing(
        "h2-empty-end",
        "END_STREAM in an empty DATA frame, content-length announced",
        H2 { length: Length::Announced, end: H2End::Empty, ..P2 },
    ),
    framing(
        "h2-empty-end-no-length",
        "END_STREAM in an empty DATA frame, no content-length",
        H2 { length: Length::Omitted, end: H2End::Empty, ..P2 },
    ),
    framing(
        "h2-empty-end-late",
        "the same with content-length, 50 ms behind the body",
        H2 { length: Length::Announced, end: H2End::EmptyLate(50), ..P2 },
    ),
    framing(
        "h2-empty-end-late-no-length",
        "the same without content-length, 50 ms behind the body",
        H2 { length: Length::Omitted, end: H2End::EmptyLate(50), ..P2 },
    ),
    framing("h2-trailers", "trailers end the stream", H2 { end: H2End::Trailers, ..P2 }),
    framing(
        "h2-trailers-length",
        "trailers end the stream, content-length announced",
        H2 { length: Length::Announced, end: H2End::Trailers, ..P2 },
    ),
    framing(
        "h2-trailers-late",
        "trailers 50 ms behind a body of announced length",
        H2 { length: Length::Announced, end: H2End::TrailersLate(50), ..P2 },
    ),
    framing("h2-padding", "padded DATA", H2 { data: 100, padding: Some(7), ..P2 }),
    framing("h2-padding-0", "DATA with a padding of no bytes", H2 { padding: Some(0), ..P2 }),
    framing("h2-padding-255", "DATA of 1 byte with a padding of 255", H2 { data: 1, padding: Some(255), ..P2 }),
    framing("h2-gaps", "an empty DATA frame between any two", H2 { data: 100, gaps: true, ..P2 }),
    framing(
        "h2-gaps-empty-end",
        "empty DATA frames between and at the end",
        H2 { data: 100, gaps: true, end: H2End::Empty, ..P2 },
    ),
    framing("h2-continuation", "a header block in frames of 60 bytes", H2 { block: 60, ..P2 }),
    framing("h2-headers-adorned", "HEADERS with padding and priority", H2 { adorned: true, block: 60, ..P2 }),
    framing("h2-never-indexed", "header fields that are never to be indexed", H2 { hpack: Hpack::NeverIndexed, ..P2 }),
    framing(
        "h2-indexed",
        "header fields into the dynamic table, large ones too",
        H2 { hpack: Hpack::Incremental, fields: Fields::Large(3_000), ..P2 },
    ),
    framing(
        "h2-table-resized",
        "the dynamic table shrunk and grown in front of the fields",
        H2 { hpack: Hpack::Resized, ..P2 },
    ),
    framing("h2-fields-reversed", "header fields in the opposite order", H2 { fields: Fields::Reversed, ..P2 }),
    framing("h2-fields-doubled", "header fields that occur several times", H2 { fields: Fields::Doubled, ..P2 }),
    framing("h2-fields-large", "a header field of 8,000 bytes", H2 { fields: Fields::Large(8_000), ..P2 }),
    framing("h2-fields-many", "60 more header fields", H2 { fields: Fields::Many(60), ..P2 }),
    framing("h2-100", "100 first", H2 { interim: &[100], ..P2 }),
    framing("h2-102-103", "102 and 103 first", H2 { interim: &[102, 103], ..P2 }),
    framing("h2-103-103-103", "103 three times first", H2 { interim: &[103, 103, 103], ..P2 }),
    framing("h2-ping", "PING between the frames", H2 { noise: Noise::Ping, data: 100, ..P2 }),
    framing("h2-unknown-frames", "frames of unknown types and PRIORITY between", H2 { noise: Noise::Unknown, ..P2 }),
    framing("h2-window-updates", "WINDOW_UPDATE that nobody needs", H2 { noise: Noise::Windows, ..P2 }),
    framing("h2-settings-empty", "SETTINGS without a setting first", H2 { settings: Settings::Empty, ..P2 }),
    framing("h2-settings-unknown", "unknown settings first", H2 { settings: Settings::Unknown, ..P2 }),
    framing("h2-settings-streams-1", "from now on 1 stream at a time", H2 { settings: Settings::OneStream, ..P2 }),
    framing("h2-settings-streams-0", "for 100 ms no new stream, then 100", H2 { settings: Settings::NoStreams, ..P2 }),
    framing("h2-settings-streams-10000", "from now on 10,000 streams", H2 { settings: Settings::ManyStreams, ..P2 }),
    framing("h2-settings-window-100", "from now on windows of 100 bytes", H2 { settings: Settings::SmallWindow, ..P2 }),
    framing(
        "h2-settings-window-0",
        "from now on windows that only WINDOW_UPDATE opens",
        H2 { settings: Settings::ZeroWindow, ..P2 },
    ),
    framing("h2-settings-window-16m", "from now on windows of 16 MiB", H2 { settings: Settings::LargeWindow, ..P2 }),
    framing(
        "h2-settings-frame-1m",
        "from now on frames of 1 MiB are taken",
        H2 { settings: Settings::LargeFrames, ..P2 },
    ),
    framing(
        "h2-settings-table-0",
        "from now on no dynamic table for requests",
        H2 { settings: Settings::NoTable, ..P2 },
    ),
    framing(
        "h2-settings-table-64k",
        "from now on 64 KiB of dynamic table",
        H2 { settings: Settings::LargeTable, ..P2 },
    ),
    framing(
        "h2-goaway-before",
        "GOAWAY that lets this stream finish, before the answer",
        H2 { goaway: GoAway::Before, ..P2 },
    ),
    framing(
        "h2-goaway-middle",
        "GOAWAY that lets this stream finish, in the middle",
        H2 { data: 10, goaway: GoAway::Middle, ..P2 },
    ),
    framing("h2-goaway-after", "GOAWAY behind the answer", H2 { goaway: GoAway::After, ..P2 }),
    framing(
        "h2-goaway-twice",
        "GOAWAY for no stream before the answer, and for new ones behind it",
        H2 { goaway: GoAway::Twice, ..P2 },
    ),
    framing(
        "h2-goaway-calm-before",
        "GOAWAY ENHANCE_YOUR_CALM that lets this stream finish",
        H2 { goaway: GoAway::CalmBefore, ..P2 },
    ),
    framing("h2-end-then-rst", "RST_STREAM NO_ERROR behind END_STREAM", H2 { end: H2End::EndThenReset(0), ..P2 }),
];

pub(super) const OTHER: &[Framing] = &[
    is(
        Verdict::Empty,
        Framing { cut: Cut::Everything, ..framing("h2-headers-only", "END_STREAM on HEADERS, and no body", P2) },
    ),
    is(
        Verdict::Empty,
        Framing {
            cut: Cut::Everything,
            ..framing(
                "h2-headers-empty-data",
                "no body, END_STREAM in an empty DATA frame",
                H2 { end: H2End::Empty, ..P2 },
            )
        },
    ),
    is(Verdict::Early, framing("h2-early", "413 before the request's body is read, which is left lying", P2)),
    is(
        Verdict::Early,
        framing(
            "h2-early-rst",
            "413 before the request's body is read, then RST_STREAM NO_ERROR",
            H2 { end: H2End::EndThenReset(0), ..P2 },
        ),
    ),
    is(
        Verdict::Unprocessed,
        framing(
            "h2-goaway-below",
            "GOAWAY for streams below this one, which is not processed",
            H2 { goaway: GoAway::Below, ..P2 },
        ),
    ),
    is(
        Verdict::Unprocessed,
        framing("h2-goaway-calm-below", "the same with ENHANCE_YOUR_CALM", H2 { goaway: GoAway::CalmBelow, ..P2 }),
    ),
    broken(
        Cut::Nothing,
        framing(
            "h2-goaway-close-before",
            "GOAWAY for new streams, and closed before the answer",
            H2 { end: H2End::CloseBefore { goaway: Some(0), notify: true }, ..P2 },
        ),
    ),
    broken(
        Cut::Nothing,
        framing(
            "h2-calm-close-before",
            "GOAWAY ENHANCE_YOUR_CALM, and closed before the answer",
            H2 { end: H2End::CloseBefore { goaway: Some(0xb), notify: true }, ..P2 },
        ),
    ),
    broken(
        Cut::Half,
        framing(
            "h2-goaway-close-middle",
            "GOAWAY for new streams, and closed in the middle",
            H2 { end: H2End::Close { goaway: Some(0), notify: true }, ..P2 },
        ),
    ),
    broken(
        Cut::Half,
        framing(
            "h2-calm-close-middle",
            "GOAWAY ENHANCE_YOUR_CALM, and closed in the middle",
            H2 { end: H2End::Close { goaway: Some(0xb), notify: true }, ..P2 },
        ),
    ),
    broken(
        Cut::Nothing,
        framing(
            "h2-close-before",
            "closed before the answer",
            H2 { end: H2End::CloseBefore { goaway: None, notify: true }, ..P2 },
        ),
    ),
    broken(
        Cut::Half,
        framing(
            "h2-close-middle",
            "closed in the middle",
            H2 { end: H2End::Close { goaway: None, notify: true }, ..P2 },
        ),
    ),
    needs(
        Needs::Http2EventStream,
        broken(
            Cut::HalfTheEvents,
            framing(
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
            framing(
                "h2-close-middle-no-notify",
                "closed in the middle without close_notify",
                H2 { end: H2End::Close { goaway: None, notify: false }, ..P2 },
            ),
        ),
    ),
    broken(
        Cut::Nothing,
        framing(
            "h2-close-after",
            "the whole body, and closed before END_STREAM; no content-length",
            H2 { length: Length::Omitted, end: H2End::Close { goaway: None, notify: true }, ..P2 },
        ),
    ),
    is(
        Verdict::Either,
        framing(
            "h2-close-after-length",
            "the whole body of announced length, and closed before END_STREAM",
            H2 { length: Length::Announced, end: H2End::Close { goaway: None, notify: true }, ..P2 },
        ),
    ),
    broken(
        Cut::Half,
        framing(
            "h2-end-early-length",
            "END_STREAM after half of the announced content-length",
            H2 { length: Length::Announced, ..P2 },
        ),
    ),
];

/// RST_STREAM at every place, with every code.
macro_rules! resets {
    ($($name:literal = $code:literal),* $(,)?) => {
        pub(super) const RESETS: &[Framing] = &[$(
            is(
                // The one code that says so.
                if $code == 7 { Verdict::Unprocessed } else { Verdict::Broken },
                framing(
                    concat!("h2-rst-", $name, "-before"),
                    "RST_STREAM in place of HEADERS",
                    H2 { end: H2End::ResetBefore($code), ..P2 },
                ),
            ),
            broken(
                Cut::Half,
                framing(
                    concat!("h2-rst-", $name, "-middle"),
                    "RST_STREAM in the middle of the body",
                    H2 { end: H2End::Reset($code), ..P2 },
                ),
            ),
            needs(
                Needs::Http2EventStream,
                broken(
                    Cut::HalfTheEvents,
                    framing(
                        concat!("h2-rst-", $name, "-between"),
                        "RST_STREAM between two events",
                        H2 { end: H2End::Reset($code), ..P2 },
                    ),
                ),
            ),
            broken(
                Cut::Nothing,
                framing(
                    concat!("h2-rst-", $name, "-after"),
                    "the whole body, and RST_STREAM in place of END_STREAM; no content-length",
                    H2 { length: Length::Omitted, end: H2End::Reset($code), ..P2 },
                ),
            ),
            is(
                Verdict::Either,
                framing(
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

pub(super) const fn framing(name: &'static str, about: &'static str, shape: H2) -> Framing {
    Framing { name, about, needs: Needs::Http2, shape: Shape::H2(shape), ..PLAIN }
}
