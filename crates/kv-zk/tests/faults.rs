//! What the store does when servers and connections fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // It is a test.

mod common;

use std::time::{Duration, Instant};

use common::{key, namespace, next, open, until, with};
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};
use kv_testkit::{Cluster, Mode, Proxy, require_or_skip};
use kv_zk::ZkStore;
use kv_zk::kv_core::{
    Applied, ErrorKind, Expiry, LockGuard, LockLoss, LockOptions, LockWait, Prefix, PutOptions, SessionState,
    Store, StoreExt, Watch, WatchEvent, WatchOptions, WatchTarget,
};

common::on_each_client!(
    watches_survive_a_restart_of_the_server,
    a_holder_that_is_cut_off_knows_before_the_next_one_holds,
    a_cut_connection_costs_nothing_while_the_session_survives,
    a_cut_connection_costs_no_session_however_much_is_watched,
    calls_to_a_silent_server_end_by_their_deadline,
    a_write_whose_answer_is_lost_is_never_made_twice,
    a_record_whose_making_was_not_answered_is_found_again,
    a_wait_that_is_given_up_anywhere_leaves_no_record,
    a_delete_tree_that_was_begun_says_so,
    what_takes_many_requests_has_a_deadline_for_each,
    many_lists_share_what_they_ask_ahead,
);

const SECOND: Duration = Duration::from_secs(1);

async fn cluster() -> Option<Cluster> {
    Some(require_or_skip(env!("CARGO_MANIFEST_DIR"))?.start().await.unwrap())
}

/// A store straight on the server, and one behind a proxy, on one namespace.
async fn both(cluster: &Cluster, client: &str, query: &str) -> (ZkStore, ZkStore, Proxy) {
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let namespace = namespace();
    let direct = open(&with(&cluster.url().unwrap(), client, &namespace, query)).await;
    let behind = cluster.url_of(&[proxy.endpoint()]).unwrap();
    let behind = open(&with(&behind, client, &namespace, query)).await;
    (direct, behind, proxy)
}

/// Reads a watch until it tells that the key has this value.
async fn sees(watch: &mut Watch, name: &str, value: &str) {
    loop {
        if let WatchEvent::Put(entry) = next(watch).await
            && entry.key.as_str() == name
            && entry.value == value
        {
            return;
        }
    }
}

async fn watches_survive_a_restart_of_the_server(client: &str) {
    let Some(cluster) = cluster().await else { return };
    let store = open(&with(&cluster.url().unwrap(), client, &namespace(), "session_timeout=6s")).await;
    let mut watches = Vec::new();
    for at in 0..100 {
        store.put(format!("k/{at}"), "before").await.unwrap();
        let target = WatchTarget::from(key(&format!("k/{at}")));
        watches.push(store.watch_with(target, WatchOptions::default()).await.unwrap());
    }
    let prefix: Prefix = "k".parse().unwrap();
    let mut tree = store.watch_with(prefix, WatchOptions::default()).await.unwrap();
    let node = cluster.node(1);
    node.kill().await.unwrap();
    node.start().await.unwrap();
    node.ready().await.unwrap();
    until("the handle works again", 30 * SECOND, || async { store.put("probe", "x").await.is_ok() }).await;
    for at in 0..100 {
        until("a put", 30 * SECOND, || async { store.put(format!("k/{at}"), "after").await.is_ok() }).await;
    }
    for (at, watch) in watches.iter_mut().enumerate() {
        sees(watch, &format!("k/{at}"), "after").await;
    }
    let mut left: std::collections::BTreeSet<String> = (0..100).map(|at| format!("k/{at}")).collect();
    while !left.is_empty() {
        if let WatchEvent::Put(entry) = next(&mut tree).await
            && entry.value == "after"
        {
            left.remove(entry.key.as_str());
        }
    }
}

