//! Lists that tell how their entries expire: what that costs, and entries that expire meanwhile.

use std::time::Duration;

use crate::common::{etcdctl, key, namespace, open, start, url};
use kv_etcd::EtcdStore;
use kv_etcd::kv_core::{Entry, EntryExpiry, Expiry, ListOptions, Prefix, PutOptions, StoreExt, Txn, TxnOp};
use kv_testkit::{Mode, Proxy};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

async fn entries(store: &EtcdStore, path: &str, options: ListOptions) -> Vec<Entry> {
    let listing = store.list_with(&Prefix::new(path).unwrap(), options.with_expiry()).await.unwrap();
    listing.entries().await.unwrap()
}

async fn put(store: &EtcdStore, path: &str, expiry: Expiry) {
    let options = PutOptions::default().with_expiry(expiry);
    store.put_with(&key(path), path.to_owned(), options).await.unwrap();
}

fn granted(entry: &Entry) -> Duration {
    match entry.expiry {
        Some(EntryExpiry::Ttl { granted, remaining: Some(left), .. }) if left <= granted => granted,
        other => panic!("{}: {other:?}", entry.key),
    }
}

#[tokio::test]
async fn a_list_asks_once_for_each_lease() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let url = url(&cluster, &cluster.endpoints(), &namespace, "");
    let (store, other) = (open(&url).await, open(&url).await);
    // Keys by one lease of a native tool, on many pages: their values are large.
    let lease = etcdctl(&cluster, "lease grant 600").await;
    let lease = lease.split_whitespace().nth(1).unwrap();
    let script = format!(
        "head -c 120000 /dev/zero | tr '\\0' v >/tmp/v; \
         for i in $(seq -w 1 60); do etcdctl put --lease={lease} {namespace}/many/$i </tmp/v || exit 1; done"
    );
    cluster.node(1).exec(&["sh", "-c", &script]).await.unwrap();
    // The first list finds how large the values are.
    assert_eq!(store.entries("many").await.unwrap().len(), 60);
    let before = store.requests();
    assert_eq!(store.entries("many").await.unwrap().len(), 60);
    let pages = store.requests() - before;
    assert!(pages > 2, "{pages} pages");
    let before = store.requests();
    let found = entries(&store, "many", ListOptions::default()).await;
    assert_eq!(found.len(), 60);
    assert!(found.iter().all(|entry| granted(entry) == 600 * SECOND));
    assert_eq!(store.requests() - before, pages + 1, "{pages} pages and one lease");

    // Nothing for what never expires, nor for sessions; of a lock nothing is told. A new handle knows
    // nothing of large values.
    let store = open(&url).await;
    for at in 0..40 {
        put(&other, &format!("d/never/{at}"), Expiry::Never).await;
        put(&other, &format!("d/session/{at}"), Expiry::Session).await;
    }
    let _guard = other.lock("d/l").await.unwrap();
    let before = store.requests();
    let found = entries(&store, "d", ListOptions::default()).await;
    assert_eq!(store.requests() - before, 1);
    for entry in &found {
        let is_session = entry.key.as_str().starts_with("d/session");
        let expected = if is_session { EntryExpiry::Session } else { EntryExpiry::Never };
        assert_eq!(entry.expiry, Some(expected), "{}", entry.key);
    }
    assert_eq!(found.len(), 80);

    // One for each time to live; of a list of one level for those that are told.
    for at in 0..40_u32 {
        put(&other, &format!("t/{at:02}"), Expiry::Ttl(HOUR + SECOND * at)).await;
        put(&other, &format!("t/deep/{at:02}"), Expiry::Ttl(HOUR)).await;
    }
    let before = store.requests();
    let found = entries(&store, "t", ListOptions::default().with_range(key("t/00")..key("t/deep"))).await;
    assert_eq!(found.len(), 40);
    assert_eq!(store.requests() - before, 41);
    for (at, entry) in (0..).zip(&found) {
        assert_eq!(granted(entry), HOUR + SECOND * at, "{}", entry.key);
    }
    let before = store.requests();
    let options = ListOptions::default().with_one_level().with_limit(5);
    assert_eq!(entries(&store, "t", options).await.len(), 5);
    assert_eq!(store.requests() - before, 6);
}

/// Between the reading of a page and the questions about its leases, keys go and are put anew.
#[tokio::test]
async fn an_entry_that_goes_meanwhile_is_left_out_and_one_put_anew_is_not() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let direct = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    let proxy = Proxy::start(cluster.node(1).endpoint()).await.unwrap();
    let store = open(&url(&cluster, &[proxy.endpoint()], &namespace, "?timeout=20s")).await;
    for at in 0..30 {
        put(&direct, &format!("d/{at:02}"), Expiry::Ttl(HOUR)).await;
    }
    put(&direct, "d/last", Expiry::Never).await;
    let before = direct.get("d/00").await.unwrap().unwrap();
    // The page has been read when its answer is on its way.
    proxy.set(Mode::Delay(SECOND)).await;
    let listing = tokio::spawn({
        let store = store.clone();
        async move { entries(&store, "d", ListOptions::default().with_limit(20)).await }
    });
    tokio::time::sleep(SECOND * 3 / 2).await;
    for at in 0..30 {
        match at % 3 {
            0 => put(&direct, &format!("d/{at:02}"), Expiry::Ttl(2 * HOUR)).await,
            1 => drop(direct.delete(format!("d/{at:02}")).await.unwrap()),
            _ => {}
        }
    }
    proxy.set(Mode::Forward).await;
    let found = tokio::time::timeout(15 * SECOND, listing).await.unwrap().unwrap();
    let names: Vec<_> = found.iter().map(|entry| entry.key.as_str().to_owned()).collect();
    let left: Vec<_> = (0..30).filter(|at| at % 3 != 1).map(|at| format!("d/{at:02}")).take(20).collect();
    assert_eq!(names, left, "those that went are left out, and others take their places");
    for (entry, at) in found.iter().zip((0..30).filter(|at| at % 3 != 1)) {
        assert_eq!(granted(entry), if at % 3 == 0 { 2 * HOUR } else { HOUR }, "{}", entry.key);
    }
    assert_eq!((found[0].version, &found[0].value), (before.version, &before.value), "it is one state");
}

#[tokio::test]
async fn the_expiries_of_many_entries_are_told_page_by_page() {
    let Some(cluster) = start(1).await else { return };
    let namespace = namespace();
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace, "")).await;
    for part in 0..6 {
        let ops = (0..100).map(|at| {
            TxnOp::put_expiring(key(&format!("d/{part}{at:02}")), vec![b'v'; 8 << 10], Expiry::Ttl(HOUR))
        });
        let _ = store.transact(Txn::always().then(ops)).await.unwrap();
    }
    let found = entries(&store, "d", ListOptions::default()).await;
    assert_eq!(found.len(), 600);
    assert!(found.iter().all(|entry| granted(entry) == HOUR));
}
