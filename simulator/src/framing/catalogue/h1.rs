//! HTTP/1.1.

use super::{PLAIN, broken, is, needs};
use crate::framing::shape::{Body, Chunks, Cut, Digits, Fields, H1, H1End, H1Stop, Names, Needs, Shape};
use crate::framing::{Framing, Verdict};

const P1: H1 = H1::PLAIN;
const CHUNKS: Chunks = Chunks::PLAIN;
const CHUNKED: Body = Body::Chunked(CHUNKS);

pub(super) const WHOLE: &[Framing] = &[
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

pub(super) const OTHER: &[Framing] = &[
    is(
        Verdict::Either,
        h1(
            "h1-early-reset",
            "413 before the request's body is read, and closed with it unread",
            H1 { end: H1End::EarlyReset, ..P1 },
        ),
    ),
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

pub(super) fn in_chunks(name: &'static str, about: &'static str, size: usize) -> Framing {
    chunked(name, about, Chunks { size, ..CHUNKS })
}

pub(super) fn in_writes(name: &'static str, about: &'static str, write: usize) -> Framing {
    h1(name, about, H1 { write, ..P1 })
}

pub(super) fn cut_length(name: &'static str, about: &'static str, bytes: usize) -> Framing {
    broken(Cut::To(bytes), h1(name, about, stop(H1Stop::InBody, Body::Length)))
}

pub(super) fn cut_chunks(name: &'static str, about: &'static str, bytes: usize) -> Framing {
    broken(Cut::To(bytes), h1(name, about, stop(H1Stop::InBody, CHUNKED)))
}

const fn h1(name: &'static str, about: &'static str, shape: H1) -> Framing {
    Framing { name, about, needs: Needs::Http1, shape: Shape::H1(shape), ..PLAIN }
}

const fn chunked(name: &'static str, about: &'static str, chunks: Chunks) -> Framing {
    h1(name, about, H1 { body: Body::Chunked(chunks), ..P1 })
}

const fn stop(stop: H1Stop, body: Body) -> H1 {
    H1 { end: H1End::Stop(stop), body, ..P1 }
}
