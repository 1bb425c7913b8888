//! A server that means harm, or is broken: typed errors, bounded memory, no panic, and the token stays
//! where it belongs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Integration tests.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kv_consul::kv_core::{
    Applied, ErrorKind, Key, LockOptions, LockWait, Operation, Secret, Store, StoreExt, WatchEvent,
    WatchOptions,
};
use kv_consul::{ConsulConfig, ConsulStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the server does with one request.
enum Act {
    /// Answers with these bytes and closes.
    Say(Vec<u8>),
    /// Answers with this head and then sends this piece again and again.
    Flood(&'static str, &'static [u8]),
    /// Closes without a word.
    Cut,
    /// Says nothing.
    Silence,
}

type Script = dyn Fn(&str) -> Act + Send + Sync;

/// A server that answers by a script; it keeps the requests it got.
struct Hostile {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Hostile {
    async fn start(script: impl Fn(&str) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (script, log): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&log)));
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    async fn store(&self) -> ConsulStore {
        let config = ConsulConfig::new([self.address.as_str()])
            .with_token(Secret::new("canary"))
            .with_timeout(Duration::from_secs(2));
        ConsulStore::connect(config).await.unwrap()
    }
}

/// Answers one request for each connection.
async fn serve(mut stream: TcpStream, script: Arc<Script>, log: Arc<Mutex<Vec<String>>>) {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        text.extend_from_slice(&buffer[..read]);
        let Some(head) = text.windows(4).position(|part| part == b"\r\n\r\n") else {
            if read == 0 {
                return;
            }
            continue;
        };
        let request = String::from_utf8_lossy(&text).into_owned();
        let length = request
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned))
            .map_or(0, |length| length.trim().parse().unwrap());
        if text.len() >= head + 4 + length || read == 0 {
            log.lock().unwrap().push(request);
            break;
        }
    }
    let request = String::from_utf8_lossy(&text).into_owned();
    // A Consul as far as opening a store goes.
    let act = match request.split(' ').nth(1).unwrap_or_default() {
        path if path.starts_with("/v1/status/leader") => json(200, "\"127.0.0.1:8300\""),
        path if path.starts_with("/v1/acl/token/self") => json(401, "ACL support disabled"),
        _ => script(&request),
    };
    match act {
        Act::Say(bytes) => drop(stream.write_all(&bytes).await),
        Act::Flood(head, piece) => {
            drop(stream.write_all(head.as_bytes()).await);
            while stream.write_all(piece).await.is_ok() {}
        }
        Act::Cut => {}
        Act::Silence => tokio::time::sleep(Duration::from_secs(60)).await,
    }
}

fn answer(status: u16, headers: &str, body: &str) -> Act {
    let length = body.len();
    Act::Say(
        format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}"
        )
        .into_bytes(),
    )
}

fn json(status: u16, body: &str) -> Act {
    answer(status, "X-Consul-Index: 5\r\n", body)
}

/// The memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

async fn errors_of(store: &ConsulStore) -> Vec<kv_consul::kv_core::Error> {
    let key = Key::new("k").unwrap();
    let no_wait = LockOptions::default().with_wait(LockWait::Try);
    let initial = WatchOptions::default().with_initial();
    let mut errors = vec![
        store.get("k").await.unwrap_err(),
        store.put("k", "v").await.unwrap_err(),
        store.delete("k").await.unwrap_err(),
        store.entries("p").await.unwrap_err(),
        store.keys("p").await.unwrap_err(),
        store.delete_tree("p").await.unwrap_err(),
        store.lock_with(&key, no_wait).await.unwrap_err(),
        store.watch("p").await.unwrap_err(),
    ];
    match store.watch_with(key.into(), initial).await {
        // A state that breaks off is begun anew, for as long as it takes.
        Ok(mut watch) => match watch.next().await.unwrap() {
            Ok(event) => assert_eq!(event, WatchEvent::Resync),
            Err(error) => errors.push(error),
        },
        Err(error) => errors.push(error),
    }
    errors
}

