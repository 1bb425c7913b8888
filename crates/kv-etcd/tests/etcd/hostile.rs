//! What a server sends is data only where it can be true: everything else is told as nonsense, and
//! reaches nobody raw.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::common::key;
use crate::common::scripted::{
    DeleteAnswer, Event, GrantRequest, Header, Kv, LeaseAnswer, LeaseRequest, Outcome, PutAnswer, REVISION,
    RangeAnswer, RangeRequest, Reply, Scripted, StatusAnswer, TxnAnswer, TxnRequest, WatchAnswer, header, kv,
    one, range, watch_answer, watch_created, watch_id,
};
use futures_util::TryStreamExt;
use kv_etcd::EtcdStore;
use kv_etcd::kv_core::{
    Condition, DeleteOptions, Error, ErrorKind, Expiry, GetOptions, ListOptions, LockOptions, LockWait,
    Prefix, PutOptions, Store, StoreExt, Txn, TxnOp, WatchEvent, WatchOptions,
};
use prost::Message;

const SECOND: Duration = Duration::from_secs(1);

fn is_nonsense<T: std::fmt::Debug>(what: &str, case: usize, answer: Result<T, Error>) {
    match answer {
        Err(error) => assert_eq!(error.kind(), &ErrorKind::Protocol, "{what} {case}: {error}"),
        Ok(data) => panic!("{what} {case} was taken as data: {data:?}"),
    }
}

/// Asks each of the servers that answer `method` with one of these.
async fn all_nonsense<T, F>(
    what: &str,
    method: &'static str,
    answers: Vec<Vec<u8>>,
    ask: impl Fn(EtcdStore) -> F,
) where
    T: std::fmt::Debug,
    F: Future<Output = Result<T, Error>>,
{
    for (case, answer) in answers.into_iter().enumerate() {
        let script = move |asked: &str, _| (asked == method).then(|| Reply::Messages(vec![answer.clone()]));
        let server = Scripted::start(script).await;
        let store = server.store("?timeout=2s").await;
        let answer = tokio::time::timeout(10 * SECOND, ask(store)).await.expect("it does not hang");
        is_nonsense(what, case, answer);
    }
}

fn encoded(answers: Vec<impl Message>) -> Vec<Vec<u8>> {
    answers.iter().map(Message::encode_to_vec).collect()
}

fn at(revision: i64) -> Option<Header> {
    Some(Header { cluster: 1, revision })
}

/// What no answer about `ns/k` may hold.
fn impossible_keys() -> Vec<Kv> {
    vec![
        kv("other", 1, 1),
        kv("k/below", 1, 1),
        Kv { key: b"k".to_vec(), ..kv("k", 1, 1) },
        Kv { key: Vec::new(), ..kv("k", 1, 1) },
        kv("k", 0, 0),
        kv("k", 0, 5),
        kv("k", -1, 5),
        kv("k", -7, -5),
        kv("k", 6, 5),
        kv("k", 1, REVISION + 1),
        kv("k", i64::MIN, i64::MAX),
    ]
}

#[tokio::test]
async fn a_get_takes_no_other_key_and_no_impossible_revision() {
    let mut answers: Vec<_> = impossible_keys().into_iter().map(|kv| range(vec![kv])).collect();
    answers.push(range(vec![kv("k", 1, 1), kv("k", 1, 2)]));
    answers.push(range(vec![kv("k", 1, 1), kv("l", 1, 2)]));
    for revision in [0, -1, i64::MIN] {
        answers.push(RangeAnswer { header: at(revision), ..RangeAnswer::default() });
    }
    answers.push(RangeAnswer::default());
    all_nonsense("get", "Range", encoded(answers), |store| async move { store.get("k").await }).await;
}

