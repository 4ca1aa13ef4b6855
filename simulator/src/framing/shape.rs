//! What a framing consists of: where the answer is cut, and the details of each protocol.

use crate::body::Step;
use crate::faults::cut_at;
use crate::reply::Reply;

/// What a framing can only be done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    Http1,
    /// The difference that TLS's close_notify makes cannot be seen without TLS.
    Http1OverTls,
    Http2,
    Http2OverTls,
    EventStream,
    Http1EventStream,
    Http2EventStream,
}

/// What of the body is left out, at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    Nothing,
    /// All but so many bytes.
    To(usize),
    Half,
    /// So many bytes.
    Off(usize),
    /// The second half of the events.
    HalfTheEvents,
    /// So many whole events.
    Events(usize),
    Everything,
}

impl Cut {
    pub(crate) fn apply(self, reply: &mut Reply) {
        let length = reply.length();
        let events = reply.steps.iter().filter(|step| matches!(step, Step::Event(_))).count();
        match self {
            Cut::Nothing => return,
            Cut::To(bytes) => cut_at(reply, Some(bytes), None, []),
            Cut::Half => cut_at(reply, Some(length / 2), None, []),
            Cut::Off(bytes) => cut_at(reply, Some(length.saturating_sub(bytes)), None, []),
            Cut::HalfTheEvents => cut_at(reply, None, Some(events / 2), []),
            Cut::Events(off) => cut_at(reply, None, Some(events.saturating_sub(off)), []),
            Cut::Everything => reply.steps.clear(),
        }
        // The pause before an event that is left out must not look like more to come.
        while matches!(reply.steps.back(), Some(Step::Sleep(_))) {
            reply.steps.pop_back();
        }
        if reply.is_stream() || events > 0 {
            // The usage stands at the end, which is gone.
            reply.tokens = (None, None);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Plain,
    H1(H1),
    H2(H2),
}

/// Changes to the header fields that mean the same, over either protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fields {
    AsTheyAre,
    Reversed,
    /// Some that occur twice, with different values.
    Doubled,
    /// One of so many bytes.
    Large(usize),
    /// So many small ones.
    Many(usize),
}

/// One HTTP/1.1 answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct H1 {
    /// Statuses of the answers before the answer.
    pub(crate) interim: &'static [u16],
    pub(crate) fields: Fields,
    pub(crate) names: Names,
    /// Between a header's name and its value.
    pub(crate) colon: &'static str,
    /// Behind a header's value.
    pub(crate) behind: &'static str,
    pub(crate) reason: bool,
    pub(crate) body: Body,
    /// Bytes a write, each flushed; 0 means as it comes.
    pub(crate) write: usize,
    pub(crate) end: H1End,
}

/// The case of header names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    Lower,
    Title,
    Upper,
    /// cOnTeNt-tYpE.
    Odd,
}

/// How the length of an HTTP/1.1 body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// By Content-Length where there are no events, else in a chunk an event.
    AsIs,
    Length,
    Chunked(Chunks),
    /// Not at all: the connection's end is the body's.
    UntilClose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunks {
    /// The most bytes in one; 0 means as they come.
    pub(crate) size: usize,
    pub(crate) extension: &'static str,
    pub(crate) digits: Digits,
    pub(crate) trailers: bool,
    /// Milliseconds between the last chunk and the terminating one.
    pub(crate) late: u64,
}

impl Chunks {
    pub(crate) const PLAIN: Chunks = Chunks { size: 0, extension: "", digits: Digits::Lower, trailers: false, late: 0 };
}

/// How a chunk's size is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Digits {
    Lower,
    Upper,
    LeadingZeros,
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum H1End {
    KeepAlive,
    /// `Connection: close`, and closed.
    Close,
    /// Closed without a word.
    CloseUnsaid,
    /// Closed after so many milliseconds without a request.
    CloseIdle(u64),
    /// Closed when the next request begins to arrive.
    CloseUnderNext,
    /// Bytes behind the body that no one asked for, and closed.
    Extra(&'static str),
    /// The answer stops here.
    Stop(H1Stop),
    /// A `Connection: close` body without length that ends without TLS's close_notify.
    StopUnsaid,
    /// A refusal before the request's body is read: closed once the client has had time to read it.
    Early,
    /// The same, but closed with the request's body unread, so that TCP may take the answer back.
    EarlyReset,
}

/// Where an HTTP/1.1 answer stops, with a proper end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum H1Stop {
    BeforeHead,
    InHead,
    /// Behind what is left of the body, before any terminating chunk.
    InBody,
    /// In a chunk that announces more than comes.
    InChunk,
    InChunkSize,
    /// Behind the terminating chunk's own line.
    InTrailers,
}

