//! Opening a store where there is no server, or none that makes sense, and being open when the server
//! goes. Tests here run one at a time, because they measure the process's CPU time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // It is a test.

mod common;
#[path = "common/fake.rs"]
mod fake;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::CLIENTS;
use fake::Fake;
use kv_zk::kv_core::{ErrorKind, Result, StoreExt, StoreUrl};
use kv_zk::{ZkConfig, ZkStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SECOND: Duration = Duration::from_secs(1);

/// The CPU time this process took so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

async fn connect(address: &str, client: &str) -> Result<ZkStore> {
    let url = format!("zk://{address}/t?connect_timeout=2s&timeout=1s&client={client}");
    ZkStore::connect(ZkConfig::from_url(&StoreUrl::parse(&url).unwrap()).unwrap()).await
}

/// What a server does with each connection.
#[derive(Clone, Copy, Debug)]
enum Malice {
    /// Says nothing.
    Silent,
    /// Hangs up at once.
    HangUp,
    /// Gives a session and then answers so.
    Answer(&'static [u8]),
    /// Answers so from the beginning.
    Greet(&'static [u8]),
    /// Announces a frame of 2 GiB and sends without end.
    Endless,
}

/// A good answer to a request for a session: 40 bytes, version 0, 10 s, id 1, a password.
const SESSION: &[u8] = &[
    0, 0, 0, 37, 0, 0, 0, 0, 0, 0, 39, 16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9,
    10, 11, 12, 13, 14, 15, 16, 0,
];

async fn serve(mut stream: TcpStream, malice: Malice) {
    let mut request = [0; 4096];
    if matches!(malice, Malice::HangUp) {
        return;
    }
    let Ok(1..) = stream.read(&mut request).await else { return };
    match malice {
        Malice::Silent | Malice::HangUp => {}
        Malice::Greet(answer) => drop(stream.write_all(answer).await),
        Malice::Answer(answer) => {
            if stream.write_all(SESSION).await.is_err() {
                return;
            }
            while let Ok(1..) = stream.read(&mut request).await {
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
        Malice::Endless => {
            if stream.write_all(&[0x7f, 0xff, 0xff, 0xff]).await.is_err() {
                return;
            }
            let junk = vec![0; 1 << 16];
            // 8 MiB in all: far less than was announced and far more than any answer has.
            for _ in 0..128 {
                if stream.write_all(&junk).await.is_err() {
                    return;
                }
            }
        }
    }
    while let Ok(1..) = stream.read(&mut request).await {}
}

static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A server of another kind is named within about a second, whether it hangs up or waits for more.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_no_zookeeper_is_named_soon() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for (hangs_up, answer, words) in [
        (false, &b"HTTP/1.0 404 Not Found\r\n\r\n"[..], "HTTP server"),
        (true, b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP server"),
        (false, b"-ERR unknown command\r\n", "none of a ZooKeeper's"),
        (true, &[0x15, 3, 1, 0, 2, 2, 70], "zk+tls://"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    // Like etcd, it may wait for the end of a line of which there is none.
                    while let Ok(read @ 1..) = stream.read(&mut request).await {
                        if hangs_up || request[..read].contains(&b'\n') {
                            let _ = stream.write_all(answer).await;
                            return;
                        }
                    }
                });
            }
        });
        for client in CLIENTS {
            let begin = Instant::now();
            let url = format!("zk://{address}/t?client={client}");
            let config = ZkConfig::from_url(&StoreUrl::parse(&url).unwrap()).unwrap();
            let error = ZkStore::connect(config).await.unwrap_err();
            let text = error.to_string();
            assert_eq!(error.kind(), &ErrorKind::Protocol, "{client}: {text}");
            assert!(text.contains("is this a ZooKeeper?") && text.contains(words), "{client}: {text}");
            assert!(text.contains(&address), "{client}: {text}");
            assert!(begin.elapsed() < 5 * SECOND / 2, "{client}, {words}: {:?}", begin.elapsed());
        }
    }
}

/// The server goes while a store is open: its attempts to come back are paced, and succeed.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_costs_no_cpu_and_ends_by_itself() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for client in CLIENTS {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let script =
            |request: &fake::Request| (request.op == fake::GET_DATA).then(|| vec![(0, fake::data("there"))]);
        let fake = Fake::on(listener, script);
        let url =
            format!("zk://{address}/t?connect_timeout=2s&timeout=1s&session_timeout=4s&client={client}");
        let store =
            ZkStore::connect(ZkConfig::from_url(&StoreUrl::parse(&url).unwrap()).unwrap()).await.unwrap();
        assert_eq!(store.get("a").await.unwrap().unwrap().value, "there");
        fake.stop().await;
        // Longer than the session lives, so that both its connection and then a new session are sought.
        let (begin, cpu_before) = (Instant::now(), cpu());
        while begin.elapsed() < 6 * SECOND {
            let error = store.get("a").await.unwrap_err();
            let refused = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
            assert!(refused, "{client}: {error}");
        }
        let spent = cpu() - cpu_before;
        println!("{client}: {spent:?} of CPU in {:?}", begin.elapsed());
        assert!(spent < SECOND, "{client}: {spent:?} of CPU in {:?}", begin.elapsed());
        let fake = Fake::on(TcpListener::bind(&address).await.unwrap(), script);
        let begin = Instant::now();
        while store.get("a").await.is_err() {
            assert!(begin.elapsed() < 20 * SECOND, "{client}: it does not come back");
        }
        assert!(fake.connections() > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_server_is_an_error_in_time_and_costs_no_cpu() {
    let _alone = ONE_AT_A_TIME.lock().await;
    // A port nobody listens on.
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = unused.local_addr().unwrap().to_string();
    drop(unused);
    for client in CLIENTS {
        let begin = Instant::now();
        let error = connect(&refusing, client).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains(&refusing), "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
        assert!(begin.elapsed() < SECOND);

        for malice in [
            Malice::Silent,
            Malice::HangUp,
            // A negative length.
            Malice::Greet(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
            Malice::Greet(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            Malice::Answer(&[0x80, 0, 0, 0, 1, 2, 3, 4]),
            // An answer to a request that was never made.
            Malice::Answer(&[0, 0, 0, 16, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]),
            // A watch event whose path is not UTF-8.
            Malice::Answer(&[
                0, 0, 0, 30, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0,
                1, 0, 0, 0, 3, 0, 0, 0, 2, 0xc3, 0x28,
            ]),
            // A good header and counts of -1.
            Malice::Answer(&[
                0, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 255, 255, 255, 255,
            ]),
            Malice::Endless,
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let connections = Arc::new(AtomicUsize::new(0));
            let server = tokio::spawn({
                let connections = Arc::clone(&connections);
                async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        connections.fetch_add(1, Ordering::Relaxed);
                        tokio::spawn(serve(stream, malice));
                    }
                }
            });
            let (begin, cpu_before, resident_before) = (Instant::now(), cpu(), resident());
            let opened = tokio::time::timeout(10 * SECOND, connect(&address, client)).await.unwrap();
            let what = format!("{client}, {malice:?}");
            let error = opened.err().unwrap_or_else(|| panic!("{what}: opened"));
            // Only who says something can be said to make no sense.
            let speaks = !matches!(malice, Malice::Silent | Malice::HangUp);
            let nonsense = error.kind() == &ErrorKind::Protocol && speaks;
            assert!(nonsense || error.kind() == &ErrorKind::Unavailable, "{what}: {error}");
            assert!(error.to_string().contains(&address), "{what}: {error}");
            assert!(begin.elapsed() < 4 * SECOND, "{what}: {:?}", begin.elapsed());
            let spent = cpu() - cpu_before;
            assert!(spent < SECOND, "{what}: {spent:?} of CPU");
            // What arrives is held, and not what is announced. A panic's backtrace takes most of it.
            let grown = resident().saturating_sub(resident_before);
            let bound = if matches!(malice, Malice::Endless) { 24 << 20 } else { 80 << 20 };
            assert!(grown < bound, "{what}: {grown} bytes more");
            let tries = connections.load(Ordering::Relaxed);
            println!("{what}: {tries} connections, {spent:?} of CPU, {grown} bytes; {error}");
            assert!(tries < 100, "{what}: {tries} connections");
            server.abort();
        }
    }
}