async fn a_holder_that_is_cut_off_knows_before_the_next_one_holds(client: &str) {
    let Some(cluster) = cluster().await else { return };
    for mode in [Mode::Hold, Mode::Refuse] {
        let (direct, behind, proxy) = both(&cluster, client, "session_timeout=6s").await;
        let session_key = PutOptions::default().with_expiry(Expiry::Session);
        behind.put_with(&key("here"), "x", session_key.clone()).await.unwrap();
        let guard = behind.lock("l").await.unwrap();
        let first = guard.token();
        let mut states = behind.session_states();
        assert_eq!(states.next().await, Some(SessionState::Held));
        let rival = tokio::spawn({
            let direct = direct.clone();
            async move {
                let guard = direct.lock("l").await.unwrap();
                (Instant::now(), guard)
            }
        });
        proxy.set(mode).await;
        if mode == Mode::Refuse {
            proxy.cut();
        }
        let lost = tokio::spawn({
            let lost = guard.lost();
            async move { (lost.await, Instant::now()) }
        });
        let (won_at, won) = tokio::time::timeout(30 * SECOND, rival).await.unwrap().unwrap();
        let (loss, lost_at) = tokio::time::timeout(SECOND, lost).await.expect("lost by now").unwrap();
        assert!(lost_at < won_at, "{mode:?}: lost {:?} after the rival had it", lost_at - won_at);
        assert!(matches!(loss, LockLoss::Expired | LockLoss::SessionLost), "{loss:?}");
        assert!(!guard.is_held());
        assert!(won.token() > first);
        until("the session is lost", 5 * SECOND, || async { behind.session() == SessionState::Lost }).await;
        until("its keys are gone", 10 * SECOND, || async { direct.get("here").await.unwrap().is_none() })
            .await;
        // The guard cannot release what is another's now.
        guard.unlock().await.unwrap_err();
        proxy.set(Mode::Forward).await;
        until("a new session", 20 * SECOND, || async {
            behind.put_with(&key("here"), "y", session_key.clone()).await.is_ok()
        })
        .await;
        assert_eq!(behind.session(), SessionState::Held);
        assert!(won.is_held());
        won.unlock().await.unwrap();
    }
}

async fn a_cut_connection_costs_nothing_while_the_session_survives(client: &str) {
    let Some(cluster) = cluster().await else { return };
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let namespace = namespace();
    let secure = |endpoint: String| {
        let url = cluster.url_of(&[endpoint]).unwrap().replace("zk://", "zk://ann:secret@");
        with(&url, client, &namespace, "session_timeout=20s&plaintext_credentials=true")
    };
    let direct = open(&secure(cluster.node(1).endpoint())).await;
    let behind = open(&secure(proxy.endpoint())).await;
    let session_key = PutOptions::default().with_expiry(Expiry::Session);
    behind.put_with(&key("here"), "x", session_key).await.unwrap();
    let guard = behind.lock("l").await.unwrap();
    direct.put("w/a", "1").await.unwrap();
    let prefix: Prefix = "w".parse().unwrap();
    let mut watch = behind.watch_with(prefix, WatchOptions::default()).await.unwrap();
    for round in 0..3 {
        proxy.set(Mode::Refuse).await;
        proxy.cut();
        // While it is away, and of nodes that are only open to the credentials.
        let value = format!("during {round}");
        direct.put("w/a", value.clone()).await.unwrap();
        direct.put(format!("w/new-{round}/deep"), value.clone()).await.unwrap();
        until("the cut is noticed", 10 * SECOND, || async { behind.session() == SessionState::Suspect })
            .await;
        proxy.set(Mode::Forward).await;
        let mut left = vec!["w/a".to_owned(), format!("w/new-{round}/deep")];
        while !left.is_empty() {
            match next(&mut watch).await {
                WatchEvent::Put(entry) if entry.value == value => {
                    left.retain(|key| key != entry.key.as_str())
                }
                WatchEvent::Put(_) => {}
                other => panic!("the session survived, and yet {other:?}"),
            }
        }
        // What comes afterwards comes too.
        let after = format!("after {round}");
        direct.put("w/a", after.clone()).await.unwrap();
        sees(&mut watch, "w/a", &after).await;
    }
    assert!(guard.is_held());
    assert!(direct.get("here").await.unwrap().is_some());
    let wait = LockOptions::default().with_wait(LockWait::Try);
    direct.lock_with(&key("l"), wait).await.unwrap_err();
    guard.unlock().await.unwrap();
}

