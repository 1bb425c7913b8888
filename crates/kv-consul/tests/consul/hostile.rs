//! A server that means harm, or is broken: typed errors, bounded memory, no panic, and the token stays
//! where it belongs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kv_consul::kv_core::{
    Applied, ErrorKind, Expiry, GetOptions, Key, Operation, PutOptions, Store, StoreExt, Txn, TxnOp,
    WatchEvent, WatchOptions,
};

use crate::common::calls::errors_of;
use crate::common::script::{Act, Scripted, answer, applied, json, refused};
use crate::common::{LOCK_FLAG, until};

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
        let hostile = Scripted::start(move |_| act()).await;
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
        let hostile = Scripted::start(move |_| act()).await;
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
async fn endless_headers_and_whitespace_end_at_the_deadline() {
    let hostile =
        Scripted::start(|_| Act::Flood("HTTP/1.1 200 X\r\nX-Consul-Index: 1\r\n\r\n", b"        ")).await;
    let store = hostile.store().await;
    let begin = Instant::now();
    for call in [store.get("k").await.unwrap_err(), store.put("k", "v").await.unwrap_err()] {
        assert!(matches!(call.kind(), ErrorKind::Protocol | ErrorKind::Timeout), "{call}");
    }
    let hostile =
        Scripted::start(|_| Act::Flood("HTTP/1.1 200 X\r\n", b"X-Many: 12345678901234567890\r\n")).await;
    let store = hostile.store().await;
    store.get("k").await.unwrap_err();
    store.entries("p").await.unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_silent_server_costs_the_deadline_and_no_more() {
    let hostile = Scripted::start(|_| Act::Silence).await;
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
    let other = Scripted::start(|_| json(200, "[]")).await;
    let location = format!("Location: http://{}/v1/kv/x\r\nX-Consul-Index: 5\r\n", other.address);
    for status in [301, 302, 303, 307, 308] {
        let location = location.clone();
        let hostile = Scripted::start(move |_| answer(status, &location, "")).await;
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
    let hostile = Scripted::start(|request| {
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
async fn an_index_that_is_no_number_is_a_protocol_error() {
    for header in ["X-Consul-Index: \u{fc}\r\n", "X-Consul-Index: -1\r\n", "X-Consul-Index: 1e3\r\n", ""] {
        let hostile = Scripted::start(move |_| answer(200, header, "[]")).await;
        let store = hostile.store().await;
        assert_eq!(store.watch("p").await.unwrap_err().kind(), &ErrorKind::Protocol, "{header:?}");
        // A list can do without one.
        match store.entries("p").await {
            Ok(entries) => assert!(entries.is_empty() && header.is_empty()),
            Err(error) => assert_eq!(error.kind(), &ErrorKind::Protocol, "{header:?}"),
        }
    }
}

/// One key as a Consul shows it.
fn kv(key: &str, created: i64, modified: i64) -> String {
    format!(r#"{{"Key":"{key}","Value":"dg==","Flags":0,"CreateIndex":{created},"ModifyIndex":{modified}}}"#)
}

/// What a transaction, a query and a question for a session answer that have these items.
fn items(request: &str, items: &[String]) -> Act {
    if request.contains("/v1/session/create") {
        return json(200, r#"{"ID":"s"}"#);
    }
    if request.contains("/v1/txn") {
        let results: Vec<_> = items.iter().map(|kv| format!(r#"{{"KV":{kv}}}"#)).collect();
        return json(200, &format!(r#"{{"Results":[{}],"Errors":null}}"#, results.join(",")));
    }
    json(200, &format!("[{}]", items.join(",")))
}

#[tokio::test]
async fn answers_to_other_questions_are_protocol_errors() {
    for (name, found) in [
        ("another key", vec![kv("other", 1, 2)]),
        ("another key beside it", vec![kv("k", 1, 2), kv("other", 1, 2)]),
        ("twice", vec![kv("k", 1, 2), kv("k", 1, 2), kv("k", 1, 2)]),
        ("index 0", vec![kv("k", 0, 0)]),
        ("negative", vec![kv("k", -1, -1)]),
        ("older than its creation", vec![kv("k", 3, 2)]),
    ] {
        let hostile = Scripted::start(move |request| items(request, &found)).await;
        let store = hostile.store().await;
        let k = Key::new("k").unwrap();
        let ttl = PutOptions::default().with_expiry(Expiry::Ttl(Duration::from_secs(20)));
        for error in [
            store.get("k").await.map(drop).unwrap_err(),
            store.put("k", "v").await.map(drop).unwrap_err(),
            store.put_with(&k, "v", ttl).await.map(drop).unwrap_err(),
            store.compare_value_and_set("k", "v", "w").await.map(drop).unwrap_err(),
            store.transact(Txn::always().then([TxnOp::get(k.clone())])).await.map(drop).unwrap_err(),
        ] {
            assert_eq!(error.kind(), &ErrorKind::Protocol, "{name}: {error}");
        }
    }
}

#[tokio::test]
async fn keys_out_of_place_in_a_list_are_protocol_errors() {
    for (name, found) in [
        ("outside", vec![kv("q/a", 1, 2)]),
        ("outside, at the end", vec![kv("p/a", 1, 2), kv("q/a", 1, 2)]),
        ("the prefix without its slash", vec![kv("p", 1, 2)]),
        ("disorder", vec![kv("p/b", 1, 2), kv("p/a", 1, 2)]),
        ("doubled", vec![kv("p/a", 1, 2), kv("p/a", 1, 3)]),
        ("index 0", vec![kv("p/a", 0, 0)]),
        ("negative", vec![kv("p/a", 1, -2)]),
    ] {
        let hostile = Scripted::start(move |request| items(request, &found)).await;
        let store = hostile.store().await;
        let initial = WatchOptions::default().with_initial();
        let prefix: kv_consul::kv_core::Prefix = "p".parse().unwrap();
        let mut watched = store.watch_with(prefix, initial).await.unwrap();
        let watched = loop {
            match watched.next().await.unwrap() {
                Ok(WatchEvent::Put(_)) => {}
                other => break other.map(drop),
            }
        };
        for result in [
            store.entries("p").await.map(drop),
            store.delete_tree("p").await.map(drop),
            store.watch("p").await.map(drop),
            watched,
        ] {
            let error = result.expect_err(name);
            assert_eq!(error.kind(), &ErrorKind::Protocol, "{name}: {error}");
        }
        // The watch of one key reads that key.
        assert_eq!(store.watch_key("k").await.unwrap_err().kind(), &ErrorKind::Protocol, "{name}");
    }
    for names in [r#"["q/a"]"#, r#"["p/b","p/a"]"#, r#"["p/a","p/a"]"#] {
        let hostile = Scripted::start(move |_| json(200, names)).await;
        assert_eq!(
            hostile.store().await.keys("p").await.unwrap_err().kind(),
            &ErrorKind::Protocol,
            "{names}"
        );
    }
}

#[tokio::test]
async fn sessions_that_make_no_sense_are_protocol_errors() {
    let hostile = Scripted::start(|request| match request.split(' ').nth(1).unwrap() {
        path if path.starts_with("/v1/session/create") => json(200, r#"{"ID":""}"#),
        path if path.starts_with("/v1/session/info") => {
            json(200, r#"[{"ID":"other","Name":"kv ttl","Behavior":"delete","TTL":"10s"}]"#)
        }
        _ => applied(request, 7, "s"),
    })
    .await;
    let store = hostile.store().await;
    let k = Key::new("k").unwrap();
    let ttl = PutOptions::default().with_expiry(Expiry::Ttl(Duration::from_secs(20)));
    for error in [
        store.put_with(&k, "v", ttl).await.map(drop).unwrap_err(),
        store.get_with(&k, GetOptions::default().with_expiry()).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), &ErrorKind::Protocol, "{error}");
    }
}

/// What a server is asked for and leaves out of a read the token may not see.
#[tokio::test]
async fn a_key_left_out_of_a_read_is_denied() {
    let hostile = Scripted::start(|_| json(200, r#"{"Results":[],"Errors":null}"#)).await;
    let store = hostile.store().await;
    assert_eq!(store.get("k").await.unwrap_err().kind(), &ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn a_refused_name_is_an_invalid_key() {
    const WORDS: &str = r#"invalid key name, keys should respect the "^[a-zA-Z0-9,_./\-?&=]+$" format"#;
    let all: [fn() -> Act; 3] = [|| json(500, WORDS), || json(400, WORDS), || refused(WORDS)];
    for act in all {
        let server = Scripted::start(move |_| act()).await;
        let store = server.store().await;
        let k = Key::new("a b").unwrap();
        for error in [
            store.put("a b", "v").await.map(drop).unwrap_err(),
            store.get("a b").await.map(drop).unwrap_err(),
            store.delete("a b").await.map(drop).unwrap_err(),
            store.lock("a b").await.map(drop).unwrap_err(),
            store.transact(Txn::always().then([TxnOp::put(k.clone(), "v")])).await.map(drop).unwrap_err(),
        ] {
            assert!(matches!(error.kind(), ErrorKind::InvalidKey { .. }), "{error}");
            assert_eq!(error.applied(), Applied::No, "{error}");
        }
    }
    // Reads go by way of an ancestor with a plain name, whatever the status.
    let server = Scripted::start(|request| match request.split(' ').nth(1).unwrap() {
        path if path.contains('%') => json(500, WORDS),
        _ => json(200, &format!("[{}]", kv("a/b c/d", 1, 2))),
    })
    .await;
    assert_eq!(server.store().await.entries("a/b c").await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_index_that_goes_back_is_a_resync_and_no_busy_loop() {
    let asked = Arc::new(Mutex::new(0_u32));
    let counter = Arc::clone(&asked);
    let hostile = Scripted::start(move |_| {
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

/// A server whose index of one tree goes back once, from 1000 to 30, as when Consul forgets old deletes.
async fn falling(absent: fn() -> Act) -> Scripted {
    let waited = Arc::new(Mutex::new(0_u32));
    Scripted::start(move |request| {
        if request.contains(".kv-absent") {
            assert!(request.starts_with("GET /v1/kv/p/.kv-absent?"), "within what the token may read");
            return absent();
        }
        let mut waited = waited.lock().unwrap();
        *waited += u32::from(request.contains("index="));
        let (index, modified) = match *waited {
            0 => (1000, 20),
            1..=3 => (30, 20),
            _ => (40, 40),
        };
        let kv =
            format!(r#"[{{"Key":"p/k","Value":"dg==","Flags":0,"CreateIndex":1,"ModifyIndex":{modified}}}]"#);
        answer(200, &format!("X-Consul-Index: {index}\r\n"), &kv)
    })
    .await
}

#[tokio::test]
async fn an_index_that_goes_back_by_itself_is_no_gap() {
    let server = falling(|| answer(404, "X-Consul-Index: 2000\r\n", "")).await;
    let store = server.store().await;
    let mut watch = store.watch("p").await.unwrap();
    let event = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("an event");
    assert!(matches!(event.unwrap().unwrap(), WatchEvent::Put(entry) if entry.version.get() == 40));
}

#[tokio::test]
async fn an_index_that_goes_back_for_a_token_that_sees_no_more_is_a_gap() {
    let server = falling(|| answer(403, "", "Permission denied")).await;
    let store = server.store().await;
    let mut watch = store.watch("p").await.unwrap();
    for expected in ["Resync", "Put", "Synced"] {
        let event = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("an event");
        let event = format!("{:?}", event.unwrap().unwrap());
        assert!(event.starts_with(expected), "{event}, not {expected}");
    }
}

/// A lock that is taken and released between two states a watch sees is absent in both.
#[tokio::test]
async fn a_release_between_two_states_wakes_who_saw_the_lock_held() {
    let held = |index: u64| {
        json(
            200,
            &format!(
                r#"{{"Results":[{{"KV":{{"Key":"k/.lock","Value":"","Flags":{LOCK_FLAG},"Session":"other","CreateIndex":{index},"ModifyIndex":{index}}}}}],"Errors":null}}"#
            ),
        )
    };
    let looks = Arc::new(Mutex::new(0_u32));
    let (counter, woken) = (Arc::clone(&looks), AtomicBool::new(false));
    let server = Scripted::start(move |request| {
        if request.starts_with("PUT /v1/session") {
            return json(200, r#"{"ID":"ours"}"#);
        }
        if request.starts_with("GET ") {
            // The watch finds no lock when it begins, and none when it is woken.
            if request.contains("index=40&") {
                return Act::Silence;
            }
            if request.contains("index=20&") {
                woken.store(true, Ordering::SeqCst);
            }
            let index = if woken.load(Ordering::SeqCst) { 40 } else { 20 };
            return answer(404, &format!("X-Consul-Index: {index}\r\n"), "");
        }
        let mut looks = counter.lock().unwrap();
        *looks += 1;
        match *looks {
            1 => held(10),
            // Another was faster.
            2 => held(30),
            _ => json(500, "enough"),
        }
    })
    .await;
    let store = server.store().await;
    let waiting = tokio::spawn(async move { store.lock("k").await.map(drop) });
    until("the waiter looks again", Duration::from_secs(20), async || *looks.lock().unwrap() > 2).await;
    waiting.abort();
}

#[tokio::test]
async fn queries_that_wake_for_nothing_are_slowed_down() {
    let asked = Arc::new(Mutex::new(0_u32));
    let counter = Arc::clone(&asked);
    let hostile = Scripted::start(move |_| {
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
    let hostile = Scripted::start(|request| {
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
    let mut watch = store.watch_with(Key::new("a/b c/d").unwrap(), initial).await.unwrap();
    assert!(matches!(watch.next().await.unwrap().unwrap(), WatchEvent::Put(_)));
    assert_eq!(watch.next().await.unwrap().unwrap(), WatchEvent::Synced);
}

#[tokio::test]
async fn no_request_is_a_write_that_is_sent_twice() {
    let hostile = Scripted::start(|_| Act::Cut).await;
    let store = hostile.store().await;
    store.put("k", "v").await.unwrap_err();
    store.delete("k").await.unwrap_err();
    store.delete_tree("p").await.unwrap_err();
    let writes = hostile.requests().iter().filter(|request| request.starts_with("PUT /v1/txn")).count();
    assert_eq!(writes, 3);
    assert_eq!(store.capabilities().backend, "consul");
}
