//! The proxy does to connections what each mode says, without any container.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Tests fail by panicking.

use std::future::Future;
use std::time::{Duration, Instant};

use kv_testkit::{Mode, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SILENCE: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that answers every byte with the same byte, `times` times over.
async fn echo(times: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    for _ in 0..times {
                        if stream.write_all(&buffer[..read]).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address.to_string()
}

async fn start() -> (Proxy, TcpStream) {
    let proxy = Proxy::start(echo(1).await).await.unwrap();
    let client = connect(&proxy).await;
    (proxy, client)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

async fn say(client: &mut TcpStream, text: &str) {
    client.write_all(text.as_bytes()).await.unwrap();
}

async fn hears(client: &mut TcpStream, text: &str) {
    let mut heard = vec![0; text.len()];
    timeout(PATIENCE, client.read_exact(&mut heard)).await.expect("no answer").unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), text);
}

async fn hears_nothing(client: &mut TcpStream) {
    let mut byte = [0];
    assert!(timeout(SILENCE, client.read(&mut byte)).await.is_err(), "something was heard");
}

async fn is_reset(client: &mut TcpStream) {
    let mut byte = [0];
    let read = timeout(PATIENCE, client.read(&mut byte)).await.expect("still open");
    assert_eq!(read.expect_err("not reset").kind(), std::io::ErrorKind::ConnectionReset);
}

async fn until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn took<T>(work: impl Future<Output = T>) -> Duration {
    let start = Instant::now();
    work.await;
    start.elapsed()
}

#[tokio::test]
async fn forwards_and_counts() {
    let (proxy, mut client) = start().await;
    say(&mut client, "hello").await;
    hears(&mut client, "hello").await;
    let counts = proxy.counts();
    assert_eq!((counts.accepted, counts.open), (1, 1));
    assert_eq!((counts.to_server, counts.to_client, counts.dropped), (5, 5, 0));
    let second = connect(&proxy).await;
    until(|| proxy.counts().open == 2).await;
    drop((client, second));
    until(|| proxy.counts().open == 0).await;
    assert_eq!(proxy.counts().accepted, 2);
}

#[tokio::test]
async fn the_end_of_one_direction_leaves_the_other_open() {
    let (_proxy, mut client) = start().await;
    say(&mut client, "last words").await;
    client.shutdown().await.unwrap();
    let mut heard = String::new();
    timeout(PATIENCE, client.read_to_string(&mut heard)).await.unwrap().unwrap();
    assert_eq!(heard, "last words");
}

#[tokio::test]
async fn a_hold_is_silent_and_loses_nothing() {
    let (proxy, mut client) = start().await;
    say(&mut client, "a").await;
    hears(&mut client, "a").await;
    proxy.set(Mode::Hold).await;
    say(&mut client, "b").await;
    hears_nothing(&mut client).await;
    let mut second = connect(&proxy).await;
    say(&mut second, "c").await;
    hears_nothing(&mut second).await;
    assert_eq!(proxy.counts().to_server, 1);
    proxy.set(Mode::Forward).await;
    hears(&mut client, "b").await;
    hears(&mut second, "c").await;
}

#[tokio::test]
async fn a_cut_resets_both_sides_also_during_a_hold() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap().to_string()).await.unwrap();
    let mut client = connect(&proxy).await;
    let (mut server, _) = listener.accept().await.unwrap();
    proxy.set(Mode::Hold).await;
    let mut during = connect(&proxy).await;
    until(|| proxy.counts().open == 2).await;
    proxy.cut();
    is_reset(&mut client).await;
    is_reset(&mut server).await;
    is_reset(&mut during).await;
    until(|| proxy.counts().open == 0).await;
    proxy.set(Mode::Forward).await;
    connect(&proxy).await;
    timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
}

#[tokio::test]
async fn refusing_spares_open_connections_and_ends() {
    let (proxy, mut client) = start().await;
    say(&mut client, "a").await;
    hears(&mut client, "a").await;
    proxy.set(Mode::Refuse).await;
    let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    say(&mut client, "b").await;
    hears(&mut client, "b").await;
    proxy.set(Mode::Forward).await;
    let mut second = connect(&proxy).await;
    say(&mut second, "c").await;
    hears(&mut second, "c").await;
}

