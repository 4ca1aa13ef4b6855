//! Several users at once, each within what one user may have.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::Instant;

use test_support::users::{can_be_others, this_test_as};
use test_support::*;

use super::{PATIENCE, is_served};

const CROWD: [u32; 3] = [61_031, 61_032, 61_033];

/// Not a test of its own: one of the crowd. It opens connections with the beginning of a request, opens others in place of
/// those that are closed, and leaves when its input ends.
#[test]
fn one_of_the_crowd() {
    let Ok(server) = std::env::var("E2E_CROWD") else { return };
    let server: SocketAddr = server.parse().unwrap();
    for _ in 0..30 {
        std::thread::spawn(move || {
            let begun = std::env::var("E2E_CROWD_SENDS").unwrap();
            let open = || {
                let mut stream = TcpStream::connect(server)?;
                stream.write_all(begun.as_bytes())?;
                Ok::<_, std::io::Error>(stream)
            };
            loop {
                if let Ok(mut stream) = open() {
                    while stream.read(&mut [0; 100]).is_ok_and(|read| read > 0) {}
                }
                std::thread::park_timeout(std::time::Duration::from_millis(10));
            }
        });
    }
    let _ = std::io::stdin().read(&mut [0]);
}

/// Each with the beginning of a request of its own.
fn crowd(server: SocketAddr, sends: [&str; 3]) -> Vec<Leaves> {
    let users = CROWD.iter().zip(sends);
    users
        .map(|(uid, sends)| {
            let mut one = this_test_as(*uid, "hostile::crowd::one_of_the_crowd");
            let one = one.env("E2E_CROWD", server.to_string()).env("E2E_CROWD_SENDS", sends);
            Leaves(one.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
        })
        .collect()
}

async fn holds(daemon: &Daemon, listener: &str, most: f64) {
    until_async("all places to be taken", || async {
        let page = daemon.metrics().await;
        let taken = metric(&page, &format!("bedrock_sidecar_connections{{listener=\"{listener}\"}}"))?;
        (taken >= most).then_some(())
    })
    .await;
}

#[tokio::test]
async fn users_who_hold_all_places_together_shut_out_nobody() {
    if !can_be_others("users_who_hold_all_places_together_shut_out_nobody") {
        return;
    }
    let bedrock = bedrock().await;
    let listen = "addresses = [\"127.0.0.1:0\"]\nadmin_address = \"127.0.0.1:0\"\nmax_connections = 8\n";
    let daemon = Setup::plain(&bedrock).listen(listen).ready().await;
    let body =
        format!("POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{{", converse_path(ON_DEMAND));
    let crowd = crowd(daemon.address(), [body.as_str(); 3]);
    holds(&daemon, "main", 8.0).await;
    for _ in 0..10 {
        is_served(&daemon, "while all places are taken").await;
    }
    drop(crowd);
}

/// Each of the crowd has less than what one user may have, and together they have all places, in three ways.
#[tokio::test]
async fn users_who_hold_all_places_of_the_admin_address_hide_it_from_nobody() {
    if !can_be_others("users_who_hold_all_places_of_the_admin_address_hide_it_from_nobody") {
        return;
    }
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let crowd = crowd(daemon.admin, ["", "GET /health HTT", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]);
    holds(&daemon, "admin", 64.0).await;
    for _ in 0..10 {
        for path in ["/health", "/ready", "/metrics"] {
            let began = Instant::now();
            let answer = daemon.admin_get(path).await;
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
            assert!(began.elapsed() < PATIENCE, "{path}: {:?}", began.elapsed());
        }
    }
    is_served(&daemon, "while all places of the admin address are taken").await;
    drop(crowd);
}

/// A child that ends with the test.
struct Leaves(Child);

impl Drop for Leaves {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
