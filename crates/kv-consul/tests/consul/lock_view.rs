//! Locks seen from outside: those of `consul lock` and of other programs too, through outages, and without
//! rights.

use kv_consul::ConsulStore;
use kv_consul::kv_core::{
    Applied, ErrorKind, Expiry, FencingToken, LockChanges, LockHolder, LockLoss, LockOptions, LockState,
    PutOptions, StoreExt,
};
use kv_testkit::{Mode, Proxy};
use reqwest::Method;

use crate::common::acl::{AclServer, ROOT};
use crate::common::{self, SECOND, key, new_session, open, own_server, server, session_of, sessions, until};

const LIMITED: &str = "44444444-dddd-4444-4444-444444444444";

async fn next(changes: &mut LockChanges) -> Option<LockHolder> {
    tokio::time::timeout(SECOND * 30, changes.next()).await.expect("a change").unwrap().unwrap()
}

async fn locks(store: &ConsulStore, prefix: &str) -> Vec<LockState> {
    let mut listing = store.locks(prefix).await.unwrap();
    let mut locks = Vec::new();
    while let Some(lock) = listing.next().await {
        locks.push(lock.unwrap());
    }
    locks
}

fn names(locks: &[LockState]) -> Vec<&str> {
    locks.iter().map(|lock| lock.key.as_str()).collect()
}

#[tokio::test]
async fn consul_lock_is_seen_as_it_comes_and_goes() {
    let Some(server) = own_server().await else { return };
    let node = server.cluster().node(1).clone();
    let store = server.open("app", "").await;
    let mut changes = store.watch_lock("job").await.unwrap();
    assert_eq!(next(&mut changes).await, None);
    let mut last = FencingToken::new(0);
    for _ in 0..2 {
        let cli = tokio::spawn({
            let node = node.clone();
            async move { node.exec(&["consul", "lock", "app/job", "sleep 2; echo done"]).await }
        });
        let holder = next(&mut changes).await.expect("consul lock holds it");
        assert!(holder.token > last, "{} after {last}", holder.token);
        last = holder.token;
        let session = session_of(&server, "app/job/.lock").await.unwrap();
        let native = holder.native.clone().unwrap();
        assert!(native.contains(&session) && native.contains("Consul"), "{native}");
        let held = locks(&store, "").await;
        assert_eq!(names(&held), ["job"]);
        assert_eq!((held[0].holder.as_ref(), held[0].waiters.as_ref()), (Some(&holder), None));
        assert_eq!(store.lock_holder(&key("job")).await.unwrap().unwrap().token, last);
        assert_eq!(next(&mut changes).await, None);
        assert!(cli.await.unwrap().unwrap().contains("done"));
        assert!(locks(&store, "").await.is_empty());
    }

    // Broken, it ends its command, and the next waiter has the lock at once.
    let cli = tokio::spawn({
        let node = node.clone();
        async move { node.exec(&["consul", "lock", "app/job", "sleep 300; echo done"]).await }
    });
    let holder = next(&mut changes).await.expect("consul lock holds it");
    let mut waiting = std::pin::pin!(store.lock("job"));
    assert!(tokio::time::timeout(SECOND, &mut waiting).await.is_err(), "it is held");
    assert!(!store.break_lock("job", last).await.unwrap(), "that hold is over");
    assert!(store.break_lock("job", holder.token).await.unwrap());
    let guard = tokio::time::timeout(SECOND * 10, waiting).await.expect("at once").unwrap();
    let ended = tokio::time::timeout(SECOND * 60, cli).await.expect("consul lock gives up");
    assert!(!ended.unwrap().is_ok_and(|out| out.contains("done")));
    assert!(guard.is_held());
    guard.unlock().await.unwrap();
}

/// Programs in Python acquire again and again with the session that holds the lock already.
#[tokio::test]
async fn a_session_that_acquires_again_is_the_same_holder() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let (store, other) = {
        let query = "?lock_layout=key&lock_delay=0s&timeout=20s";
        (server.open(&namespace, query).await, server.open(&namespace, query).await)
    };
    let session = new_session(&server, "release").await;
    let path = format!("/v1/kv/{namespace}/leader");
    let acquire = async |value: &str| {
        assert_eq!(server.raw(Method::PUT, &format!("{path}?acquire={session}"), value).await.1, "true");
    };
    let mut changes = store.watch_lock("leader").await.unwrap();
    assert_eq!(next(&mut changes).await, None);
    acquire("one").await;
    let first = next(&mut changes).await.unwrap();
    assert_eq!(first.owner, "one");
    // Another value of the same holder, and once more.
    acquire("two").await;
    let again = next(&mut changes).await.unwrap();
    assert_eq!((again.owner.as_ref(), again.token), (b"two".as_slice(), first.token));
    acquire("two").await;
    assert_eq!(store.lock_holder(&key("leader")).await.unwrap().unwrap().token, first.token);
    assert_eq!(locks(&store, "").await[0].holder.as_ref().unwrap().token, first.token);
    // Whoever sees it only now takes its index for the token, which does not fall either.
    assert!(locks(&other, "").await[0].holder.as_ref().unwrap().token > first.token);
    // Given up, and acquired anew by the same session.
    assert_eq!(server.raw(Method::PUT, &format!("{path}?release={session}"), "two").await.1, "true");
    assert_eq!(next(&mut changes).await, None);
    acquire("three").await;
    let second = next(&mut changes).await.unwrap();
    assert!(second.token > first.token);
    acquire("three").await;
    assert!(!store.break_lock("leader", first.token).await.unwrap());
    assert!(store.break_lock("leader", second.token).await.unwrap(), "by its first token");
    assert_eq!(next(&mut changes).await, None);
    // The session lives on, and so does what the key says.
    assert!(sessions(&server).await.contains(&session));
    let (_, value) = server.raw(Method::GET, &format!("{path}?raw"), "").await;
    assert_eq!(value, "three");
    assert_eq!(session_of(&server, &format!("{namespace}/leader")).await, None);
}

