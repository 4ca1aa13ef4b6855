//! Listeners that a reload cannot have: it is refused with a sentence, nothing of the new file holds, and what listened goes
//! on.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;

use serde_json::json;
use test_support::users::{as_user, can_be_others};
use test_support::*;
use tokio::net::TcpStream;

use super::{RELOADED, ask, count, free, listen, refusal};

/// A user without any right to what root has made.
const NOBODY: u32 = 61_003;

/// Requests are served as before, and nobody listens at `new`.
async fn goes_on(daemon: &Daemon, new: SocketAddr) {
    let answer = send(daemon.address(), ask("as before")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    assert!(TcpStream::connect(new).await.is_err(), "{new} is open though the reload was refused");
    assert_eq!(daemon.admin_get("/ready").await.status, 200);
}

#[tokio::test]
async fn an_address_that_is_taken() {
    let bedrock = bedrock().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (own, new) = (free().to_string(), free());
    let daemon = Setup::plain(&bedrock).listen(&listen(&[&own], "")).ready().await;
    let good = std::fs::read_to_string(daemon.config_path()).unwrap();
    let of_admin = good.replace("\"127.0.0.1:0\"", &format!("{address:?}"));
    for text in [
        good.replace(&listen(&[&own], ""), &listen(&[&new.to_string(), &address], "")),
        of_admin.replace(&format!("[{own:?}]"), &format!("[{own:?}, {:?}]", new.to_string())),
    ] {
        let reason = refusal(&daemon, &text).await;
        assert!(reason.starts_with(&format!("{address} cannot be listened on: ")), "{reason}");
        assert!(
            reason.ends_with("another process has this port (ss -ltnp shows which), or bedrock-sidecar runs already")
        );
        assert_eq!(daemon.admin_get("/status").await.json()["reloadRefused"], json!(reason));
        goes_on(&daemon, new).await;
    }
    drop(taken);
    std::fs::write(daemon.config_path(), good.replace(&own, &new.to_string())).unwrap();
    daemon.signal("HUP");
    eventually("a reload that can be used", || count(&daemon, RELOADED) == 1).await;
    assert_eq!(send(new, ask("the next one")).await.status, 200);
    assert_eq!(daemon.admin_get("/status").await.json()["reloadRefused"], json!(null));
}

#[tokio::test]
async fn a_unix_socket_whose_path_is_taken_or_leads_nowhere() {
    let bedrock = bedrock().await;
    let (own, new) = (free().to_string(), free());
    let daemon = Setup::plain(&bedrock).listen(&listen(&[&own], "")).ready().await;
    let good = std::fs::read_to_string(daemon.config_path()).unwrap();
    let path = |name: &str| daemon.directory.path().join(name);
    std::fs::write(path("file"), "precious").unwrap();
    let _served = UnixListener::bind(path("served")).unwrap();
    for (name, hint) in [
        ("file", "; another process serves it, or it is not a socket"),
        ("served", "; another process serves it, or it is not a socket"),
        ("no/such.sock", "; its directory does not exist (RuntimeDirectory= makes it under systemd)"),
    ] {
        let unix = format!("unix_socket = \"{}\"", path(name).display());
        let changed = listen(&[&own, &new.to_string()], &unix);
        let reason = refusal(&daemon, &good.replace(&listen(&[&own], ""), &changed)).await;
        assert!(reason.starts_with(&format!("{} cannot be listened on: ", path(name).display())), "{reason}");
        assert!(reason.ends_with(hint), "{reason}");
        goes_on(&daemon, new).await;
    }
    assert_eq!(std::fs::read_to_string(path("file")).unwrap(), "precious");
    std::os::unix::net::UnixStream::connect(path("served")).expect("the other process's socket is untouched");
}

#[tokio::test]
async fn a_unix_socket_where_the_daemon_may_not_write() {
    if !can_be_others("a_unix_socket_where_the_daemon_may_not_write") {
        return;
    }
    let bedrock = bedrock().await;
    let (own, new) = (free().to_string(), free());
    let setup = Setup::plain(&bedrock).listen(&listen(&[&own], ""));
    let config = setup.write();
    let roots = setup.path().join("roots");
    std::fs::create_dir(setup.path().join("state")).unwrap();
    for name in ["", "state", "secret", "config.toml"] {
        chown(setup.path().join(name), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    std::fs::create_dir(&roots).unwrap();
    std::fs::set_permissions(&roots, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut program = as_user(NOBODY, program().get_program());
    program.args(["run", "--config", &config]);
    let daemon = Daemon::spawn(program, [].into(), setup.directory).await;
    daemon.until_ready().await;
    let good = std::fs::read_to_string(&config).unwrap();
    let path = roots.join("a.sock");
    let changed = listen(&[&own, &new.to_string()], &format!("unix_socket = \"{}\"", path.display()));
    let reason = refusal(&daemon, &good.replace(&listen(&[&own], ""), &changed)).await;
    assert!(reason.starts_with(&format!("{} cannot be listened on: Permission denied", path.display())), "{reason}");
    assert!(reason.ends_with("; the daemon's user must be allowed to write in its directory"), "{reason}");
    goes_on(&daemon, new).await;
}
