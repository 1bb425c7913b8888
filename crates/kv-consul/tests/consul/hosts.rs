//! Several hosts, of which some are down or silent, and calls that crowd: what is due in time is.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kv_consul::kv_core::{
    Applied, ErrorKind, Expiry, Key, PutOptions, SessionState, Store, StoreExt, WatchEvent,
};
use kv_consul::{ConsulConfig, ConsulStore};
use kv_testkit::Proxy;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::common::script::{Act, Scripted, answer, applied, json, refused};
use crate::common::{SECOND, open, own_server, until, url, variant};

/// An answer to a query of one key.
fn state(index: u64) -> Act {
    let kv = format!(r#"[{{"Key":"w/k","Value":"dg==","Flags":0,"CreateIndex":1,"ModifyIndex":{index}}}]"#);
    answer(200, &format!("X-Consul-Index: {index}\r\n"), &kv)
}

#[tokio::test]
async fn a_dead_or_silent_endpoint_is_named_in_time() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap().to_string();
    let limit = Duration::from_millis(800);
    let config = ConsulConfig::new([address.as_str()]).with_connect_timeout(limit);
    let begin = Instant::now();
    let silent = ConsulStore::connect(config.clone()).await.unwrap_err();
    assert!(begin.elapsed() < limit + SECOND);
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
    let alive = Scripted::start(|_| json(200, "[]")).await;
    let store = open(&url(&format!("{dead},{}", alive.address), "", "", variant())).await;
    assert!(store.entries("p").await.unwrap().is_empty());
}

#[tokio::test]
async fn the_next_host_is_used_when_one_is_silent_from_the_start() {
    // It takes connections, as a frozen machine does, and answers nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let alive = Scripted::start(|request| applied(request, 7, "")).await;
    let store = open(&url(&format!("{address},{}", alive.address), "", "timeout=3s", variant())).await;
    let begin = Instant::now();
    store.put("k", "v").await.unwrap();
    store.get("k").await.unwrap().unwrap();
    assert!(begin.elapsed() < SECOND, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn the_next_host_is_used_when_one_falls_silent() {
    let (gate, silent) = watch::channel(false);
    let (never, opened) = watch::channel(false);
    let first = Scripted::start(move |request| {
        if *silent.borrow() {
            return Act::Silence;
        }
        // A waiting query waits, for ever.
        match request.contains("index=") {
            true => Act::When(opened.clone(), Box::new(Act::Cut)),
            false if request.starts_with("GET /v1/kv") => state(5),
            false => applied(request, 7, ""),
        }
    })
    .await;
    let (change, changed) = watch::channel(false);
    let second = Scripted::start(move |request| match request.starts_with("GET /v1/kv") {
        true if *changed.borrow() => state(9),
        true if request.contains("index=") => Act::When(changed.clone(), Box::new(state(9))),
        true => state(5),
        false => applied(request, 7, ""),
    })
    .await;
    let hosts = format!("{},{}", first.address, second.address);
    let store = open(&url(&hosts, "", "timeout=3s", variant())).await;
    let mut events = store.watch("w").await.unwrap();
    until("the watch should wait", SECOND * 5, || async { first.count("GET /v1/kv/w/?consistent") >= 2 })
        .await;
    assert_eq!(second.requests().len(), 0);
    gate.send_replace(true);
    // A read goes on to the next host within its time; a write of which nobody knows does not, and those
    // after it find the host that answers.
    store.get("k").await.unwrap().unwrap();
    let begin = Instant::now();
    store.put("k", "v").await.unwrap();
    assert!(begin.elapsed() < SECOND, "{:?}", begin.elapsed());
    // The watch had its query at the first host, and does not wait for that to end.
    change.send_replace(true);
    let event = tokio::time::timeout(SECOND * 5, events.next()).await.expect("an event").unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Put(entry) if entry.version.get() == 9));
    drop(never);
}

#[tokio::test]
async fn a_write_to_a_silent_host_is_not_sent_to_another() {
    let (gate, silent) = watch::channel(false);
    let first =
        Scripted::start(move |request| if *silent.borrow() { Act::Silence } else { applied(request, 7, "") })
            .await;
    let second = Scripted::start(|request| applied(request, 7, "")).await;
    let hosts = format!("{},{}", first.address, second.address);
    let store = open(&url(&hosts, "", "timeout=2s", variant())).await;
    gate.send_replace(true);
    let error = store.put("k", "v").await.unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::Timeout, Applied::Unknown));
    assert_eq!(second.count("PUT /v1/txn"), 0);
    store.put("k", "v").await.unwrap();
    assert_eq!(second.count("PUT /v1/txn"), 1);
}

