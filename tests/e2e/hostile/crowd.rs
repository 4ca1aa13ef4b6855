//! Several users at once, each within what one user may have.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};

use test_support::users::{can_be_others, this_test_as};
use test_support::*;

use super::is_served;

const TEST: &str = "users_who_hold_all_places_together_shut_out_nobody";
const CROWD: [u32; 3] = [61_031, 61_032, 61_033];

/// Not a test of its own: one of the crowd. It opens connections with requests that do not come to their end, opens
/// others in place of those that are closed, and leaves when its input ends.
#[test]
fn one_of_the_crowd() {
    let Ok(server) = std::env::var("E2E_CROWD") else { return };
    let server: SocketAddr = server.parse().unwrap();
    let open = move || {
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{{",
            converse_path(ON_DEMAND)
        );
        let mut stream = TcpStream::connect(server)?;
        stream.write_all(head.as_bytes())?;
        Ok::<_, std::io::Error>(stream)
    };
    for _ in 0..30 {
        std::thread::spawn(move || {
            loop {
                if let Ok(mut stream) = open() {
                    let _ = stream.read(&mut [0; 100]);
                }
                std::thread::park_timeout(std::time::Duration::from_millis(10));
            }
        });
    }
    let _ = std::io::stdin().read(&mut [0]);
}

#[tokio::test]
async fn users_who_hold_all_places_together_shut_out_nobody() {
    if !can_be_others(TEST) {
        return;
    }
    let bedrock = bedrock().await;
    let listen = "addresses = [\"127.0.0.1:0\"]\nadmin_address = \"127.0.0.1:0\"\nmax_connections = 8\n";
    let daemon = Setup::plain(&bedrock).listen(listen).ready().await;
    let crowd = CROWD.map(|uid| {
        let mut one = this_test_as(uid, "hostile::crowd::one_of_the_crowd");
        let one = one.env("E2E_CROWD", daemon.address().to_string()).stdin(Stdio::piped()).stdout(Stdio::null());
        Leaves(one.spawn().unwrap())
    });
    until_async("all places to be taken", || async {
        let page = daemon.metrics().await;
        (metric(&page, "bedrock_sidecar_connections{listener=\"main\"}")? >= 8.0).then_some(())
    })
    .await;
    for _ in 0..10 {
        is_served(&daemon, "while all places are taken").await;
    }
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
