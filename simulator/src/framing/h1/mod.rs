//! An HTTP/1.1 server that writes its answers by hand.

mod answer;
mod read;

use std::sync::Arc;
use std::time::Duration;

use hyper::Version;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use super::shape::H1End;
use super::tally::OpenMark;
use crate::exchange::{self, Answered, Arrived, Connection};
use crate::state::State;
use answer::After;
use read::Reader;

/// How long a closing connection is read on, so that TCP does not take the answer back by a reset.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// Serves one connection to its end.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(state: Arc<State>, stream: S, connection: Connection) {
    state.tally.open(connection.number, false, connection.tls);
    let _open = OpenMark { tally: &state.tally, number: connection.number };
    let (read, write) = tokio::io::split(stream);
    tokio::select! {
        () = requests(&state, Reader::new(read), write, &connection) => {}
        () = connection.control.killed() => {}
    }
}

async fn requests<S: AsyncRead + AsyncWrite + Unpin>(
    state: &Arc<State>,
    mut reader: Reader<ReadHalf<S>>,
    mut writer: WriteHalf<S>,
    connection: &Connection,
) {
    let mut end = H1End::KeepAlive;
    loop {
        match wait(&mut reader, end, connection).await {
            Waited::Request => {}
            Waited::Close => return close(reader, writer).await,
            // Closed at once: the bytes that have come are not read, as by a server whose timer ran out.
            Waited::CloseUnder => return,
        }
        let Ok(Some(mut arrived)) = reader.head().await else {
            let _ =
                writer.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
            return close(reader, writer).await;
        };
        state.tally.update(connection.number, |tally| tally.requests += 1);
        let has_body = reader.expects_body(&arrived);
        let early = if has_body { exchange::answer_early(state, connection, &arrived, Version::HTTP_11) } else { None };
        let answered = match early {
            Some(answered) => answered,
            None => match whole(state, &mut reader, &mut writer, connection, &mut arrived).await {
                Some(answered) => answered,
                None => return,
            },
        };
        // Asked for by a fault, or by the whole simulator.
        let going_away = is_going_away(connection).await;
        let keeps_alive = arrived.keeps_alive() && !going_away;
        let after = tokio::select! {
            after = answer::write(state, connection, &mut writer, answered, keeps_alive) => after,
            // The client left: its answer's account is closed by being dropped.
            () = reader.until_closed() => return,
        };
        match after {
            _ if connection.control.talks_garbage() => return,
            Ok(After::Next(next)) => end = next,
            Ok(After::Close) => return close(reader, writer).await,
            Ok(After::Notify) => {
                let _ = writer.shutdown().await;
                return;
            }
            Ok(After::Drop) | Err(_) => return,
        }
    }
}

/// The answer to a request whose body is read first. `None` when the client left.
async fn whole<S: AsyncRead + AsyncWrite + Unpin>(
    state: &Arc<State>,
    reader: &mut Reader<ReadHalf<S>>,
    writer: &mut WriteHalf<S>,
    connection: &Connection,
    arrived: &mut Arrived,
) -> Option<Answered> {
    let expects = crate::auth::header(&arrived.headers, "expect").is_some_and(|value| value == "100-continue");
    if expects && !reader.has_some() {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
        writer.flush().await.ok()?;
    }
    reader.body(arrived).await.ok()?;
    let whole = arrived.clone();
    tokio::select! {
        answered = exchange::answer_to(state, connection, whole, Version::HTTP_11) => Some(answered),
        () = reader.until_closed() => None,
    }
}

enum Waited {
    Request,
    Close,
    CloseUnder,
}

/// Waits for the first bytes of a request, as long as the last answer's framing lets it.
async fn wait<R: AsyncRead + Unpin>(reader: &mut Reader<R>, end: H1End, connection: &Connection) -> Waited {
    let idle = async {
        match end {
            H1End::CloseIdle(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            _ => std::future::pending().await,
        }
    };
    let came = tokio::select! {
        came = reader.fill_some() => came,
        () = idle => return Waited::Close,
        () = connection.control.going_away() => return Waited::Close,
    };
    match (came, end) {
        (false, _) => Waited::Close,
        (true, H1End::CloseUnderNext) => Waited::CloseUnder,
        (true, _) => Waited::Request,
    }
}

async fn is_going_away(connection: &Connection) -> bool {
    tokio::select! {
        biased;
        () = connection.control.going_away() => true,
        () = std::future::ready(()) => false,
    }
}

/// Ends this side, and reads what the client still sends until it ends its own.
async fn close<S: AsyncRead + AsyncWrite + Unpin>(reader: Reader<ReadHalf<S>>, mut writer: WriteHalf<S>) {
    let _ = writer.shutdown().await;
    let mut rest = reader.into_inner();
    let drained = async {
        let mut scratch = [0; 4096];
        while rest.read(&mut scratch).await.is_ok_and(|read| read > 0) {}
    };
    let _ = tokio::time::timeout(LINGER, drained).await;
}