#[tokio::test]
async fn locks_on_the_key_itself_are_told_from_entries() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let query = "?lock_layout=key&lock_delay=0s&timeout=20s";
    let (store, other) = (server.open(&namespace, query).await, server.open(&namespace, query).await);
    let ttl = PutOptions::default().with_expiry(Expiry::Ttl(SECOND * 60));
    other.put_with(&key("dir/ttl"), "x", ttl).await.unwrap();
    other.put_session("dir/session", "x").await.unwrap();
    store.put("dir/entry", "x").await.unwrap();
    let session = new_session(&server, "delete").await;
    let acquire = format!("/v1/kv/{namespace}/dir/theirs?acquire={session}");
    assert_eq!(server.raw(Method::PUT, &acquire, "them").await.1, "true");
    let guard = other.lock_with(&key("dir/ours"), LockOptions::default().with_owner("us")).await.unwrap();
    let held = locks(&store, "dir").await;
    assert_eq!(names(&held), ["dir/ours", "dir/theirs"]);
    let owners: Vec<_> = held.iter().map(|lock| lock.holder.as_ref().unwrap().owner.as_ref()).collect();
    assert_eq!(owners, [b"us".as_slice(), b"them"]);
    let native = |at: usize| held[at].holder.as_ref().unwrap().native.clone().unwrap();
    assert!(native(0).contains("kv lock"), "{}", native(0));
    assert!(native(1).contains(&session), "{}", native(1));
    assert_eq!(next(&mut store.watch_lock("dir/ttl").await.unwrap()).await, None, "an entry is no lock");
    assert!(store.break_lock("dir/ours", guard.token()).await.unwrap());
    assert_eq!(tokio::time::timeout(SECOND * 20, guard.lost()).await.unwrap(), LockLoss::Removed);
}

#[tokio::test]
async fn a_hold_that_was_written_on_is_broken_by_its_token() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let (store, other) = (server.open(&namespace, "").await, server.open(&namespace, "").await);
    store.put("l", "entry").await.unwrap();
    let guard = store.lock("l").await.unwrap();
    let below = store.lock("l/below").await.unwrap();
    server.raw(Method::PUT, &format!("/v1/kv/{namespace}/l/.lock"), "scribble").await;
    // A handle that saw it before, and one that did not and takes its index for the token.
    assert_eq!(store.lock_holder(&key("l")).await.unwrap().unwrap().token, guard.token());
    let told = other.lock_holder(&key("l")).await.unwrap().unwrap().token;
    assert!(told > guard.token());
    assert!(
        !other.break_lock("l", guard.token()).await.unwrap(),
        "it cannot know that this is the same hold"
    );
    assert!(guard.is_held());
    assert!(store.break_lock("l", guard.token()).await.unwrap());
    assert_eq!(tokio::time::timeout(SECOND * 20, guard.lost()).await.unwrap(), LockLoss::Removed);
    assert_eq!(server.raw(Method::GET, &format!("/v1/kv/{namespace}/l/.lock"), "").await.0, 404);
    assert_eq!(store.get("l").await.unwrap().unwrap().value, "entry");
    assert!(below.is_held());
    assert!(!store.break_lock("l", guard.token()).await.unwrap());
    // And that one by the token that it was told.
    let guard = store.lock("l").await.unwrap();
    server.raw(Method::PUT, &format!("/v1/kv/{namespace}/l/.lock"), "scribble").await;
    let told = other.lock_holder(&key("l")).await.unwrap().unwrap().token;
    assert!(other.break_lock("l", told).await.unwrap());
    assert_eq!(tokio::time::timeout(SECOND * 20, guard.lost()).await.unwrap(), LockLoss::Removed);
}