#[tokio::test]
async fn nonsense_is_a_protocol_error() {
    for (name, act) in [
        ("no JSON", (|| json(200, "<html>")) as fn() -> Act),
        ("other JSON", || json(200, "42")),
        ("half a document", || json(200, "[{\"Key\":")),
        ("wrong types", || json(200, "[{\"Key\":1,\"ModifyIndex\":\"x\",\"CreateIndex\":-1}]")),
        ("brackets", || json(200, "]}")),
        ("deep", || json(200, &"[".repeat(100_000))),
        ("odd status", || json(299, "")),
        ("not found", || json(405, "")),
        ("refused for nothing", || json(409, "{\"Results\":null,\"Errors\":null}")),
        ("no bytes of text", || {
            Act::Say(b"HTTP/1.1 200 X\r\nX-Consul-Index: 1\r\nContent-Length: 2\r\n\r\n\xff\xfe".to_vec())
        }),
    ] {
        let hostile = Hostile::start(move |_| act()).await;
        for error in errors_of(&hostile.store().await).await {
            assert_eq!(error.kind(), &ErrorKind::Protocol, "{name}: {error}");
        }
    }
}

#[tokio::test]
async fn broken_answers_are_unavailable_or_protocol_errors() {
    for (name, act) in [
        ("cut", (|| Act::Cut) as fn() -> Act),
        ("no HTTP", || Act::Say(b"SSH-2.0-x\r\n\r\n".to_vec())),
        ("short body", || {
            Act::Say(b"HTTP/1.1 200 X\r\nX-Consul-Index: 1\r\nContent-Length: 99\r\n\r\n[".to_vec())
        }),
        ("bad chunk", || Act::Say(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec())),
        ("bad header", || Act::Say(b"HTTP/1.1 200 X\r\n\x00: x\r\n\r\n".to_vec())),
    ] {
        let hostile = Hostile::start(move |_| act()).await;
        for error in errors_of(&hostile.store().await).await {
            assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Protocol), "{name}: {error}");
            if error.operation() == Some(Operation::Put) {
                assert_eq!(error.applied(), Applied::Unknown, "{name}: {error}");
            }
            assert!(error.to_string().contains(&hostile.address), "{name}: {error}");
        }
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut_off_in_bounded_memory() {
    const PIECE: &[u8] = &[b'x'; 1 << 16];
    let before = resident();
    for head in [
        "HTTP/1.1 200 X\r\nX-Consul-Index: 1\r\n\r\n",
        "HTTP/1.1 200 X\r\nX-Consul-Index: 1\r\nContent-Length: 4000000000\r\n\r\n[\"",
        "HTTP/1.1 200 X\r\nX-Consul-Index: 1\r\nContent-Length: 4000000000\r\n\r\n{\"Results\":[\"",
        "HTTP/1.1 409 X\r\n\r\n",
        "HTTP/1.1 500 X\r\n\r\n",
    ] {
        let hostile = Hostile::start(move |_| Act::Flood(head, PIECE)).await;
        for error in errors_of(&hostile.store().await).await {
            assert!(matches!(error.kind(), ErrorKind::Protocol), "{head}: {error}");
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more than before");
}

#[tokio::test]
async fn endless_headers_and_whitespace_end_at_the_deadline() {
    let hostile =
        Hostile::start(|_| Act::Flood("HTTP/1.1 200 X\r\nX-Consul-Index: 1\r\n\r\n", b"        ")).await;
    let store = hostile.store().await;
    let begin = Instant::now();
    for call in [store.get("k").await.unwrap_err(), store.put("k", "v").await.unwrap_err()] {
        assert!(matches!(call.kind(), ErrorKind::Protocol | ErrorKind::Timeout), "{call}");
    }
    let hostile =
        Hostile::start(|_| Act::Flood("HTTP/1.1 200 X\r\n", b"X-Many: 12345678901234567890\r\n")).await;
    let store = hostile.store().await;
    store.get("k").await.unwrap_err();
    store.entries("p").await.unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_silent_server_costs_the_deadline_and_no_more() {
    let hostile = Hostile::start(|_| Act::Silence).await;
    let store = hostile.store().await;
    for call in [store.get("k").await.map(drop), store.put("k", "v").await.map(drop)] {
        assert_eq!(call.unwrap_err().kind(), &ErrorKind::Timeout);
    }
    let begin = Instant::now();
    assert_eq!(store.watch("p").await.unwrap_err().kind(), &ErrorKind::Timeout);
    assert!(begin.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn redirects_are_not_followed_and_the_token_stays() {
    let other = Hostile::start(|_| json(200, "[]")).await;
    let location = format!("Location: http://{}/v1/kv/x\r\nX-Consul-Index: 5\r\n", other.address);
    for status in [301, 302, 303, 307, 308] {
        let location = location.clone();
        let hostile = Hostile::start(move |_| answer(status, &location, "")).await;
        let store = hostile.store().await;
        for error in errors_of(&store).await {
            assert_eq!(error.kind(), &ErrorKind::Protocol, "{status}: {error}");
            assert_eq!(error.applied(), Applied::No);
            assert!(!format!("{error} {error:?}").contains("canary"));
        }
        assert!(!format!("{store:?}").contains("canary"));
        let requests = hostile.requests();
        assert!(requests.iter().all(|request| request.contains("x-consul-token: canary")));
        assert!(requests.iter().all(|request| !request.lines().next().unwrap().contains("canary")));
    }
    assert_eq!(other.requests().len(), 0);
}

#[tokio::test]
async fn values_that_are_not_base64_are_protocol_errors() {
    let hostile = Hostile::start(|request| {
        if request.starts_with("PUT /v1/txn") {
            let kv = r#"{"Key":"k","Value":"!!!","Flags":0,"CreateIndex":1,"ModifyIndex":2}"#;
            return json(200, &format!(r#"{{"Results":[{{"KV":{kv}}}],"Errors":null}}"#));
        }
        json(200, r#"[{"Key":"p/k","Value":"%%","Flags":0,"CreateIndex":1,"ModifyIndex":2}]"#)
    })
    .await;
    let store = hostile.store().await;
    assert_eq!(store.get("k").await.unwrap_err().kind(), &ErrorKind::Protocol);
    assert_eq!(store.entries("p").await.unwrap_err().kind(), &ErrorKind::Protocol);
}

#[tokio::test]
async fn an_index_that_is_no_number_is_a_protocol_error_for_watches() {
    for header in ["X-Consul-Index: \u{fc}\r\n", "X-Consul-Index: -1\r\n", "X-Consul-Index: 1e3\r\n", ""] {
        let hostile = Hostile::start(move |_| answer(200, header, "[]")).await;
        let store = hostile.store().await;
        assert_eq!(store.watch("p").await.unwrap_err().kind(), &ErrorKind::Protocol, "{header:?}");
        assert!(store.entries("p").await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn answers_to_other_operations_are_protocol_errors() {
    let hostile = Hostile::start(|_| {
        json(200, r#"{"Results":[{"KV":{"Key":"other","CreateIndex":1,"ModifyIndex":2}}],"Errors":null}"#)
    })
    .await;
    let store = hostile.store().await;
    assert_eq!(store.put("k", "v").await.unwrap_err().kind(), &ErrorKind::Protocol);
    // A read without the key: the token may not see it.
    assert_eq!(store.get("k").await.unwrap_err().kind(), &ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn an_index_that_goes_back_is_a_resync_and_no_busy_loop() {
    let asked = Arc::new(Mutex::new(0_u32));
    let counter = Arc::clone(&asked);
    let hostile = Hostile::start(move |_| {
        let mut asked = counter.lock().unwrap();
        *asked += 1;
        // Every other answer is older, by the index of the whole key space too.
        let index = if asked.is_multiple_of(2) { 3 } else { 1000 };
        let kv =
            format!(r#"[{{"Key":"p/k","Value":"dg==","Flags":0,"CreateIndex":1,"ModifyIndex":{index}}}]"#);
        answer(200, &format!("X-Consul-Index: {index}\r\n"), &kv)
    })
    .await;
    let store = hostile.store().await;
    let mut watch = store.watch("p").await.unwrap();
    let mut resyncs = 0;
    let begin = Instant::now();
    while resyncs < 2 {
        let event = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("an event");
        if event.unwrap().unwrap() == WatchEvent::Resync {
            resyncs += 1;
        }
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let rate = f64::from(*asked.lock().unwrap()) / begin.elapsed().as_secs_f64();
    assert!(rate < 40.0, "{rate} requests a second");
}

#[tokio::test]
async fn queries_that_wake_for_nothing_are_slowed_down() {
    let asked = Arc::new(Mutex::new(0_u32));
    let counter = Arc::clone(&asked);
    let hostile = Hostile::start(move |_| {
        *counter.lock().unwrap() += 1;
        answer(200, "X-Consul-Index: 0\r\n", "[]")
    })
    .await;
    let store = hostile.store().await;
    let mut watch = store.watch("p").await.unwrap();
    let silent = tokio::time::timeout(Duration::from_secs(4), watch.next()).await;
    assert!(silent.is_err(), "{silent:?}");
    let asked = *asked.lock().unwrap();
    assert!(asked < 25, "{asked} requests in 4 s");
}

#[tokio::test]
async fn a_server_that_refuses_names_in_urls_is_asked_for_their_ancestor() {
    let hostile = Hostile::start(|request| {
        let path = request.split(' ').nth(1).unwrap();
        if path.contains('%') {
            return json(400, "Invalid key name");
        }
        assert!(path.starts_with("/v1/kv/a/?"), "{path}");
        json(
            200,
            r#"[{"Key":"a/b c/d","Value":"dg==","Flags":0,"CreateIndex":1,"ModifyIndex":2},
                {"Key":"a/x","Value":"dg==","Flags":0,"CreateIndex":1,"ModifyIndex":3}]"#,
        )
    })
    .await;
    let store = hostile.store().await;
    let entries = store.entries("a/b c").await.unwrap();
    assert_eq!(entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["a/b c/d"]);
    let initial = WatchOptions::default().with_initial();
    let mut watch = store.watch_with(Key::new("a/b c/d").unwrap().into(), initial).await.unwrap();
    assert!(matches!(watch.next().await.unwrap().unwrap(), WatchEvent::Put(_)));
    assert_eq!(watch.next().await.unwrap().unwrap(), WatchEvent::Synced);
}

#[tokio::test]
async fn a_dead_or_silent_endpoint_is_named_in_time() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap().to_string();
    let limit = Duration::from_millis(800);
    let config = ConsulConfig::new([address.as_str()]).with_connect_timeout(limit);
    let begin = Instant::now();
    let silent = ConsulStore::connect(config.clone()).await.unwrap_err();
    assert!(begin.elapsed() < limit + Duration::from_secs(1));
    drop(free);
    let refused = ConsulStore::connect(config).await.unwrap_err();
    assert_eq!(refused.kind(), &ErrorKind::Unavailable);
    assert_eq!(refused.applied(), Applied::No);
    for error in [silent, refused] {
        assert!(error.is_transient() && error.to_string().contains(&address), "{error}");
    }
}

#[tokio::test]
async fn the_next_host_is_used_when_one_is_down() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let alive = Hostile::start(|_| json(200, "[]")).await;
    let config = ConsulConfig::new([dead.as_str(), alive.address.as_str()]);
    let store = ConsulStore::connect(config).await.unwrap();
    assert!(store.entries("p").await.unwrap().is_empty());
}

#[tokio::test]
async fn no_request_is_a_write_that_is_sent_twice() {
    let hostile = Hostile::start(|_| Act::Cut).await;
    let store = hostile.store().await;
    store.put("k", "v").await.unwrap_err();
    store.delete("k").await.unwrap_err();
    store.delete_tree("p").await.unwrap_err();
    let writes = hostile.requests().iter().filter(|request| request.starts_with("PUT /v1/txn")).count();
    assert_eq!(writes, 3);
    assert_eq!(store.capabilities().backend, "consul");
}