/// What a host says that cannot serve now, without having passed the request on.
const TURNED_AWAY: [(u16, &str); 4] = [
    (500, "No known Consul servers"),
    (500, "No cluster leader"),
    (429, "Your IP is issuing too many concurrent connections"),
    (500, "rpc error getting client: failed to get conn: dial tcp: connection refused"),
];

#[tokio::test]
async fn the_next_host_is_used_when_one_cannot_serve() {
    for (status, words) in TURNED_AWAY {
        let first = Scripted::start_bare(move |_| json(status, words)).await;
        let second = Scripted::start(|request| match request.split(' ').nth(1).unwrap() {
            path if path.starts_with("/v1/session/create") => json(200, r#"{"ID":"s"}"#),
            path if path.starts_with("/v1/kv") => state(5),
            _ => applied(request, 7, ""),
        })
        .await;
        let hosts = format!("{},{}", first.address, second.address);
        let open_both = async || open(&url(&hosts, "", "timeout=3s&token=t", variant())).await;
        // Each by a handle of its own, which begins with the first host.
        open_both().await.put("k", "v").await.unwrap();
        open_both().await.get("k").await.unwrap().unwrap();
        assert_eq!(open_both().await.keys("w").await.map(|keys| keys.len()).unwrap_or(1), 1);
        drop(open_both().await.watch("w").await.unwrap());
        let store = open_both().await;
        let asked = first.requests().len();
        for _ in 0..3 {
            store.put("k", "v").await.unwrap();
        }
        assert_eq!(first.requests().len(), asked, "it is not asked again and again");
    }
}

#[tokio::test]
async fn a_write_goes_on_to_the_next_host_only_where_nothing_was_changed() {
    let (gate, well) = watch::channel(true);
    for (status, words, goes_on) in
        TURNED_AWAY.map(|(status, words)| (status, words, true)).into_iter().chain([
            (500, "rpc error making call: EOF", false),
            (500, "leadership lost while committing log", false),
            (503, "", false),
        ])
    {
        gate.send_replace(true);
        let well = well.clone();
        let first = Scripted::start(move |request| match *well.borrow() {
            true => applied(request, 7, ""),
            false => json(status, words),
        })
        .await;
        let second = Scripted::start(|request| applied(request, 7, "")).await;
        let hosts = format!("{},{}", first.address, second.address);
        let store = open(&url(&hosts, "", "timeout=3s", variant())).await;
        store.put("k", "v").await.unwrap();
        gate.send_replace(false);
        let put = store.put("k", "v").await;
        assert_eq!(second.count("PUT /v1/txn"), usize::from(goes_on), "{words}");
        match put {
            Ok(_) => assert!(goes_on, "{words}"),
            Err(error) => {
                assert!(!goes_on, "{words}: {error}");
                assert_eq!((error.kind(), error.applied()), (&ErrorKind::Unavailable, Applied::Unknown));
            }
        }
        // A read does no harm, and the next host is used from now on.
        store.get("k").await.unwrap().unwrap();
        assert_eq!(first.count("PUT /v1/txn"), 2, "{words}");
    }
}

#[tokio::test]
async fn where_no_host_can_serve_the_call_says_what_they_said() {
    let hosts =
        [Scripted::start(|_| json(429, "too many")).await, Scripted::start(|_| json(429, "too many")).await];
    let all = hosts.each_ref().map(|host| host.address.clone()).join(",");
    let store = open(&url(&all, "", "timeout=3s", variant())).await;
    for error in
        [store.put("k", "v").await.map(drop).unwrap_err(), store.get("k").await.map(drop).unwrap_err()]
    {
        assert_eq!((error.kind(), error.applied()), (&ErrorKind::Overloaded, Applied::No), "{error}");
        assert!(error.to_string().contains("too many"), "{error}");
    }
    assert!(hosts.iter().all(|host| host.count("PUT /v1/txn") == 2), "each was asked once for each call");
}

#[tokio::test]
async fn what_is_no_consul_is_doubted() {
    let all: [fn() -> Act; 4] = [
        || answer(404, "", "404 page not found"),
        || answer(200, "", "<html>"),
        || Act::Say(b"\x00\x00\x00\x00".to_vec()),
        || Act::Cut,
    ];
    for act in all {
        let other = Scripted::start_bare(move |_| act()).await;
        let begin = Instant::now();
        let error = ConsulStore::connect(ConsulConfig::new([other.address.as_str()])).await.unwrap_err();
        assert!(error.to_string().contains("is this a Consul?"), "{error}");
        assert!(error.to_string().contains(&other.address), "{error}");
        assert!(begin.elapsed() < SECOND * 2, "{:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn what_a_server_says_reaches_nobody_raw() {
    const RAW: &str = "\u{1b}[31mred\u{1b}[0m\r\nand \u{202e}more";
    let server = Scripted::start(|request| match request.split(' ').nth(1).unwrap() {
        path if path.starts_with("/v1/agent/self") => {
            json(200, &serde_json::json!({"Config": {"Version": RAW}}).to_string())
        }
        path if path.starts_with("/v1/txn") && request.contains("refuse") => refused(RAW),
        _ => json(500, RAW),
    })
    .await;
    let store = server.store().await;
    let mut texts = vec![store.server().await.unwrap().version];
    for error in [
        store.put("k", "v").await.map(drop).unwrap_err(),
        store.put("refuse", "v").await.map(drop).unwrap_err(),
        store.entries("p").await.map(drop).unwrap_err(),
        store.lock("k").await.map(drop).unwrap_err(),
    ] {
        texts.push(format!("{error}"));
        texts.push(format!("{error:?}"));
    }
    for text in texts {
        assert!(!text.contains(['\u{1b}', '\r', '\n', '\u{202e}']), "{text:?}");
    }
}

#[tokio::test]
async fn sessions_are_renewed_however_many_calls_wait() {
    let server = Scripted::start(|request| match request.split(' ').nth(1).unwrap() {
        path if path.starts_with("/v1/session/create") => json(200, r#"{"ID":"s-1"}"#),
        path if path.starts_with("/v1/session/renew/s-1") => json(200, "[]"),
        path if path.starts_with("/v1/session") => json(200, "true"),
        _ => Act::Silence,
    })
    .await;
    let store = std::sync::Arc::new(server.open("timeout=8s&session_ttl=10s").await);
    let session = PutOptions::default().with_expiry(Expiry::Session).with_timeout(SECOND);
    store.put_with(&Key::new("k").unwrap(), "v", session).await.unwrap_err();
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let store = std::sync::Arc::clone(&store);
            tokio::spawn(async move { store.get("k").await.map(drop) })
        })
        .collect();
    until("it should be renewed", SECOND * 6, || async { server.count("PUT /v1/session/renew/s-1") > 0 })
        .await;
    assert!(calls.iter().all(|call| !call.is_finished()), "the calls still wait");
    assert_eq!(store.session(), SessionState::Held);
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn keys_named_as_causes_of_tls_errors_are_keys() {
    let (gate, broken) = watch::channel(true);
    let server = Scripted::start(move |request| {
        let broken = *broken.borrow();
        match request.starts_with("GET /v1/kv") {
            true if broken && request.contains("index=") => Act::Cut,
            true if broken => answer(200, "X-Consul-Index: 5\r\n", "[]"),
            true if request.contains("index=") => Act::Silence,
            true => {
                let kv =
                    r#"[{"Key":"jobs/Expired","Value":"dg==","Flags":0,"CreateIndex":1,"ModifyIndex":9}]"#;
                answer(200, "X-Consul-Index: 9\r\n", kv)
            }
            false => applied(request, 7, ""),
        }
    })
    .await;
    let store = server.store().await;
    let mut watch = store.watch_key("jobs/Expired").await.unwrap();
    until("it should have been cut", SECOND * 5, || async { server.count("GET /v1/kv/jobs/Expired") >= 3 })
        .await;
    gate.send_replace(false);
    let event = tokio::time::timeout(SECOND * 5, watch.next()).await.expect("an event").unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Put(entry) if entry.version.get() == 9));
}

/// A connection that is closed because too many are idle is opened again by the next call.
#[tokio::test]
async fn calls_that_crowd_keep_their_connections() {
    const CALLS: usize = 40;
    let Some(server) = own_server().await else { return };
    let proxy = Proxy::start(server.endpoint()).await.unwrap();
    let query = format!("max_calls={CALLS}&timeout=20s&connect_timeout=20s");
    let store = open(&server.url_at(&proxy.endpoint(), "app", &query)).await;
    for _ in 0..20 {
        for put in join_all((0..CALLS).map(|n| store.put(format!("k{n}"), "v"))).await {
            put.unwrap();
        }
    }
    // A call that begins while all are busy may open one that another then does not need.
    let accepted = proxy.counts().accepted;
    assert!(accepted <= CALLS as u64 * 2, "{accepted} connections for {CALLS} calls at a time");
}