#[tokio::test]
async fn replies_are_dropped_and_what_lost_some_is_cut() {
    let (proxy, mut client) = start().await;
    let mut other = connect(&proxy).await;
    proxy.set(Mode::DropReplies).await;
    say(&mut client, "a").await;
    hears_nothing(&mut client).await;
    assert_eq!((proxy.counts().to_server, proxy.counts().dropped), (1, 1));
    proxy.set(Mode::Forward).await;
    is_reset(&mut client).await;
    say(&mut other, "b").await;
    hears(&mut other, "b").await;
}

#[tokio::test]
async fn cuts_in_the_middle_of_a_reply() {
    let (proxy, mut client) = start().await;
    proxy.set(Mode::CutAfter { reply_bytes: 3 }).await;
    say(&mut client, "hello").await;
    hears(&mut client, "hel").await;
    is_reset(&mut client).await;
    assert_eq!(proxy.counts().to_client, 3);
}

#[tokio::test]
async fn delays_each_way_without_loss_of_order() {
    let (proxy, mut client) = start().await;
    let delay = Duration::from_millis(150);
    proxy.set(Mode::Delay(delay)).await;
    let text = "0123456789";
    let elapsed = took(async {
        for digit in text.chars() {
            say(&mut client, &digit.to_string()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        hears(&mut client, text).await;
    })
    .await;
    assert!(elapsed >= 2 * delay, "{elapsed:?}");
    // Ten pieces were under way at once: the delay is not paid ten times.
    assert!(elapsed < 10 * delay, "{elapsed:?}");
}

#[tokio::test]
async fn throttles_to_a_speed() {
    const KIB: usize = 1024;
    let proxy = Proxy::start(echo(20).await).await.unwrap();
    proxy.set(Mode::Throttle { bytes_per_second: 40 << 10 }).await;
    let mut client = connect(&proxy).await;
    let text = "x".repeat(KIB);
    let elapsed = took(async {
        say(&mut client, &text).await;
        hears(&mut client, &text.repeat(20)).await;
    })
    .await;
    // 20 KiB back at 40 KiB a second.
    assert!(elapsed > Duration::from_millis(400), "{elapsed:?}");
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    proxy.set(Mode::Forward).await;
    say(&mut client, "y").await;
    hears(&mut client, &"y".repeat(20)).await;
}

#[tokio::test]
async fn what_waits_in_the_proxy_is_bounded() {
    const LIMIT: usize = 64 << 20;
    let chunk = vec![0; 64 << 10];
    let crawl = Mode::Throttle { bytes_per_second: 100 };
    // First nobody reads the replies, then the proxy itself is in no hurry.
    for mode in [Mode::Forward, Mode::Delay(Duration::from_secs(60)), crawl] {
        let proxy = Proxy::start(echo(1).await).await.unwrap();
        proxy.set(mode).await;
        let mut client = connect(&proxy).await;
        let mut written = 0_usize;
        while timeout(SILENCE, client.write_all(&chunk)).await.is_ok() {
            written += chunk.len();
            assert!(written < LIMIT, "{mode:?}: the proxy swallowed {written} bytes");
        }
    }
}

#[tokio::test]
async fn new_connections_can_be_led_elsewhere() {
    let (proxy, mut client) = start().await;
    say(&mut client, "a").await;
    hears(&mut client, "a").await;
    proxy.redirect(echo(2).await);
    say(&mut client, "b").await;
    hears(&mut client, "b").await;
    let mut second = connect(&proxy).await;
    say(&mut second, "c").await;
    hears(&mut second, "cc").await;
}

#[tokio::test]
async fn a_dead_server_resets_and_dropping_the_proxy_cuts() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = Proxy::start(gone.to_string()).await.unwrap();
    is_reset(&mut connect(&proxy).await).await;

    let (proxy, mut client) = start().await;
    say(&mut client, "a").await;
    hears(&mut client, "a").await;
    let address = proxy.address();
    drop(proxy);
    is_reset(&mut client).await;
    let mut tries = 0;
    while TcpStream::connect(address).await.is_ok() {
        tries += 1;
        assert!(tries < 1000, "the port still listens");
        tokio::task::yield_now().await;
    }
}