#[tokio::test]
async fn a_list_takes_nothing_outside_disordered_or_doubled() {
    let answers = vec![
        range(vec![kv("p/a", 1, 1), kv("q/b", 1, 1)]),
        range(vec![kv("p", 1, 1)]),
        range(vec![kv("pa", 1, 1)]),
        range(vec![Kv { key: b"other/p/a".to_vec(), ..kv("", 1, 1) }]),
        range(vec![kv("p/b", 1, 1), kv("p/a", 1, 2)]),
        range(vec![kv("p/a", 1, 1), kv("p/a", 1, 2)]),
        range(vec![kv("p/a", 1, -1)]),
        range(vec![kv("p/a", 1, REVISION + 1)]),
        // The same page for ever, and one that does not go on.
        RangeAnswer { more: true, ..range(vec![kv("p/a", 1, 1)]) },
        RangeAnswer { more: true, ..range(Vec::new()) },
        RangeAnswer { header: at(-3), ..range(vec![kv("p/a", 1, 1)]) },
    ];
    let list = |store: EtcdStore| async move {
        let prefix = Prefix::new("p").unwrap();
        let listing = store.list_with(&prefix, ListOptions::default()).await?;
        listing.try_collect::<Vec<_>>().await
    };
    all_nonsense("list", "Range", encoded(answers.clone()), list).await;
    let watch = |store: EtcdStore| async move {
        let target = Prefix::new("p").unwrap();
        let mut watch = store.watch_with(target, WatchOptions::default().with_initial()).await?;
        loop {
            if watch.next().await.expect("it says why it ends")? == WatchEvent::Synced {
                return Ok("synced");
            }
        }
    };
    all_nonsense("watch with the entries", "Range", encoded(answers), watch).await;
    // More than the limit.
    let answers = vec![range(vec![kv("p/a", 1, 1), kv("p/b", 1, 1), kv("p/c", 1, 1)])];
    let limited = |store: EtcdStore| async move {
        let options = ListOptions::default().with_limit(2);
        let listing = store.list_with(&Prefix::new("p").unwrap(), options).await?;
        listing.try_collect::<Vec<_>>().await
    };
    all_nonsense("list of two", "Range", encoded(answers), limited).await;
}

#[tokio::test]
async fn a_write_takes_no_impossible_answer() {
    let answers = [None, at(0), at(-1)].map(|header| PutAnswer { header }).to_vec();
    all_nonsense("put", "Put", encoded(answers), |store| async move { store.put("k", "v").await }).await;

    let answer = |deleted, previous| DeleteAnswer { header: header(), deleted, previous };
    let mut answers = vec![
        answer(-1, Vec::new()),
        answer(2, Vec::new()),
        answer(0, vec![kv("k", 1, 1)]),
        DeleteAnswer { header: at(0), ..DeleteAnswer::default() },
    ];
    answers.extend(impossible_keys().into_iter().map(|kv| answer(1, vec![kv])));
    let delete = |store: EtcdStore| async move {
        store.delete_with(&key("k"), DeleteOptions::default().with_previous()).await
    };
    all_nonsense("delete", "DeleteRange", encoded(answers), delete).await;

    let outcome = |range, put, delete| Outcome { range, put, delete };
    let put = || outcome(None, Some(PutAnswer::default()), None);
    let txn = |outcomes| TxnAnswer { header: header(), succeeded: true, outcomes };
    let got = |kvs| outcome(Some(RangeAnswer { kvs, ..RangeAnswer::default() }), None, None);
    let mut answers = vec![
        txn(Vec::new()),
        txn(vec![put()]),
        txn(vec![got(Vec::new()), put()]),
        txn(vec![put(), got(Vec::new()), put()]),
        txn(vec![put(), Outcome::default()]),
        TxnAnswer { header: at(-1), ..txn(vec![put(), got(Vec::new())]) },
        TxnAnswer { header: None, ..txn(vec![put(), got(Vec::new())]) },
        TxnAnswer { succeeded: false, ..txn(vec![put(), got(Vec::new())]) },
    ];
    answers.extend(impossible_keys().into_iter().map(|kv| txn(vec![put(), got(vec![kv])])));
    let transact = |store: EtcdStore| async move {
        let txn = Txn::when([Condition::absent(key("k"))]);
        store.transact(txn.then([TxnOp::put(key("j"), "v"), TxnOp::get(key("k"))])).await
    };
    all_nonsense("transaction", "Txn", encoded(answers), transact).await;
}

