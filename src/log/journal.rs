//! Events in the journal's own form (systemd.io/JOURNAL_NATIVE_PROTOCOL), as datagrams for the log's one writer. The fields
//! are those that the crate tracing-journald gives them, which sends from the thread that logs and waits where the journal
//! does not keep up.

use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::queue::To;
use super::text::MOST_OF_A_FIELD;

const SOCKET: &str = "/run/systemd/journal/socket";
const IDENTIFIER: &str = "bedrock-sidecar";

/// A socket to send to the journal from, if there is one. Nothing is waited for.
pub(super) fn socket() -> io::Result<UnixDatagram> {
    socket_to(Path::new(SOCKET))
}

/// The journal takes an empty message without a word. One whose queue is full is there too.
fn socket_to(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match socket.send_to(&[], path) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
        _ => {}
    }
    // The writer's thread waits.
    socket.set_nonblocking(false)?;
    Ok(socket)
}

/// Sends one message. The journal may have been started anew since the last one.
pub(super) fn send(socket: &UnixDatagram, message: &[u8]) -> io::Result<()> {
    socket.send_to(message, SOCKET).map(drop)
}

/// Makes messages of events.
#[derive(Debug)]
pub(super) struct Messages;

impl<S: Subscriber> Layer<S> for Messages {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        super::QUEUE.push(To::Journal, message(event));
    }
}

fn message(event: &Event<'_>) -> Vec<u8> {
    let metadata = event.metadata();
    let priority = match *metadata.level() {
        Level::ERROR => "3",
        Level::WARN => "4",
        // Of the journal's levels, `notice` is the one for what is normal and worth knowing.
        Level::INFO => "5",
        _ => "6",
    };
    let mut fields = Fields(Vec::with_capacity(512));
    fields.put("PRIORITY", priority);
    fields.put("SYSLOG_IDENTIFIER", IDENTIFIER);
    fields.put("TARGET", metadata.target());
    if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
        fields.put("CODE_FILE", file);
        fields.put("CODE_LINE", line);
    }
    event.record(&mut fields);
    fields.0
}

struct Fields(Vec<u8>);

impl Fields {
    /// A field's name, its length, its value: so a value may hold whatever it likes.
    fn put(&mut self, name: &str, value: impl fmt::Display) {
        self.0.extend_from_slice(name.as_bytes());
        self.put_value(value);
    }

    fn put_value(&mut self, value: impl fmt::Display) {
        self.0.push(b'\n');
        let at = self.0.len();
        self.0.extend_from_slice(&[0; 8]);
        let mut bounded = Bounded { to: &mut self.0, left: MOST_OF_A_FIELD };
        // A value that is too long is cut; nothing else can fail.
        let _ = write!(bounded, "{value}");
        let length = (self.0.len() - at - 8) as u64;
        self.0[at..at + 8].copy_from_slice(&length.to_le_bytes());
        self.0.push(b'\n');
    }

    fn put_field(&mut self, field: &Field, value: impl fmt::Display) {
        match field.name() {
            "message" => self.put("MESSAGE", value),
            name => {
                self.0.extend_from_slice(b"F_");
                self.0.extend(name.bytes().map(|byte| byte.to_ascii_uppercase()));
                self.put_value(value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_field(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_field(field, format_args!("{value:?}"));
    }
}

struct Bounded<'a> {
    to: &'a mut Vec<u8>,
    left: usize,
}

impl fmt::Write for Bounded<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let shown = &text[..text.floor_char_boundary(self.left)];
        self.to.extend_from_slice(shown.as_bytes());
        self.left -= shown.len();
        if shown.len() == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            *self.0.lock().unwrap() = message(event);
        }
    }

    /// The fields of a message, as the journal reads them.
    fn fields(event: impl FnOnce()) -> BTreeMap<String, String> {
        let kept = Arc::new(Mutex::default());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Kept(Arc::clone(&kept))), event);
        let message = kept.lock().unwrap().clone();
        let (mut rest, mut fields) = (&message[..], BTreeMap::new());
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let (name, tail) = (&rest[..at], &rest[at + 1..]);
            let (length, tail) = tail.split_first_chunk::<8>().unwrap();
            let (value, tail) = tail.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            assert!(fields.insert(text(name), text(value)).is_none(), "twice");
            rest = tail.strip_prefix(b"\n").unwrap();
        }
        assert!(rest.is_empty());
        fields
    }

    #[test]
    fn fields_are_those_that_the_journal_has_had() {
        let evil = "a\nPRIORITY=0\né";
        let fields = fields(|| tracing::info!(model = %evil, chainId = evil, count = 3, on = true, "a {evil} b"));
        let expected = [
            ("PRIORITY", "5"),
            ("SYSLOG_IDENTIFIER", "bedrock-sidecar"),
            ("TARGET", module_path!()),
            ("CODE_FILE", file!()),
            ("MESSAGE", "a a\nPRIORITY=0\né b"),
            ("F_MODEL", evil),
            ("F_CHAINID", evil),
            ("F_COUNT", "3"),
            ("F_ON", "true"),
        ];
        for (name, value) in expected {
            assert_eq!(fields.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert_eq!(fields.len(), expected.len() + 1, "and CODE_LINE: {fields:?}");
    }

    #[test]
    fn a_journal_whose_queue_is_full_is_found_without_a_wait() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        assert_eq!(socket_to(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let journal = UnixDatagram::bind(&path).unwrap();
        let crowd = UnixDatagram::unbound().unwrap();
        crowd.set_nonblocking(true).unwrap();
        while crowd.send_to(b"x", &path).is_ok() {}
        let (tell, told) = std::sync::mpsc::channel();
        let probe = path.clone();
        std::thread::spawn(move || tell.send(socket_to(&probe)));
        let socket = told.recv_timeout(std::time::Duration::from_secs(20)).unwrap().unwrap();
        let flags = rustix::fs::fcntl_getfl(&socket).unwrap();
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "the log's writer waits");
        drop(journal);
        assert_eq!(socket_to(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_value_is_bounded_and_stays_text() {
        let long = "é".repeat(1_000_000);
        let fields = fields(|| tracing::warn!(model = %format!("x{long}"), said = long, "request"));
        assert_eq!(fields["F_MODEL"].len(), MOST_OF_A_FIELD - 1);
        assert_eq!(fields["F_SAID"].len(), MOST_OF_A_FIELD);
        assert_eq!(fields["PRIORITY"], "4");
    }
}
