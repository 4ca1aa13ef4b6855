//! `[listen.tls]`: a reload reads its files at once, and a file that cannot be used changes nothing.

use http::Method;
use serde_json::json;
use test_support::*;
use tokio::net::TcpStream;

use super::{RELOADED, ask, count, free, refusal};
use crate::callers::certificates::{Pki, tls_port};

const CALLERS: &str = "[[callers]]\nname = \"app\"\ncertificate_names = [\"DNS:app.internal\"]\n\
                       [policy]\nrequire_known_caller = true";

fn pki(server: &str) -> Pki {
    let pki = Pki::new();
    pki.issue("server", server, "localhost");
    pki.issue("app", "app", "app.internal");
    pki
}

/// The same, and a certificate and a CA that the daemon has not seen yet.
async fn reload(daemon: &Daemon) {
    let before = count(daemon, RELOADED);
    daemon.signal("HUP");
    eventually("the reload", || count(daemon, RELOADED) > before).await;
}

/// The files change under their names, server's certificate and clients' CA.
#[tokio::test]
async fn new_files_hold_for_new_connections_at_once() {
    let bedrock = bedrock().await;
    let (old, new) = (pki("first"), pki("second"));
    let daemon = Setup::plain(&bedrock).listen(&old.listen("127.0.0.1:0")).with(CALLERS).ready().await;
    let port = tls_port(&daemon);
    let (mut kept, first) = old.connect(port, Some("app")).await.unwrap();
    let answer = kept.send(ask("before")).await;
    assert_eq!((answer.status, &daemon.record_of(&answer).await["caller"]), (200, &json!("app")));
    bedrock.gate().close();
    let (mut streaming, _) = old.connect(port, Some("app")).await.unwrap();
    let asked = request(Method::POST, &stream_path(ON_DEMAND), converse("events 12"));
    let mut stream = Reader::new(streaming.start(asked).await.unwrap());

    for name in ["ca.pem", "server.pem", "server.key"] {
        std::fs::copy(new.folder().join(name), old.folder().join(name)).unwrap();
    }
    reload(&daemon).await;
    let (mut connection, second) = new.connect(port, Some("app")).await.unwrap();
    assert_ne!(second, first, "the next connection sees the new certificate");
    let answer = connection.send(ask("after")).await;
    let record = daemon.record_of(&answer).await;
    assert_eq!((answer.status, &record["caller"], &record["identityVerified"]), (200, &json!("app"), &json!(true)));
    // The old CA's clients are strangers now: their certificate is none, wherever TLS says so.
    for name in ["app.pem", "app.key"] {
        std::fs::copy(old.folder().join(name), new.folder().join(name.replace("app", "removed"))).unwrap();
    }
    if let Ok((mut connection, _)) = new.connect(port, Some("removed")).await {
        connection.start(ask("removed")).await.expect_err("TLS 1.3 tells a client late that it is refused");
    }
    // What was connected goes on, as whom it was known.
    let answer = kept.send(ask("on the old one")).await;
    assert_eq!((answer.status, &daemon.record_of(&answer).await["caller"]), (200, &json!("app")));
    bedrock.gate().open();
    stream.end().await.unwrap();
    assert_eq!(daemon.record_with_id(&stream.request_id).await["outcome"], "completed");
    assert_eq!(received(&bedrock, "Converse").len(), 3);
}

/// One after the other: a certificate that is none, a key of another one, no CA.
#[tokio::test]
async fn files_that_cannot_be_used_refuse_the_reload() {
    let bedrock = bedrock().await;
    let pki = pki("first");
    pki.issue("other", "other", "localhost");
    std::fs::write(pki.folder().join("empty.pem"), "nothing").unwrap();
    let daemon = Setup::plain(&bedrock).listen(&pki.listen("127.0.0.1:0")).with(CALLERS).ready().await;
    let port = tls_port(&daemon);
    let (_, first) = pki.connect(port, None).await.unwrap();
    let good = std::fs::read_to_string(daemon.config_path()).unwrap();
    let new = free();
    for (old, bad, complaint) in [
        ("server.pem", "empty.pem", "it holds no PEM certificate."),
        ("server.key", "other.key", "it is not the key of the certificate "),
        ("ca.pem", "missing.pem", "No such file or directory"),
    ] {
        let text = good.replace(old, bad).replacen("[\"127.0.0.1:0\"]", &format!("[\"127.0.0.1:0\", \"{new}\"]"), 1);
        let reason = refusal(&daemon, &text).await;
        let sentence = format!("{} cannot be used: ", pki.folder().join(bad).display());
        assert!(reason.contains(&sentence) && reason.contains(complaint), "{reason}");
        assert_eq!(daemon.admin_get("/status").await.json()["reloadRefused"], json!(reason));
        assert!(TcpStream::connect(new).await.is_err(), "nothing of the new file holds");
        let (mut connection, seen) = pki.connect(port, Some("app")).await.unwrap();
        assert_eq!(seen, first);
        let answer = connection.send(ask("as before")).await;
        assert_eq!((answer.status, &daemon.record_of(&answer).await["caller"]), (200, &json!("app")));
    }
}