#[tokio::test]
async fn a_lock_takes_no_impossible_answer() {
    let record = |path: &str, lease, created| Kv { lease, ..kv(path, created, created) };
    let reads = |first: Vec<Kv>, second: Vec<Kv>| -> Vec<Outcome> {
        [first, second]
            .map(|kvs| {
                let range = Some(RangeAnswer { kvs, ..RangeAnswer::default() });
                Outcome { range, ..Outcome::default() }
            })
            .into()
    };
    let put = || Outcome { put: Some(PutAnswer::default()), ..Outcome::default() };
    let txn = |outcomes| TxnAnswer { header: header(), succeeded: true, outcomes };
    let bad = || {
        vec![
            reads(vec![record("other/1", 1, 5)], Vec::new()),
            reads(vec![record("l/1", 1, -5)], Vec::new()),
            reads(vec![record("l/1", 1, REVISION + 1)], Vec::new()),
            reads(vec![record("l/a", 10, 5)], Vec::new()),
            // Neither from the first on nor from the last.
            reads(vec![record("l/1", 1, 5), record("l/3", 3, 9), record("l/2", 2, 4)], Vec::new()),
            reads(vec![record("l/1", 1, 5), record("l/1", 1, 5)], Vec::new()),
        ]
    };
    let mut answers: Vec<_> = bad().into_iter().map(|reads| txn([vec![put()], reads].concat())).collect();
    answers.push(TxnAnswer { header: at(0), ..txn([vec![put()], reads(Vec::new(), Vec::new())].concat()) });
    answers.push(txn(vec![put()]));
    answers.push(TxnAnswer { succeeded: false, ..txn(Vec::new()) });
    let lock = |store: EtcdStore| async move {
        let options = LockOptions::default().with_wait(LockWait::UpTo(SECOND));
        store.lock_with(&key("l"), options).await
    };
    all_nonsense("lock", "Txn", encoded(answers), lock).await;
    let grants = vec![
        LeaseAnswer { header: header(), id: 1, ttl: 15, granted: 0 },
        LeaseAnswer { header: header(), id: -1, ttl: -15, granted: 0 },
    ];
    all_nonsense("grant", "LeaseGrant", encoded(grants), lock).await;

    let answers = bad().into_iter().map(txn).collect();
    let holder = |store: EtcdStore| async move { store.lock_holder(&key("l")).await };
    all_nonsense("lock_holder", "Txn", encoded(answers), holder).await;
    // The record is another than the one that was asked for.
    let server = Scripted::start(move |method, _| match method {
        "Txn" => Some(one(&txn(reads(vec![record("l/1", 1, 5)], Vec::new())))),
        "Range" => Some(one(&range(vec![record("l/2", 2, 5)]))),
        _ => None,
    })
    .await;
    is_nonsense("lock_holder", 99, server.store("").await.lock_holder(&key("l")).await);
}

#[tokio::test]
async fn a_lease_takes_no_impossible_answer() {
    let lease = |id, ttl, granted| LeaseAnswer { header: header(), id, ttl, granted };
    let answers = encoded(vec![lease(8, 5, 5), lease(7, 5, 0), lease(7, 5, -5), lease(-7, 5, 5)]);
    for (case, answer) in answers.into_iter().enumerate() {
        let server = Scripted::start(move |method, _| match method {
            "Range" => Some(one(&range(vec![Kv { lease: 7, ..kv("k", 1, 1) }]))),
            "LeaseTimeToLive" => Some(Reply::Messages(vec![answer.clone()])),
            _ => None,
        })
        .await;
        let options = GetOptions::default().with_expiry();
        is_nonsense("time to live", case, server.store("").await.get_with(&key("k"), options).await);
    }
    // A renewal of another lease renews none: the session is lost in time.
    let server = Scripted::start(|method, message| match method {
        "LeaseKeepAlive" => {
            let LeaseRequest { id } = LeaseRequest::decode(message).unwrap();
            Some(one(&LeaseAnswer { header: header(), id: id + 1, ttl: 3, granted: 3 }))
        }
        _ => None,
    })
    .await;
    let store = server.store("?session_ttl=3s").await;
    let session = PutOptions::default().with_expiry(Expiry::Session);
    store.put_with(&key("k"), "v", session).await.unwrap();
    let lost = || async { store.session() == kv_etcd::kv_core::SessionState::Lost };
    crate::common::until("it is not renewed", 5 * SECOND, lost).await;
}

