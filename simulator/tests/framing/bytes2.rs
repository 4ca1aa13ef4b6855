//! HTTP/2 answers frame by frame.

use simulator::Ended;
use simulator::framing::{self, Framing, Verdict};

use crate::client::{CONVERSE, ROADS, STREAM};
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, H2, HEADERS, PADDED, PING, PRIORITY, Peer, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, answer, blocks, body, exchange, framed, is_answers, value,
};

#[tokio::test(flavor = "multi_thread")]
async fn frames_tell_whole_answers_from_others() {
    let mut tasks = tokio::task::JoinSet::new();
    for road in &ROADS[2..] {
        for call in [CONVERSE, STREAM] {
            let whole = body(&answer("plain", call).await);
            assert!(!whole.is_empty());
            for framing in framing::ALL.iter().filter(|framing| framing.fits(true, road.tls, call.stream)) {
                let whole = whole.clone();
                tasks.spawn(async move { judge(*framing, &exchange(&framing.to_string(), *road, call).await, &whole) });
            }
        }
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
}

fn judge(framing: Framing, all: &[Frame], whole: &[u8]) {
    let name = framing.to_string();
    let frames: Vec<Frame> = all.iter().filter(|frame| is_answers(frame)).cloned().collect();
    let ends = frames.iter().filter(|frame| frame.kind <= HEADERS && frame.has(END_STREAM)).count();
    let resets: Vec<u32> =
        frames.iter().filter(|frame| frame.kind == RST_STREAM).map(|frame| frame.number(0)).collect();
    let lasts: Vec<u32> = all.iter().filter(|frame| frame.kind == GOAWAY).map(|frame| frame.number(0)).collect();
    let blocks = blocks(&frames);
    let length = blocks.last().and_then(|fields| value(fields, "content-length")).map(|length| length.parse().unwrap());
    let body = body(&frames);
    let has_head = blocks.iter().any(|fields| value(fields, ":status").is_some_and(|status| !status.starts_with('1')));
    match framing.verdict() {
        Verdict::Whole => {
            assert!(ends == 1 && body == whole, "{name}");
            assert_eq!(resets, if name == "h2-end-then-rst" { vec![0] } else { vec![] }, "{name}");
            assert!(lasts.iter().all(|last| *last >= 1), "{name}");
        }
        Verdict::Broken if name.starts_with("events-") => assert!(ends == 1 && body != whole, "{name}"),
        Verdict::Broken if name == "h2-end-early-length" => {
            assert!(ends == 1 && body.len() < length.unwrap(), "{name}");
        }
        Verdict::Broken => assert_eq!(ends, 0, "{name}"),
        Verdict::Either => assert!(ends == 0 && length == Some(whole.len()) && whole.starts_with(&body), "{name}"),
        Verdict::Unprocessed => {
            assert!(!has_head && body.is_empty(), "{name}");
            assert!(resets == [7] || lasts == [0], "{name}");
        }
        Verdict::Unfinished => assert!(ends == 1 && body.len() < whole.len(), "{name}"),
        Verdict::Empty => assert!(ends == 1 && body.is_empty(), "{name}"),
        Verdict::Early | Verdict::NextUnprocessed => assert_eq!(ends, 1, "{name}"),
    }
    let Some((code, place)) = reset_of(&name) else { return };
    assert_eq!(resets, [code], "{name}");
    assert_eq!(frames.last().map(|frame| frame.kind), Some(RST_STREAM), "{name}");
    match place {
        "before" => assert!(!has_head, "{name}"),
        "middle" => assert!(has_head && body.len() == whole.len() / 2, "{name}"),
        "between" => assert!(simulator::eventstream::decode_all(&body).is_ok_and(|events| events.len() > 2), "{name}"),
        _ => assert!(body == whole, "{name}"),
    }
}

/// The code and the place that the name of a reset tells.
fn reset_of(name: &str) -> Option<(u32, &str)> {
    const CODES: [&str; 14] = [
        "no-error",
        "protocol-error",
        "internal-error",
        "flow-control-error",
        "settings-timeout",
        "stream-closed",
        "frame-size-error",
        "refused-stream",
        "cancel",
        "compression-error",
        "connect-error",
        "enhance-your-calm",
        "inadequate-security",
        "http-1-1-required",
    ];
    let rest = name.strip_prefix("h2-rst-")?;
    let code = CODES.iter().position(|code| rest.starts_with(code))?;
    Some((code as u32, rest.strip_prefix(CODES[code])?.trim_start_matches('-')))
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_are_written_as_named() {
    let data = |frames: &[Frame]| -> Vec<Frame> { frames.iter().filter(|frame| frame.kind == DATA).cloned().collect() };
    for (name, size) in [("h2-data-1", 1), ("h2-data-2", 2), ("h2-data-7", 7), ("h2-data-50", 50)] {
        let frames = data(&answer(name, CONVERSE).await);
        let (last, others) = frames.split_last().unwrap();
        assert!(others.iter().all(|frame| frame.payload.len() == size && !frame.has(END_STREAM)), "{name}");
        assert!(last.has(END_STREAM) && !last.payload.is_empty() && last.payload.len() <= size, "{name}");
    }
    for name in ["h2-empty-end", "h2-empty-end-no-length", "h2-empty-end-late", "h2-empty-end-late-no-length"] {
        for call in [CONVERSE, STREAM] {
            let frames = answer(name, call).await;
            let last = frames.last().unwrap();
            assert!(last.kind == DATA && last.payload.is_empty() && last.flags == END_STREAM, "{name}");
            let length = value(&blocks(&frames)[0], "content-length").map(|length| length.parse().unwrap());
            assert_eq!(length, (!name.ends_with("no-length")).then(|| body(&frames).len()), "{name}");
        }
    }
    for name in ["h2-trailers", "h2-trailers-length", "h2-trailers-late"] {
        let frames = answer(name, STREAM).await;
        let last = frames.last().unwrap();
        assert!(last.kind == HEADERS && last.has(END_STREAM), "{name}");
        assert_eq!(value(&blocks(&frames)[1], "x-amzn-simulator-trailer"), Some("behind the body"));
    }
    let padded = data(&answer("h2-padding-255", CONVERSE).await);
    assert!(padded.iter().all(|frame| frame.has(PADDED) && frame.payload.len() == 257));
    assert!(data(&answer("h2-padding-0", CONVERSE).await).iter().all(|frame| frame.payload[0] == 0));
    let gaps = data(&answer("h2-gaps", CONVERSE).await);
    assert!(gaps.iter().any(|frame| frame.payload.is_empty()) && !gaps.last().unwrap().payload.is_empty());
    let frames = answer("h2-headers-only", CONVERSE).await;
    assert!(frames.len() == 1 && frames[0].kind == HEADERS && frames[0].has(END_STREAM));
    let frames = answer("h2-continuation", CONVERSE).await;
    assert!(frames.iter().filter(|frame| frame.kind == CONTINUATION).count() > 1);
    assert!(frames.iter().filter(|frame| frame.kind == CONTINUATION).all(|frame| frame.payload.len() <= 60));
    let adorned = answer("h2-headers-adorned", CONVERSE).await;
    assert!(adorned[0].has(PADDED) && adorned[0].has(0x20));
    let interim = blocks(&answer("h2-102-103", CONVERSE).await);
    let statuses: Vec<_> = interim.iter().map(|fields| value(fields, ":status").unwrap()).collect();
    assert_eq!(statuses, ["102", "103", "200"]);
    let doubled = &blocks(&answer("h2-fields-doubled", CONVERSE).await)[0];
    assert_eq!(doubled.iter().filter(|(name, _)| name == "x-amzn-simulator-twice").count(), 6);
    assert_eq!(doubled[0].0, ":status", "pseudo-headers come first");
    assert_eq!(answer("h2-table-resized", CONVERSE).await[0].payload[0], 0x20);
    assert_eq!(answer("h2-never-indexed", CONVERSE).await[0].payload[0], 0x10);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_treated_as_named() {
    let kinds = |frames: &[Frame], kind| -> Vec<Frame> {
        // The first SETTINGS, and the acknowledgement of ours, come with every connection.
        frames.iter().filter(|frame| frame.kind == kind && !(kind == SETTINGS && frame.has(1))).cloned().collect()
    };
    let frames = exchange("h2-ping", H2, CONVERSE).await;
    assert!(!kinds(&frames, PING).is_empty());
    let frames = exchange("h2-unknown-frames", H2, CONVERSE).await;
    assert!(!kinds(&frames, 0xbb).is_empty() && !kinds(&frames, PRIORITY).is_empty());
    for (name, id, values) in [
        ("h2-settings-streams-1", 3, vec![1]),
        ("h2-settings-streams-0", 3, vec![0, 100]),
        ("h2-settings-window-100", 4, vec![100]),
        ("h2-settings-window-0", 4, vec![0]),
        ("h2-settings-frame-1m", 5, vec![1024 * 1024]),
        ("h2-settings-table-0", 1, vec![0]),
        ("h2-settings-unknown", 0x1a1a, vec![0xffff_ffff]),
    ] {
        let settings = kinds(&exchange(name, H2, CONVERSE).await, SETTINGS);
        let sent: Vec<u32> = settings[1..].iter().map(|frame| frame.number(2)).collect();
        assert!(settings[1..].iter().all(|frame| frame.payload[..2] == u16::to_be_bytes(id)), "{name}");
        assert_eq!(sent, values, "{name}");
    }
    for (name, goaways) in [
        ("h2-goaway-before", vec![(1, 0)]),
        ("h2-goaway-middle", vec![(1, 0)]),
        ("h2-goaway-after", vec![(1, 0)]),
        ("h2-goaway-twice", vec![(0x7fff_ffff, 0), (1, 0)]),
        ("h2-goaway-calm-before", vec![(1, 0xb)]),
        ("h2-goaway-calm-below", vec![(0, 0xb)]),
        ("h2-calm-close-middle", vec![(1, 0xb)]),
    ] {
        let frames = exchange(name, H2, CONVERSE).await;
        let sent: Vec<(u32, u32)> =
            kinds(&frames, GOAWAY).iter().map(|frame| (frame.number(0), frame.number(4))).collect();
        assert_eq!(sent, goaways, "{name}");
    }
}

#[tokio::test]
async fn the_clients_windows_are_kept() {
    for name in ["plain", "h2-padding", "h2-trailers"] {
        let simulator = framed(name).await;
        let mut peer = Peer::new(&simulator, H2, &[(4, 20)]).await;
        peer.request(1, CONVERSE).await;
        let mut frames = peer.frames().await;
        let sent = |frames: &[Frame]| -> usize {
            frames.iter().filter(|frame| frame.kind == DATA).map(|frame| frame.payload.len()).sum()
        };
        assert!((1..=20).contains(&sent(&frames)), "{name}: {}", sent(&frames));
        peer.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 60]).await;
        frames.extend(peer.frames().await);
        assert!((41..=60).contains(&sent(&frames)), "{name}: {}", sent(&frames));
        peer.send(WINDOW_UPDATE, 0, 1, &100_000_u32.to_be_bytes()).await;
        frames.extend(peer.frames().await);
        let frames: Vec<Frame> = frames.into_iter().filter(is_answers).collect();
        assert!(frames.last().unwrap().has(END_STREAM), "{name}");
        assert!(simulator.requests()[0].sent_whole, "{name}");
    }
}

#[tokio::test]
async fn fewer_streams_are_enforced_once_acknowledged() {
    let simulator = framed("h2-settings-streams-1").await;
    simulator.gate().close();
    let mut peer = Peer::new(&simulator, H2, &[]).await;
    peer.request(1, STREAM).await;
    let settled = |frame: &Frame| frame.kind == SETTINGS && frame.payload == [0, 3, 0, 0, 0, 1];
    peer.until(settled).await;
    peer.request(3, CONVERSE).await;
    let frames = peer.until(|frame| frame.stream == 3 && frame.kind == RST_STREAM).await;
    assert_eq!(frames.last().unwrap().number(0), 7);
    let tally = simulator.connections().remove(0);
    assert_eq!((tally.over_limit, tally.requests, tally.violation), (1, 2, None));
    assert_eq!(simulator.requests().len(), 1, "what is refused is not processed");
    simulator.gate().open();
    peer.until(|frame| frame.stream == 1 && frame.has(END_STREAM) && frame.kind == DATA).await;
    peer.request(5, CONVERSE).await;
    peer.until(|frame| frame.stream == 5 && frame.has(END_STREAM) && frame.kind == DATA).await;
}

#[tokio::test]
async fn streams_above_a_goaway_are_not_processed_and_those_below_go_on() {
    let simulator = framed("plain").await;
    simulator.gate().close();
    let mut peer = Peer::new(&simulator, H2, &[]).await;
    peer.request(1, STREAM).await;
    peer.until(|frame| frame.stream == 1 && frame.kind == HEADERS).await;
    simulator.set_framing(Some("h2-goaway-below".parse::<Framing>().unwrap().into()));
    peer.request(3, CONVERSE).await;
    let frames = peer.until(|frame| frame.kind == GOAWAY).await;
    assert_eq!(frames.last().unwrap().number(0), 1);
    peer.request(5, CONVERSE).await;
    simulator.gate().open();
    let rest = peer.frames().await;
    assert!(rest.iter().any(|frame| frame.stream == 1 && frame.has(END_STREAM)));
    assert!(rest.iter().all(|frame| frame.stream < 3));
    let requests = simulator.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!((requests[0].ended, requests[1].ended), (Ended::Completed, Ended::Cut));
}

#[tokio::test]
async fn an_early_answer_waits_for_no_body() {
    for name in ["h2-early", "h2-early-rst"] {
        let simulator = framed(name).await;
        let mut peer = Peer::new(&simulator, H2, &[]).await;
        peer.head(1, CONVERSE).await;
        let frames = peer.frames().await;
        assert_eq!(value(&blocks(&frames)[0], ":status"), Some("413"));
        assert_eq!(frames.last().unwrap().kind == RST_STREAM, name.ends_with("rst"));
        peer.send(DATA, END_STREAM, 1, CONVERSE.body.as_bytes()).await;
        assert_eq!(simulator.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_told_so() {
    let simulator = framed("plain").await;
    let mut peer = Peer::new(&simulator, H2, &[]).await;
    peer.send(CONTINUATION, END_HEADERS, 1, b"").await;
    let frames = peer.until(|frame| frame.kind == GOAWAY).await;
    assert_eq!(frames.last().unwrap().number(4), 1);
    assert_eq!(simulator.connections()[0].violation.as_deref(), Some("CONTINUATION out of place"));
}

#[tokio::test]
async fn a_reset_stops_an_answer_that_waits_for_its_window() {
    let simulator = framed("plain").await;
    let mut peer = Peer::new(&simulator, H2, &[(4, 1)]).await;
    peer.request(1, CONVERSE).await;
    peer.until(|frame| frame.kind == DATA).await;
    peer.send(RST_STREAM, 0, 1, &8_u32.to_be_bytes()).await;
    peer.send(PING, 0, 0, b"anything").await;
    peer.until(|frame| frame.kind == PING && frame.has(1)).await;
    let record = simulator.requests().remove(0);
    assert_eq!((record.client_reset, record.cancelled_whole, record.bytes_sent), (Some(8), false, 1));
}