/// More watches than zookeeper-client could set again: 3,000 nodes are more than twice its bound.
async fn a_cut_connection_costs_no_session_however_much_is_watched(client: &str) {
    let Some(cluster) = cluster().await else { return };
    let (direct, behind, proxy) = both(&cluster, client, "timeout=20s&session_timeout=10s").await;
    let put = |at: usize| {
        let direct = direct.clone();
        async move { direct.put(format!("t/{at:0>32}"), "x").await }
    };
    futures_util::stream::iter((0..3000).map(put))
        .buffered(200)
        .try_for_each(|_| async { Ok(()) })
        .await
        .unwrap();
    let whole = WatchTarget::from("t".parse::<Prefix>().unwrap());
    let mut watch = behind.watch_with(whole, WatchOptions::default()).await.unwrap();
    let guard = behind.lock("l").await.unwrap();
    let session = PutOptions::default().with_expiry(Expiry::Session);
    behind.put_with(&key("mine"), "x", session).await.unwrap();
    for round in 0..3 {
        proxy.cut();
        // Told by whom was cut off as soon as it is back, and by the watch as a change and nothing else.
        let version = direct.put("t/new", format!("{round}")).await.unwrap();
        match next(&mut watch).await {
            WatchEvent::Put(entry) => assert_eq!((entry.key.as_str(), entry.version), ("t/new", version)),
            other => panic!("round {round}: {other:?}"),
        }
        assert_eq!(behind.get("mine").await.unwrap().unwrap().value, "x");
    }
    // Longer than the session would live.
    tokio::time::sleep(11 * SECOND).await;
    assert!(guard.is_held(), "{:?}", guard.loss());
    assert!(direct.get("mine").await.unwrap().is_some());
    guard.unlock().await.unwrap();
    behind.close().await.unwrap();
    until("the key is gone", SECOND, || async { direct.get("mine").await.unwrap().is_none() }).await;
}

async fn calls_to_a_silent_server_end_by_their_deadline(client: &str) {
    let Some(cluster) = cluster().await else { return };
    let store =
        open(&with(&cluster.url().unwrap(), client, &namespace(), "timeout=1s&session_timeout=20s")).await;
    store.put("a", "1").await.unwrap();
    let node = cluster.node(1);
    node.pause().await.unwrap();
    let begin = Instant::now();
    let error = store.put("a", "2").await.unwrap_err();
    assert_eq!(error.applied(), Applied::Unknown, "{error}");
    store.get("a").await.unwrap_err();
    store.list("").await.map(drop).unwrap_err();
    assert!(begin.elapsed() < 6 * SECOND, "{:?}", begin.elapsed());
    node.unpause().await.unwrap();
    until("it works again", 20 * SECOND, || async { store.put("a", "3").await.is_ok() }).await;
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "3");
}

async fn a_write_whose_answer_is_lost_is_never_made_twice(client: &str) {
    let Some(cluster) = cluster().await else { return };
    let (direct, behind, proxy) = both(&cluster, client, "timeout=2s&session_timeout=20s").await;
    behind.put("warm", "x").await.unwrap();
    // So that the next put is one request, which overwrites it.
    behind.put("k", "before").await.unwrap();
    proxy.set(Mode::DropReplies).await;
    let error = behind.put("k", "mine").await.unwrap_err();
    assert_eq!(error.applied(), Applied::Unknown, "{error}");
    // The request has got there.
    until("it is written", 5 * SECOND, || async { direct.get("k").await.unwrap().unwrap().value == "mine" })
        .await;
    direct.put("k", "later").await.unwrap();
    proxy.set(Mode::Forward).await;
    until("it works again", 20 * SECOND, || async { behind.put("warm", "y").await.is_ok() }).await;
    assert_eq!(direct.get("k").await.unwrap().unwrap().value, "later", "the write was made again");
}

