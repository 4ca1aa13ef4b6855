//! What is to be written to the log, and the one thread that writes it. Whoever logs never waits: where nobody reads the log,
//! lines are kept up to a bound, and further ones are lost and counted.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// So many bytes wait to be written at most.
const MOST: usize = 4 * 1024 * 1024;
/// What a line takes in memory beside its text, about.
const BESIDE: usize = 64;
/// So many bytes are written at once at most, unless one line has more: what a pipe takes in one piece (`PIPE_BUF`), so that
/// lines stay whole where several programs write to it.
const AT_ONCE: usize = 4096;

/// Where a line goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// The standard error.
    Stderr,
    /// The journal's socket.
    Journal,
}

/// The lines that wait.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    emptied: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    lines: VecDeque<(To, Vec<u8>)>,
    bytes: usize,
    /// The writer sleeps.
    idle: bool,
    /// The writer has taken lines that it has not written yet.
    writing: bool,
    /// Lines that were lost since the log last said so.
    unsaid: u64,
}

impl Queue {
    pub(super) const fn new() -> Queue {
        let waiting = Waiting { lines: VecDeque::new(), bytes: 0, idle: false, writing: false, unsaid: 0 };
        Queue {
            waiting: Mutex::new(waiting),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Takes a line, or a datagram for the journal. If there is no room, it is lost.
    pub(super) fn push(&self, to: To, line: Vec<u8>) {
        let mut waiting = self.lock();
        let bytes = waiting.bytes + line.len() + BESIDE;
        if bytes > MOST {
            waiting.unsaid += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.bytes = bytes;
        waiting.lines.push_back((to, line));
        if std::mem::take(&mut waiting.idle) {
            drop(waiting);
            self.filled.notify_one();
        }
    }

    /// How many lines were lost so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, no longer than `patience`.
    pub(super) fn finish(&self, patience: Duration) {
        let unwritten = |waiting: &mut Waiting| waiting.writing || !waiting.lines.is_empty();
        drop(self.emptied.wait_timeout_while(self.lock(), patience, unwritten));
    }

    /// Writes what comes, for ever. Once half of the room is free again, `say` is told how many lines were lost.
    pub(super) fn write_with(&self, mut write: impl FnMut(To, &[u8]) -> io::Result<()>, say: impl Fn(u64)) {
        let mut batch = Vec::new();
        loop {
            let (to, count) = self.take(&mut batch);
            let written = write(to, &batch);
            if let Some(lost) = self.wrote(written.is_ok(), count) {
                say(lost);
            }
        }
    }

    /// Waits for lines and moves those into `batch` that are written at once. Returns where they go, and how many they are.
    fn take(&self, batch: &mut Vec<u8>) -> (To, u64) {
        batch.clear();
        let mut waiting = self.lock();
        loop {
            if let Some((to, line)) = waiting.lines.pop_front() {
                waiting.writing = true;
                waiting.bytes -= line.len() + BESIDE;
                batch.extend_from_slice(&line);
                let mut count = 1;
                while to == To::Stderr
                    && let Some((_, line)) =
                        waiting.lines.pop_front_if(|(next, line)| *next == to && batch.len() + line.len() <= AT_ONCE)
                {
                    waiting.bytes -= line.len() + BESIDE;
                    batch.extend_from_slice(&line);
                    count += 1;
                }
                return (to, count);
            }
            waiting.idle = true;
            waiting = self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The lines that were taken are written, or could not be. Returns how many are to be called lost.
    fn wrote(&self, well: bool, count: u64) -> Option<u64> {
        let mut waiting = self.lock();
        waiting.writing = false;
        if !well {
            waiting.unsaid += count;
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
        if waiting.lines.is_empty() {
            self.emptied.notify_all();
        }
        let is_due = well && waiting.unsaid > 0 && waiting.bytes <= MOST / 2;
        is_due.then(|| std::mem::take(&mut waiting.unsaid))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::thread;

    use super::*;

    /// What is written, and the lines that are said to be lost.
    #[derive(Debug, PartialEq)]
    enum Seen {
        Written(To, String),
        Lost(u64),
    }

    /// A queue whose writer writes one batch for each `()` that it is given, or fails to.
    fn queue() -> (Arc<Queue>, mpsc::Sender<bool>, mpsc::Receiver<Seen>) {
        let queue = Arc::new(Queue::new());
        let (allow, allowed) = mpsc::channel();
        let (see, seen) = mpsc::channel();
        let of_writer = Arc::clone(&queue);
        thread::spawn(move || {
            let say = see.clone();
            of_writer.write_with(
                |to, bytes| {
                    let well = allowed.recv().unwrap_or(true);
                    let _ = see.send(Seen::Written(to, String::from_utf8(bytes.to_vec()).unwrap()));
                    if well { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
                },
                |lost| drop(say.send(Seen::Lost(lost))),
            );
        });
        (queue, allow, seen)
    }

    fn until_taken(queue: &Queue) {
        while !queue.lock().writing {
            thread::yield_now();
        }
    }

    #[test]
    fn lines_are_written_in_order_several_at_once_and_those_of_the_journal_alone() {
        let (queue, allow, seen) = queue();
        queue.push(To::Stderr, b"first\n".to_vec());
        until_taken(&queue);
        let long = "n".repeat(AT_ONCE);
        for (to, line) in [
            (To::Stderr, "a\n"),
            (To::Stderr, "b\n"),
            (To::Journal, "MESSAGE=c\n"),
            (To::Journal, "MESSAGE=d\n"),
            (To::Stderr, "e\n"),
            (To::Stderr, &long),
            (To::Stderr, "f\n"),
        ] {
            queue.push(to, line.as_bytes().to_vec());
        }
        drop(allow);
        queue.finish(Duration::from_secs(60));
        let expected = [
            (To::Stderr, "first\n"),
            (To::Stderr, "a\nb\n"),
            (To::Journal, "MESSAGE=c\n"),
            (To::Journal, "MESSAGE=d\n"),
            (To::Stderr, "e\n"),
            (To::Stderr, &long),
            (To::Stderr, "f\n"),
        ];
        let seen: Vec<Seen> = seen.try_iter().collect();
        assert_eq!(seen, expected.map(|(to, text)| Seen::Written(to, text.to_owned())));
        assert_eq!((queue.dropped(), queue.lock().bytes), (0, 0));
    }

    #[test]
    fn what_there_is_no_room_for_is_lost_and_said_once_there_is() {
        let (queue, allow, seen) = queue();
        let line = vec![b'x'; 1024 * 1024 - BESIDE];
        queue.push(To::Stderr, b"first\n".to_vec());
        until_taken(&queue);
        for _ in 0..7 {
            queue.push(To::Stderr, line.clone());
        }
        assert_eq!(queue.dropped(), 3, "four have room");
        queue.finish(Duration::from_millis(1));
        assert!(queue.lock().writing, "nobody waits for ever");
        allow.send(true).unwrap();
        let next = || seen.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(next(), Seen::Written(To::Stderr, "first\n".to_owned()));
        for written in 1..=4 {
            allow.send(true).unwrap();
            assert!(matches!(next(), Seen::Written(..)), "{written}");
            if written == 2 {
                assert_eq!(next(), Seen::Lost(3), "half of the room is free");
            }
        }
        queue.push(To::Stderr, b"last\n".to_vec());
        allow.send(false).unwrap();
        assert!(matches!(next(), Seen::Written(..)));
        queue.push(To::Stderr, b"again\n".to_vec());
        allow.send(true).unwrap();
        assert_eq!((next(), next()), (Seen::Written(To::Stderr, "again\n".to_owned()), Seen::Lost(1)));
        assert_eq!(queue.dropped(), 4, "what could not be written is lost too, and said when something could");
    }
}