fn event(kind: i32, kv: Kv) -> Event {
    Event { kind, kv: Some(kv), previous: None }
}

#[tokio::test]
async fn a_watch_takes_no_impossible_event() {
    let put = |path: &str, created, version| event(0, kv(path, created, version));
    let delete = |path: &str, version, previous| Event { previous, ..event(1, kv(path, 0, version)) };
    let next = REVISION + 1;
    let cases = vec![
        vec![put("other", next, next)],
        vec![put("p", next, next)],
        vec![put("pa", next, next)],
        vec![put("p/a", 0, next)],
        vec![put("p/a", next + 1, next)],
        vec![put("p/a", -2, -1)],
        vec![put("p/a", next, next), put("p/b", 1, -1)],
        vec![put("p/a", 1, next + 1), put("p/b", 1, next)],
        vec![put("p/a", 1, next), put("p/a", 1, next)],
        vec![delete("p/a", next, Some(kv("p/b", 1, 1)))],
        vec![delete("p/a", next, Some(kv("p/a", 1, next)))],
        vec![delete("p/a", next, Some(kv("p/a", -1, 1)))],
        vec![delete("p/a", -1, Some(kv("p/a", 1, 1)))],
        vec![event(7, kv("p/a", 1, next))],
        vec![Event { kind: 0, kv: None, previous: None }],
    ];
    for (case, events) in cases.into_iter().enumerate() {
        let server = Scripted::start(move |method, message| {
            let id = (method == "Watch").then(|| watch_id(message)).filter(|id| *id > 0)?;
            Some(Reply::Messages(vec![watch_created(id), watch_answer(id, events.clone())]))
        })
        .await;
        let store = server.store("?timeout=2s").await;
        let mut watch = store.watch("p").await.unwrap();
        let told = tokio::time::timeout(5 * SECOND, watch.next()).await.expect("it does not hang").unwrap();
        is_nonsense("watch", case, told);
        assert!(watch.next().await.is_none());
    }
    for (case, revision) in [0, -1].into_iter().enumerate() {
        let server = Scripted::start(move |method, message| {
            let id = (method == "Watch").then(|| watch_id(message)).filter(|id| *id > 0)?;
            let created = WatchAnswer { header: at(revision), id, created: true, ..WatchAnswer::default() };
            Some(one(&created))
        })
        .await;
        is_nonsense("begin of a watch", case, server.store("").await.watch("p").await.map(drop));
    }
}

/// Ends a line, clears a screen, turns the direction of writing.
const ACTS: &str = "no\r\n\u{1b}[2J\u{202e}evil";

fn is_harmless(text: &str) {
    assert!(text.contains("evil"), "{text}");
    assert!(!text.contains(['\n', '\r', '\u{1b}', '\u{202e}']), "{text:?}");
}