/// The number the server gave to a lock's record.
fn sequence(guard: &LockGuard) -> u32 {
    let record = guard.fence().record().to_owned();
    record[record.len() - 10..].parse().unwrap()
}

async fn a_record_whose_making_was_not_answered_is_found_again(client: &str) {
    let Some(cluster) = cluster().await else { return };
    let (direct, behind, proxy) = both(&cluster, client, "timeout=5s&session_timeout=30s").await;
    // The node to lock below stays for that, and is known from here on: the next request is the one that
    // makes the record.
    direct.put("l/below", "x").await.unwrap();
    let first = behind.lock("l").await.unwrap();
    let before = sequence(&first);
    first.unlock().await.unwrap();
    proxy.set(Mode::DropReplies).await;
    let locking = tokio::spawn({
        let behind = behind.clone();
        async move { behind.lock("l").await }
    });
    let made = || async { direct.lock_holder(&key("l")).await.unwrap().is_some() };
    until("the record is made", 10 * SECOND, made).await;
    let made = direct.lock_holder(&key("l")).await.unwrap().unwrap();
    assert!(!locking.is_finished(), "it was answered");
    proxy.set(Mode::Forward).await;
    let guard = tokio::time::timeout(20 * SECOND, locking).await.unwrap().unwrap().unwrap();
    assert_eq!(guard.token(), made.token);
    guard.unlock().await.unwrap();
    let next = direct.lock("l").await.unwrap();
    assert_eq!(sequence(&next), before + 2, "a second record was made");
    next.unlock().await.unwrap();
}

/// Also where the wait is over already and its record is being taken away.
async fn a_wait_that_is_given_up_anywhere_leaves_no_record(client: &str) {
    let Some(cluster) = cluster().await else { return };
    let (direct, behind, proxy) = both(&cluster, client, "session_timeout=40s").await;
    behind.lock("l").await.unwrap().unlock().await.unwrap();
    let guard = direct.lock("l").await.unwrap();
    let delay = Duration::from_millis(50);
    proxy.set(Mode::Delay(delay)).await;
    // A try is four round trips of two delays each: in the middle of each, and then some.
    for after in (1..12).map(|nth| delay * nth) {
        let wait = LockOptions::default().with_wait(LockWait::Try);
        let tried = tokio::time::timeout(after, behind.lock_with(&key("l"), wait)).await;
        if let Ok(tried) = tried {
            tried.unwrap_err();
        }
    }
    proxy.set(Mode::Forward).await;
    guard.unlock().await.unwrap();
    let wait = LockOptions::default().with_wait(LockWait::UpTo(10 * SECOND));
    direct.lock_with(&key("l"), wait).await.expect("no record is left").unlock().await.unwrap();
    assert_ne!(behind.session(), SessionState::Lost, "the session took the records with it");
}

/// Also where what ends it is the refusal of a read.
async fn a_delete_tree_that_was_begun_says_so(client: &str) {
    let Some(cluster) = cluster().await else { return };
    let (url, namespace) = (cluster.url().unwrap(), namespace());
    let anybody = open(&with(&url, client, &namespace, "")).await;
    let secure = url.replace("zk://", "zk://ann:secret@");
    let ann = open(&with(&secure, client, &namespace, "plaintext_credentials=true")).await;
    for at in 0..100 {
        anybody.put(format!("t/{at}"), "x").await.unwrap();
    }
    // Others may not even see what is below hers.
    ann.put("t/hers/deep", "x").await.unwrap();
    let refused = anybody.list("t").await.unwrap().try_for_each(|_| async { Ok(()) }).await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::PermissionDenied, "{error}");
    assert!(error.to_string().contains("\"t/hers\""), "{error}");
    let error = anybody.delete_tree("t").await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::PermissionDenied, "{error}");
    assert_eq!(error.applied(), Applied::Unknown, "{error}");
    let went = 101 - ann.keys("t").await.unwrap().len();
    assert!(went > 0, "nothing went");
    let text = error.to_string();
    assert!(text.contains("\"t/hers\"") && text.contains(&format!("{went} entries were deleted")), "{text}");
}