#[tokio::test]
async fn a_lock_watch_outlives_an_outage_and_its_tokens_do_not_fall() {
    let Some(server) = own_server().await else { return };
    let proxy = Proxy::start(server.endpoint()).await.unwrap();
    let url = server.url_at(&proxy.endpoint(), "app", "timeout=2s");
    let (watcher, store) = (open(&url).await, server.open("app", "").await);
    let mut changes = watcher.watch_lock("l").await.unwrap();
    assert_eq!(next(&mut changes).await, None);
    let mut last = FencingToken::new(0);
    for mode in [Mode::Refuse, Mode::Hold] {
        let guard = store.lock("l").await.unwrap();
        while next(&mut changes).await.map(|holder| holder.token) != Some(guard.token()) {}
        proxy.set(mode).await;
        proxy.cut();
        guard.unlock().await.unwrap();
        let during = store.lock("l").await.unwrap();
        let waited = tokio::time::timeout(SECOND * 3, changes.next()).await;
        assert!(waited.is_err(), "nothing is told in an outage: {waited:?}");
        proxy.set(Mode::Forward).await;
        proxy.cut();
        loop {
            let Some(holder) = next(&mut changes).await else { continue };
            assert!(holder.token >= last, "{} after {last}", holder.token);
            last = holder.token;
            if last == during.token() {
                break;
            }
        }
        during.unlock().await.unwrap();
        assert_eq!(next(&mut changes).await, None);
    }
}

#[tokio::test]
async fn seeing_locks_takes_the_round_trips_it_promises() {
    let Some(server) = server().await else { return };
    let namespace = common::namespace();
    let (store, holder) = (server.open(&namespace, "").await, server.open(&namespace, "").await);
    let before = store.requests();
    assert!(locks(&store, "").await.is_empty());
    assert_eq!(store.requests() - before, 1, "no lock");
    let mut guards = Vec::new();
    for at in 0..20 {
        guards.push(holder.lock(format!("l/{at}")).await.unwrap());
    }
    let before = store.requests();
    assert_eq!(locks(&store, "").await.len(), 20);
    assert_eq!(store.requests() - before, 2, "twenty locks: records and sessions");
    let before = store.requests();
    assert!(store.break_lock("l/0", guards[0].token()).await.unwrap());
    assert_eq!(store.requests() - before, 2, "a break: look, remove");
    let before = store.requests();
    assert!(!store.break_lock("l/0", guards[0].token()).await.unwrap());
    assert_eq!(store.requests() - before, 1, "a break of nothing");
    let before = store.requests();
    let mut watches = Vec::new();
    for at in 1..20 {
        watches.push(store.watch_lock(format!("l/{at}")).await.unwrap());
    }
    until("the watches should share queries", SECOND * 10, || async { store.queries() <= 20 }).await;
    let each = (store.requests() - before) / 19;
    assert!(each <= 3, "{each} requests for each watch: query, look, wait");
    drop(watches);
    until("no query should be left", SECOND * 5, || async { store.queries() == 0 }).await;
}

#[tokio::test]
async fn locks_a_token_may_not_see_are_denied_and_not_free() {
    let Some(server) = AclServer::start("").await else { return };
    let rules = r#"key_prefix "app/mine/" { policy = "write" } key_prefix "app/read/" { policy = "read" }"#;
    let id = server.token("p", LIMITED, rules).await;
    let root = server.open("app", ROOT, "").await.unwrap();
    let store = server.open("app", LIMITED, "").await.unwrap();
    for there in [false, true] {
        let guard = if there { Some(root.lock("secret/l").await.unwrap()) } else { None };
        let token = guard.as_ref().map_or(FencingToken::new(1), kv_consul::kv_core::LockGuard::token);
        for error in [
            store.watch_lock("secret/l").await.map(drop).unwrap_err(),
            store.locks("secret").await.map(drop).unwrap_err(),
            store.break_lock("secret/l", token).await.map(drop).unwrap_err(),
        ] {
            assert_eq!(error.kind(), &ErrorKind::PermissionDenied, "{error}");
            assert!(error.to_string().contains("key:"), "{error}");
        }
        assert!(guard.is_none_or(|guard| guard.is_held()));
    }
    // Seen and not to be broken; of a session that it may not read it is told the id alone.
    let guard = root.lock("read/l").await.unwrap();
    let held = locks(&store, "read").await;
    assert_eq!(names(&held), ["read/l"]);
    let native = held[0].holder.as_ref().unwrap().native.clone().unwrap();
    assert!(native.starts_with("session ") && !native.contains("kv lock"), "{native}");
    let error = store.break_lock("read/l", guard.token()).await.unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::PermissionDenied, Applied::No), "{error}");
    assert!(guard.is_held());
    assert!(root.locks("").await.is_ok());
    let mut changes = store.watch_lock("read/l").await.unwrap();
    assert_eq!(next(&mut changes).await.unwrap().token, guard.token());
    // Where records and entries lie side by side, the session decides.
    let by_key = server.open("app", LIMITED, "lock_layout=key").await.unwrap();
    root.put_session("read/s", "x").await.unwrap();
    for error in [
        by_key.watch_lock("read/s").await.map(drop).unwrap_err(),
        by_key.locks("read").await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), &ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("session:read"), "{error}");
    }
    // A right that is taken away ends the watch; nobody is told as the holder.
    server.change(&id, "p", r#"key_prefix "app/mine/" { policy = "write" }"#).await;
    let end = tokio::time::timeout(SECOND * 90, changes.next()).await.expect("an end").unwrap();
    assert_eq!(end.unwrap_err().kind(), &ErrorKind::PermissionDenied);
    assert!(changes.next().await.is_none());
}