impl H1 {
    pub(crate) const PLAIN: H1 = H1 {
        interim: &[],
        fields: Fields::AsTheyAre,
        names: Names::Lower,
        colon: ": ",
        behind: "",
        reason: true,
        body: Body::AsIs,
        write: 0,
        end: H1End::KeepAlive,
    };
}

/// One HTTP/2 answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct H2 {
    /// Statuses of the answers before the answer.
    pub(crate) interim: &'static [u16],
    pub(crate) fields: Fields,
    pub(crate) hpack: Hpack,
    /// Bytes of header block in a HEADERS or CONTINUATION frame; 0 means as many as fit.
    pub(crate) block: usize,
    /// HEADERS with padding and a priority.
    pub(crate) adorned: bool,
    pub(crate) length: Length,
    /// Bytes of body in a DATA frame; 0 means as many as fit.
    pub(crate) data: usize,
    /// Bytes of padding in a DATA frame.
    pub(crate) padding: Option<u8>,
    /// An empty DATA frame behind each full one.
    pub(crate) gaps: bool,
    pub(crate) noise: Noise,
    pub(crate) settings: Settings,
    pub(crate) goaway: GoAway,
    pub(crate) end: H2End,
}

/// How header fields are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hpack {
    Literal,
    NeverIndexed,
    /// Into the dynamic table, again and again, so that it overflows.
    Incremental,
    /// The dynamic table shrunk to nothing and grown again in front.
    Resized,
}

/// Whether content-length is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// Where there are no events.
    AsIs,
    Announced,
    Omitted,
}

/// Frames between an answer's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noise {
    Silence,
    Ping,
    /// Of unknown types, and PRIORITY.
    Unknown,
    /// WINDOW_UPDATE for the connection and for this stream, though its request is whole.
    Windows,
}

/// SETTINGS sent in front of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settings {
    Unchanged,
    Empty,
    OneStream,
    /// For a tenth of a second.
    NoStreams,
    ManyStreams,
    SmallWindow,
    /// Each stream's window is opened by WINDOW_UPDATE alone.
    ZeroWindow,
    LargeWindow,
    LargeFrames,
    NoTable,
    LargeTable,
    Unknown,
}

/// GOAWAY around an answer. The connection is closed when its streams have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GoAway {
    No,
    /// NO_ERROR, this stream among those that go on.
    Before,
    Middle,
    After,
    /// First for all streams there can be, then for those that there are.
    Twice,
    /// ENHANCE_YOUR_CALM, this stream among those that go on.
    CalmBefore,
    /// NO_ERROR, and this stream is not among those that were processed.
    Below,
    CalmBelow,
}

/// How an HTTP/2 answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum H2End {
    /// END_STREAM on the last DATA frame.
    OnData,
    /// In a DATA frame of its own.
    Empty,
    /// The same, so many milliseconds later.
    EmptyLate(u64),
    Trailers,
    TrailersLate(u64),
    /// END_STREAM, and RST_STREAM behind it.
    EndThenReset(u32),
    /// RST_STREAM in place of HEADERS.
    ResetBefore(u32),
    /// RST_STREAM in place of END_STREAM.
    Reset(u32),
    /// The connection ends in place of END_STREAM: behind a GOAWAY or not, with TLS's close_notify or without.
    Close {
        goaway: Option<u32>,
        notify: bool,
    },
    /// The connection ends in place of HEADERS.
    CloseBefore {
        goaway: Option<u32>,
        notify: bool,
    },
}

impl H2 {
    pub(crate) const PLAIN: H2 = H2 {
        interim: &[],
        fields: Fields::AsTheyAre,
        hpack: Hpack::Literal,
        block: 0,
        adorned: false,
        length: Length::AsIs,
        data: 0,
        padding: None,
        gaps: false,
        noise: Noise::Silence,
        settings: Settings::Unchanged,
        goaway: GoAway::No,
        end: H2End::OnData,
    };
}
