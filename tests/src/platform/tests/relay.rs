use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use super::super::relay::{Relay, Scope};
use super::{FREE_PORT, LIMIT, machine};

/// Long enough for anything that is coming over loopback to have come.
const SILENCE: Duration = Duration::from_millis(200);

/// A relay in front of a server that sends back what it gets.
async fn relay_to_echo() -> Relay {
    let listener = TcpListener::bind(FREE_PORT).await.expect("a listener");
    let target = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    Relay::start(FREE_PORT, target, None).expect("a relay")
}

async fn connect(from: IpAddr, to: &Relay) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(from, 0)).expect("an address");
    socket.connect(to.address()).await.expect("a connection")
}

/// Sends a byte; returns whether it comes back within a time.
async fn echoes(stream: &mut TcpStream, limit: Duration) -> bool {
    stream.write_all(b"x").await.expect("a byte sent");
    comes_back(stream, limit).await
}

async fn comes_back(stream: &mut TcpStream, limit: Duration) -> bool {
    matches!(timeout(limit, stream.read_u8()).await, Ok(Ok(b'x')))
}

#[tokio::test]
async fn a_delay_holds_for_opening_and_for_both_ways() {
    let relay = relay_to_echo().await;
    let one_way = Duration::from_millis(50);
    relay.set_delay(one_way);
    let started = Instant::now();
    let mut stream = connect(machine(2), &relay).await;
    assert!(echoes(&mut stream, LIMIT).await);
    assert!(started.elapsed() >= one_way * 4, "{:?}", started.elapsed());
    let again = Instant::now();
    assert!(echoes(&mut stream, LIMIT).await);
    assert!(again.elapsed() >= one_way * 2, "{:?}", again.elapsed());
}

#[tokio::test]
async fn a_delay_does_not_limit_throughput() {
    let relay = relay_to_echo().await;
    relay.set_delay(Duration::from_millis(50));
    let (mut from, mut to) = connect(machine(2), &relay).await.into_split();
    let started = Instant::now();
    let size: usize = 16 << 20;
    let sending = tokio::spawn(async move { to.write_all(&vec![7; size]).await });
    let mut back = vec![0; size];
    timeout(LIMIT, from.read_exact(&mut back)).await.expect("in time").expect("all bytes");
    sending.await.expect("no panic").expect("all sent");
    // One chunk of 64 KiB at a time would take 256 delays, 12.8 s.
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert!(back.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn frozen_bytes_stop_and_go_on_where_they_stopped() {
    let relay = relay_to_echo().await;
    let mut frozen = connect(machine(2), &relay).await;
    let mut other = connect(machine(3), &relay).await;
    assert!(echoes(&mut frozen, LIMIT).await);
    relay.freeze(Scope::From(machine(2)));
    assert!(!echoes(&mut frozen, SILENCE).await);
    let mut new = connect(machine(2), &relay).await;
    assert!(!echoes(&mut new, SILENCE).await);
    assert!(echoes(&mut other, LIMIT).await, "others are not touched");
    relay.restore(Scope::From(machine(2)));
    assert!(comes_back(&mut frozen, LIMIT).await);
    assert!(comes_back(&mut new, LIMIT).await);
}

#[tokio::test]
async fn dropped_connections_are_reset() {
    let relay = relay_to_echo().await;
    let mut old = connect(machine(2), &relay).await;
    assert!(echoes(&mut old, LIMIT).await);
    relay.drop_connections(Scope::All);
    let ended = timeout(LIMIT, old.read_u8()).await.expect("in time").expect_err("no more bytes");
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    let mut new = connect(machine(2), &relay).await;
    assert!(timeout(LIMIT, new.read_u8()).await.expect("in time").is_err());
    relay.restore(Scope::All);
    assert!(echoes(&mut connect(machine(2), &relay).await, LIMIT).await);
}

#[tokio::test]
async fn a_lost_connection_is_silent_for_ever_and_new_ones_work() {
    let relay = relay_to_echo().await;
    let mut lost = connect(machine(2), &relay).await;
    assert!(echoes(&mut lost, LIMIT).await);
    relay.lose(Scope::From(machine(2)));
    assert!(!echoes(&mut lost, SILENCE).await);
    assert!(echoes(&mut connect(machine(2), &relay).await, LIMIT).await);
    relay.restore(Scope::All);
    assert!(!comes_back(&mut lost, SILENCE).await, "the client was never told");
}

#[tokio::test]
async fn an_end_is_passed_on_after_the_last_byte() {
    let relay = relay_to_echo().await;
    relay.set_delay(Duration::from_millis(10));
    let mut stream = connect(machine(2), &relay).await;
    stream.write_all(b"last words").await.expect("sent");
    stream.shutdown().await.expect("half closed");
    let mut back = String::new();
    timeout(LIMIT, stream.read_to_string(&mut back)).await.expect("in time").expect("an end");
    assert_eq!(back, "last words");
}