#[tokio::test]
async fn what_a_server_says_acts_on_no_terminal() {
    // What is told of a missing sign-in (16) are words of our own.
    for code in 1..=15 {
        let script = move |method: &str, _| (method == "Range").then(|| Reply::Fail(code, ACTS.to_owned()));
        let server = Scripted::start(script).await;
        let error = server.store("?timeout=1s").await.get("k").await.unwrap_err();
        is_harmless(&format!("{error} {error:?}"));
        is_harmless(&format!("{error:#?}").replace('\n', " "));
    }
    let server = Scripted::start(|method, message| match method {
        "Watch" => {
            let (id, reason) = (watch_id(message), ACTS.to_owned());
            let refused =
                WatchAnswer { header: header(), id, canceled: true, reason, ..WatchAnswer::default() };
            Some(Reply::Messages(vec![watch_created(id), refused.encode_to_vec()]))
        }
        "Status" => Some(one(&StatusAnswer { header: header(), version: ACTS.to_owned() })),
        _ => None,
    })
    .await;
    let store = server.store("").await;
    let mut watch = store.watch("p").await.unwrap();
    let error = watch.next().await.unwrap().unwrap_err();
    is_harmless(&format!("{error} {error:?}"));
    is_harmless(&store.server().await.unwrap().version);
}

#[tokio::test]
async fn a_place_lost_in_one_outage_is_taken_anew_through_the_next() {
    let (renewals, grants) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let refused = Arc::clone(&grants);
    let server = Scripted::start(move |method, message| match method {
        // The first time somebody is before us for ever, later nobody is.
        "Txn" if grants.load(Ordering::Relaxed) < 2 => {
            let then = TxnRequest::decode(message).unwrap().then;
            let rival = Kv { lease: 1, ..kv("l/1", 5, 5) };
            let outcomes = then.into_iter().enumerate().map(|(at, operation)| Outcome {
                put: operation.put.map(|_| PutAnswer::default()),
                range: operation.range.map(|_| RangeAnswer {
                    kvs: if at == 1 { vec![rival.clone()] } else { Vec::new() },
                    ..RangeAnswer::default()
                }),
                delete: None,
            });
            Some(one(&TxnAnswer { header: header(), succeeded: true, outcomes: outcomes.collect() }))
        }
        "Range" if RangeRequest::decode(message.clone()).unwrap().key == b"ns/l/1" => {
            Some(one(&range(vec![Kv { lease: 1, ..kv("l/1", 5, 5) }])))
        }
        // Its lease is gone, and no other lease can be granted for a while.
        "LeaseKeepAlive" if renewals.fetch_add(1, Ordering::Relaxed) == 0 => {
            let LeaseRequest { id } = LeaseRequest::decode(message).unwrap();
            Some(one(&LeaseAnswer { header: header(), id, ttl: 0, granted: 0 }))
        }
        "LeaseGrant" => match grants.fetch_add(1, Ordering::Relaxed) {
            1..=3 => Some(Reply::Fail(14, "etcdserver: request timed out".to_owned())),
            _ => {
                let GrantRequest { id, .. } = GrantRequest::decode(message).unwrap();
                Some(one(&LeaseAnswer { header: header(), id, ttl: 3, granted: 0 }))
            }
        },
        _ => None,
    })
    .await;
    let store = server.store("?timeout=1s&lock_ttl=3s").await;
    let guard = tokio::time::timeout(20 * SECOND, store.lock("l")).await.expect("it waits no more").unwrap();
    assert!(guard.is_held() && refused.load(Ordering::Relaxed) == 5);
}

#[tokio::test]
async fn a_lock_whose_leases_are_gone_at_once_is_not_asked_for_without_end() {
    let writes = Arc::<AtomicU64>::default();
    let seen = Arc::clone(&writes);
    let server = Scripted::start(move |method, _| {
        (method == "Txn").then(|| {
            seen.fetch_add(1, Ordering::Relaxed);
            Reply::Fail(5, "etcdserver: requested lease not found".to_owned())
        })
    })
    .await;
    let store = server.store("").await;
    for wait in [LockWait::Forever, LockWait::Try, LockWait::UpTo(60 * SECOND)] {
        let before = writes.load(Ordering::Relaxed);
        let k = key("l");
        let locking = store.lock_with(&k, LockOptions::default().with_wait(wait));
        let locked = tokio::time::timeout(10 * SECOND, locking).await.expect("it gives up");
        let error = locked.unwrap_err();
        assert!(error.is_transient(), "{wait:?}: {error}");
        assert!(writes.load(Ordering::Relaxed) - before <= 5, "{wait:?}");
    }
}
