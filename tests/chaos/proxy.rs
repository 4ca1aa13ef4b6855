//! A TCP proxy between the daemon and an upstream, in which bytes are delayed, held, cut off or trickle.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use simulator::Ending;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of bytes and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    Fair,
    Delay {
        ms: u64,
    },
    /// Connections are accepted, and no byte passes on any.
    Silent,
    /// All connections are reset, and so are new ones.
    Resets,
    /// Each connection ends after so many bytes more in one direction.
    Cuts {
        after_bytes: usize,
        how: Ending,
    },
    Trickle {
        bytes_a_second: u64,
    },
}

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    weather: watch::Sender<Weather>,
    torn: watch::Sender<()>,
    deeds: Arc<Mutex<Deeds>>,
}

/// What a proxy has done to connections, by which failures are judged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deeds {
    /// Connections that came to the upstream from this port at the first time, and were ended at the second.
    ended: Vec<(u16, Instant, Instant)>,
    /// Every weather with its begin.
    weathers: Vec<(Weather, Instant)>,
}

/// Between two clocks that are read one after the other.
const BLUR: Duration = Duration::from_millis(50);

impl Deeds {
    /// Whether the connection from this port was ended that had carried something at this time.
    pub(crate) fn has_ended(&self, port: u16, at: Instant) -> bool {
        self.ended.iter().any(|(of, began, ended)| *of == port && *began <= at + BLUR && at <= *ended + BLUR)
    }

    /// The longest time between two moments in which no byte passed.
    pub(crate) fn longest_silence(&self, from: Instant, to: Instant) -> Duration {
        let ends = self.weathers.iter().skip(1).map(|(_, began)| *began).chain([to]);
        let spells = self.weathers.iter().zip(ends).filter(|((weather, _), _)| *weather == Weather::Silent);
        let lengths = spells.map(|((_, began), ended)| ended.min(to).saturating_duration_since(from.max(*began)));
        lengths.max().unwrap_or_default()
    }
}

impl Proxy {
    /// Before this address, with fair weather.
    pub(crate) async fn before(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Proxy {
            address,
            weather: watch::Sender::new(Weather::Fair),
            torn: watch::Sender::new(()),
            deeds: Arc::default(),
        };
        let (weather, torn, deeds) = (proxy.weather.clone(), proxy.torn.clone(), Arc::clone(&proxy.deeds));
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(connection(stream, target, weather.subscribe(), torn.subscribe(), Arc::clone(&deeds)));
            }
        });
        proxy
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_if_modified(|now| {
            let is_other = *now != weather;
            if is_other {
                *now = weather;
                self.deeds.lock().unwrap().weathers.push((weather, Instant::now()));
            }
            is_other
        });
    }

    pub(crate) fn deeds(&self) -> Deeds {
        self.deeds.lock().unwrap().clone()
    }

    /// Resets the connections that there are.
    pub(crate) fn tear(&self) {
        self.torn.send_replace(());
    }
}

async fn connection(
    mut near: TcpStream,
    target: SocketAddr,
    mut weather: watch::Receiver<Weather>,
    mut torn: watch::Receiver<()>,
    deeds: Arc<Mutex<Deeds>>,
) {
    // The kernel has accepted it; nobody answers until the silence is over.
    let _ = weather.wait_for(|weather| *weather != Weather::Silent).await;
    let connected = if *weather.borrow() == Weather::Resets { None } else { TcpStream::connect(target).await.ok() };
    let Some(mut far) = connected else { return reset(&near) };
    let (port, began) = (far.local_addr().unwrap().port(), Instant::now());
    let end = {
        let ((near_read, near_write), (far_read, far_write)) = (near.split(), far.split());
        let mut watched = weather.clone();
        tokio::select! {
            end = async {
                let ends = tokio::try_join!(pump(near_read, far_write, weather.clone()), pump(far_read, near_write, weather));
                ends.err()
            } => end,
            _ = torn.changed() => Some(End::Ours(Ending::Rst)),
            _ = watched.wait_for(|weather| *weather == Weather::Resets) => Some(End::Ours(Ending::Rst)),
        }
    };
    if let Some(End::Ours(_)) = end {
        deeds.lock().unwrap().ended.push((port, began, Instant::now()));
    }
    if matches!(end, Some(End::Broken | End::Ours(Ending::Rst))) {
        reset(&near);
        reset(&far);
    }
}

fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Why both directions of a connection are to be ended.
enum End {
    /// One of the two sides has broken it off.
    Broken,
    /// The weather ends it, like this.
    Ours(Ending),
}

/// Carries bytes in one direction until that ends, or both are to be ended.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut weather: watch::Receiver<Weather>) -> Result<(), End> {
    let broken = |_: io::Error| End::Broken;
    let mut buffer = vec![0; 64 * 1024];
    // Bytes since the cuts began.
    let mut passed = 0;
    loop {
        let read = from.read(&mut buffer).await.map_err(broken)?;
        if read == 0 {
            return to.shutdown().await.map_err(broken);
        }
        let mut bytes = &buffer[..read];
        while !bytes.is_empty() {
            let now = *weather.borrow_and_update();
            let most = match now {
                Weather::Fair => bytes.len(),
                Weather::Delay { ms } => {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    bytes.len()
                }
                Weather::Silent => {
                    let _ = weather.changed().await;
                    continue;
                }
                Weather::Resets => return Err(End::Ours(Ending::Rst)),
                Weather::Cuts { after_bytes, how } => match after_bytes.saturating_sub(passed) {
                    0 => return Err(End::Ours(how)),
                    left => left.min(bytes.len()),
                },
                Weather::Trickle { bytes_a_second } => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    usize::try_from(bytes_a_second / 10).unwrap().min(bytes.len())
                }
            };
            to.write_all(&bytes[..most]).await.map_err(broken)?;
            passed = if matches!(now, Weather::Cuts { .. }) { passed + most } else { 0 };
            bytes = &bytes[most..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn said(stream: &mut TcpStream, text: &str) -> io::Result<String> {
        stream.write_all(text.as_bytes()).await?;
        let mut answer = vec![0; text.len()];
        test_support::within("the echo", stream.read_exact(&mut answer)).await?;
        Ok(String::from_utf8(answer).unwrap())
    }

    #[tokio::test]
    async fn the_weather_is_felt_and_passes() {
        let proxy = Proxy::before(echo().await).await;
        let mut kept = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(said(&mut kept, "fair").await.unwrap(), "fair");

        proxy.set(Weather::Silent);
        let mut during = TcpStream::connect(proxy.address).await.unwrap();
        let held = tokio::time::timeout(Duration::from_millis(200), said(&mut during, "held"));
        assert!(held.await.is_err(), "no byte passes");
        proxy.set(Weather::Fair);
        let mut late = [0; 4];
        test_support::within("what was held", during.read_exact(&mut late)).await.unwrap();
        assert_eq!(&late, b"held");

        proxy.set(Weather::Cuts { after_bytes: 2, how: Ending::Fin });
        assert!(said(&mut kept, "cut").await.is_err());
        proxy.set(Weather::Resets);
        assert!(said(&mut during, "reset").await.is_err());
        proxy.set(Weather::Trickle { bytes_a_second: 100 });
        let mut slow = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(said(&mut slow, "it trickles and trickles").await.unwrap(), "it trickles and trickles");
        proxy.tear();
        assert!(said(&mut slow, "torn").await.is_err());
    }
}