/// A large tree takes longer to watch and to delete than any one request may.
async fn what_takes_many_requests_has_a_deadline_for_each(client: &str) {
    const DELAY: Duration = Duration::from_millis(250);
    let Some(cluster) = cluster().await else { return };
    let (direct, behind, proxy) = both(&cluster, client, "timeout=2s&session_timeout=20s").await;
    let tree = [("w", 300), ("t", 1200)];
    let keys = tree.iter().flat_map(|(top, size)| (0..*size).map(move |at| format!("{top}/{at}")));
    let puts = futures_util::stream::iter(keys.map(|key| {
        let direct = direct.clone();
        async move { direct.put(key, "x").await }
    }));
    puts.buffered(200).try_for_each(|_| async { Ok(()) }).await.unwrap();
    proxy.set(Mode::Delay(DELAY)).await;
    let begin = Instant::now();
    let prefix = |name: &str| WatchTarget::from(name.parse::<Prefix>().unwrap());
    let mut watch = behind.watch_with(prefix("w"), WatchOptions::default()).await.unwrap();
    let took = begin.elapsed();
    assert!(took > 2 * SECOND, "it took {took:?}, which shows nothing");
    direct.put("w/7", "again").await.unwrap();
    sees(&mut watch, "w/7", "again").await;
    let begin = Instant::now();
    let deleting = tokio::spawn({
        let behind = behind.clone();
        async move { behind.delete_tree("t").await }
    });
    until("half of it is gone", 20 * SECOND, || async { direct.keys("t").await.unwrap().len() < 600 }).await;
    assert!(begin.elapsed() > 2 * SECOND, "it took {:?}, which shows nothing", begin.elapsed());
    // A server that says nothing any more ends both.
    proxy.set(Mode::Hold).await;
    let begin = Instant::now();
    let error = deleting.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::Timeout, Applied::Unknown), "{error}");
    let text = error.to_string();
    assert!(text.contains("entries were deleted") && !text.contains("; 0 entries"), "{text}");
    let error = behind.watch_with(prefix("t"), WatchOptions::default()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable), "{error}");
    assert!(begin.elapsed() < 8 * SECOND, "{:?}", begin.elapsed());
    proxy.set(Mode::Forward).await;
    until("it works again", 20 * SECOND, || async { behind.delete_tree("t").await.is_ok() }).await;
    assert!(direct.keys("t").await.unwrap().is_empty());
}

/// A server answers in order: what one list asks ahead is what every other call waits behind.
async fn many_lists_share_what_they_ask_ahead(client: &str) {
    const LISTS: usize = 256;
    const KEYS: usize = 200;
    let Some(cluster) = cluster().await else { return };
    let (direct, behind, proxy) = both(&cluster, client, "session_timeout=20s&timeout=20s").await;
    join_all((0..KEYS).map(|at| direct.put(format!("t/{at}"), "v"))).await.into_iter().for_each(|put| {
        put.unwrap();
    });
    let listings = join_all((0..LISTS).map(|_| behind.list("t"))).await;
    let before = behind.requests();
    // Each asks for as much as it may, and nobody is answered.
    proxy.set(Mode::Hold).await;
    let lists: Vec<_> = listings
        .into_iter()
        .map(|listing| tokio::spawn(listing.unwrap().try_fold(0, |count, _| async move { Ok(count + 1) })))
        .collect();
    let asked = || behind.requests() - before;
    until("each list asks", 10 * SECOND, || async { asked() >= 4 * LISTS as u64 }).await;
    until("no list asks for more", 10 * SECOND, || async {
        let seen = asked();
        tokio::time::sleep(SECOND / 2).await;
        seen == asked()
    })
    .await;
    assert!(asked() <= 4096, "{} requests under way for {LISTS} lists", asked());
    proxy.set(Mode::Forward).await;
    for list in lists {
        assert_eq!(list.await.unwrap().unwrap(), KEYS);
    }
}
