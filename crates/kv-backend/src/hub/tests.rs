//! The hub against a small store that keeps its state in a map.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use futures_util::{FutureExt, StreamExt, stream};
use kv_core::{
    Bytes, DeleteCause, Entry, Error, ErrorKind, Key, Prefix, Result, Version, Watch, WatchEvent,
    WatchFilter, WatchOptions, WatchTarget,
};
use parking_lot::Mutex;

use super::*;

/// A store of one handle, with a page of two entries.
struct Toy {
    hub: Hub,
    handle: HandleId,
    namespace: Arc<Namespace>,
    entries: Mutex<(u64, BTreeMap<Key, Entry>)>,
    pages_read: AtomicUsize,
}

impl Toy {
    fn new(options: HubOptions) -> Arc<Self> {
        let hub = Hub::new("toy", options, Version::ZERO);
        let handle = HandleId::unique();
        hub.open(handle);
        Arc::new(Self {
            hub,
            handle,
            namespace: namespace(""),
            entries: Mutex::default(),
            pages_read: AtomicUsize::new(0),
        })
    }

    fn put(&self, key: &str) -> usize {
        self.put_value(key, Bytes::new())
    }

    fn put_value(&self, key: &str, value: Bytes) -> usize {
        let key = Key::new(key).unwrap();
        let mut entries = self.entries.lock();
        entries.0 += 1;
        let version = Version::new(entries.0);
        let entry = Entry::new(key.clone(), value, version, version);
        entries.1.insert(key, entry.clone());
        let wakes = self.hub.publish([Change::put(Arc::clone(&self.namespace), entry)]);
        wakes.len()
    }

    fn delete(&self, key: &str) {
        let mut entries = self.entries.lock();
        entries.0 += 1;
        let previous = entries.1.remove(key).unwrap();
        let version = Version::new(entries.0);
        let deletion = Change::delete(Arc::clone(&self.namespace), previous, version, DeleteCause::Deleted);
        self.hub.publish([deletion]).wake();
    }

    async fn watch(self: &Arc<Self>, target: &str, options: WatchOptions) -> Result<Watch> {
        let target = match target.strip_suffix('/') {
            Some(prefix) => WatchTarget::Prefix(Prefix::new(prefix).unwrap()),
            None => WatchTarget::Key(Key::new(target).unwrap()),
        };
        self.hub.watch(self.handle, &self.namespace, Arc::new(Pager(Arc::clone(self))), target, options).await
    }
}

struct Pager(Arc<Toy>);

impl State for Pager {
    fn pages(&self, target: &WatchTarget, _: StateFor) -> Pages {
        let (toy, target) = (Arc::clone(&self.0), target.clone());
        stream::unfold(Some(None::<Key>), move |after| {
            let page = after.map(|after| {
                toy.pages_read.fetch_add(1, Ordering::Relaxed);
                let entries = toy.entries.lock();
                let behind = |key: &Key| after.as_ref().is_none_or(|after| key > after);
                let found =
                    entries.1.values().filter(|entry| behind(&entry.key) && target.matches(&entry.key));
                let page = Page { entries: found.take(2).cloned().collect(), as_of: Version::new(entries.0) };
                let next = (page.entries.len() == 2).then(|| Some(page.entries[1].key.clone()));
                (Ok(page), next)
            });
            std::future::ready(page)
        })
        .boxed()
    }
}

fn namespace(path: &str) -> Arc<Namespace> {
    Arc::new(Namespace::new(&Prefix::new(path).unwrap()).unwrap())
}

fn small() -> HubOptions {
    HubOptions::default().with_max_events(4)
}

/// More changes of one target than a small log and the target keep together.
const TOO_MANY: u64 = 4 + 1024 + 1;

fn show(event: Result<WatchEvent>) -> String {
    match event {
        Ok(WatchEvent::Put(entry)) => format!("+{}@{}", entry.key, entry.version),
        Ok(WatchEvent::Delete(deletion)) => format!("-{}@{}", deletion.key, deletion.version.unwrap()),
        Ok(WatchEvent::Resync) => "resync".to_owned(),
        Ok(WatchEvent::Synced) => "synced".to_owned(),
        Ok(other) => panic!("{other:?}"),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// Everything that is there now.
fn drain(watch: &mut Watch) -> String {
    let mut seen = Vec::new();
    while let Some(Some(event)) = watch.next().now_or_never() {
        seen.push(show(event));
    }
    seen.join(" ")
}

#[tokio::test]
async fn a_watch_sees_its_target_in_order_and_nothing_else() {
    let toy = Toy::new(HubOptions::default());
    toy.put("a/x");
    let mut tree = toy.watch("a/", WatchOptions::default()).await.unwrap();
    let mut key = toy.watch("a/b", WatchOptions::default()).await.unwrap();
    let mut all = toy.watch("/", WatchOptions::default()).await.unwrap();
    for key in ["a", "a/b", "a/b/c", "ab", "a/b"] {
        toy.put(key);
    }
    toy.delete("a/b");
    assert_eq!(drain(&mut tree), "+a/b@3 +a/b/c@4 +a/b@6 -a/b@7");
    assert_eq!(drain(&mut key), "+a/b@3 +a/b@6 -a/b@7");
    assert_eq!(drain(&mut all), "+a@2 +a/b@3 +a/b/c@4 +ab@5 +a/b@6 -a/b@7");
}

#[tokio::test]
async fn filters_choose_the_kind_of_change() {
    let toy = Toy::new(small());
    let mut puts = toy.watch("a", WatchOptions::default().with_filter(WatchFilter::Puts)).await.unwrap();
    let mut deletes =
        toy.watch("a", WatchOptions::default().with_filter(WatchFilter::Deletes)).await.unwrap();
    toy.put("a");
    toy.delete("a");
    assert_eq!(drain(&mut puts), "+a@1");
    assert_eq!(drain(&mut deletes), "-a@2");
    // More puts than the log holds cost a watch of deletes nothing.
    for _ in 0..TOO_MANY {
        toy.put("a");
    }
    assert_eq!(drain(&mut deletes), "");
    assert_eq!(drain(&mut puts), format!("resync +a@{} synced", TOO_MANY + 2));
}

#[tokio::test]
async fn unrelated_changes_never_make_a_watch_late() {
    let toy = Toy::new(small());
    let mut watch = toy.watch("a/", WatchOptions::default()).await.unwrap();
    for _ in 0..100 {
        toy.put("b");
    }
    toy.put("a/x");
    for _ in 0..3 {
        toy.put("b");
    }
    assert_eq!(drain(&mut watch), "+a/x@101");
    // Also not with changes it has not read.
    toy.put("a/x");
    toy.put("a/x");
    for _ in 0..100 {
        toy.put("b");
    }
    assert_eq!(drain(&mut watch), "+a/x@105 +a/x@106");
}

#[tokio::test]
async fn a_slow_watch_gets_the_state_and_goes_on_from_there() {
    let toy = Toy::new(small());
    let mut watch = toy.watch("/", WatchOptions::default()).await.unwrap();
    for _ in 0..TOO_MANY {
        toy.put("a");
    }
    for key in ["b", "c", "d"] {
        toy.put(key);
    }
    toy.delete("a");
    let [b, c, d] = [1, 2, 3].map(|later| TOO_MANY + later);
    assert_eq!(drain(&mut watch), format!("resync +b@{b} +c@{c} +d@{d} synced"));
    toy.put("b");
    assert_eq!(drain(&mut watch), format!("+b@{}", d + 2));
}

#[tokio::test]
async fn changes_while_the_state_is_read_are_neither_lost_nor_doubled() {
    let toy = Toy::new(HubOptions::default());
    for key in ["a", "b", "c", "d", "e"] {
        toy.put(key);
    }
    let mut watch = toy.watch("/", WatchOptions::default().with_initial()).await.unwrap();
    // The first page, up to b, has been read; c and e are read later, with what happens now.
    toy.put("a");
    toy.put("c");
    toy.put("aa");
    toy.delete("e");
    assert_eq!(drain(&mut watch), "+a@1 +b@2 +c@7 +d@4 synced +a@6 +aa@8");
    toy.put("c");
    assert_eq!(drain(&mut watch), "+c@10");
}

#[tokio::test]
async fn history_is_exact_or_compacted() {
    let toy = Toy::new(small());
    for _ in 0..3 {
        toy.put("a/x");
        toy.put("b");
    }
    let after = |version| WatchOptions::default().with_from(Version::new(version));
    assert_eq!(drain(&mut toy.watch("a/", after(2)).await.unwrap()), "+a/x@3 +a/x@5");
    assert_eq!(drain(&mut toy.watch("a/", after(3)).await.unwrap()), "+a/x@5");
    assert_eq!(drain(&mut toy.watch("a/", after(6)).await.unwrap()), "");
    let error = toy.watch("a/", after(1)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Compacted { oldest: Some(Version::new(2)) });
    assert_eq!(error.key(), Some("a"));
    assert_eq!(toy.hub.oldest(), Version::new(2));
    // A watch that shares its target with one that began later still gets its history.
    let mut now = toy.watch("a/", WatchOptions::default()).await.unwrap();
    let mut early = toy.watch("a/", after(3)).await.unwrap();
    toy.put("a/x");
    assert_eq!(drain(&mut now), "+a/x@7");
    assert_eq!(drain(&mut early), "+a/x@5 +a/x@7");
    // From a version that is yet to come, nothing before it.
    let mut later = toy.watch("a/", after(8)).await.unwrap();
    toy.put("a/x");
    toy.put("a/x");
    assert_eq!(drain(&mut later), "+a/x@9");
}

#[tokio::test]
async fn the_log_is_bounded_by_bytes_and_keeps_the_newest_change() {
    let toy = Toy::new(HubOptions::default().with_max_bytes(1));
    let mut watch = toy.watch("a", WatchOptions::default()).await.unwrap();
    toy.put("a");
    assert_eq!(drain(&mut watch), "+a@1");
    toy.put("a");
    toy.put("a");
    assert_eq!(toy.hub.oldest(), Version::new(2));
    assert_eq!(drain(&mut watch), "+a@2 +a@3");
}

#[tokio::test]
async fn closing_a_handle_ends_its_watches_and_no_others() {
    let toy = Toy::new(HubOptions::default());
    let other = HandleId::unique();
    toy.hub.open(other);
    let target = || WatchTarget::Key(Key::new("a").unwrap());
    let pager = Arc::new(Pager(Arc::clone(&toy)));
    let mut own = toy.watch("a", WatchOptions::default()).await.unwrap();
    let mut stays =
        toy.hub.watch(other, &toy.namespace, pager.clone(), target(), WatchOptions::default()).await.unwrap();
    let parked = park(&mut own);
    assert!(!parked.is_woken());
    toy.hub.close(toy.handle).wake();
    assert!(parked.is_woken());
    drop(parked);
    assert_eq!(drain(&mut own), "Closed");
    assert!(own.next().await.is_none());
    let refused = toy.hub.watch(toy.handle, &toy.namespace, pager, target(), WatchOptions::default()).await;
    assert_eq!(*refused.unwrap_err().kind(), ErrorKind::Closed);
    toy.put("a");
    assert_eq!(drain(&mut stays), "+a@1");
    drop((own, stays));
    assert_eq!(toy.hub.watches(), 0);
    assert!(toy.hub.shared.inner.lock().topics.is_empty());
}

#[tokio::test]
async fn a_state_that_cannot_be_read_ends_the_watch() {
    struct Broken;
    impl State for Broken {
        fn pages(&self, _: &WatchTarget, _: StateFor) -> Pages {
            stream::iter([Err(Error::new(ErrorKind::Corrupt))]).boxed()
        }
    }
    let toy = Toy::new(small());
    let target = || WatchTarget::Prefix(Prefix::root());
    let begin = |options| toy.hub.watch(toy.handle, &toy.namespace, Arc::new(Broken), target(), options);
    let error = begin(WatchOptions::default().with_initial()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Corrupt);
    assert_eq!(toy.hub.watches(), 0);
    let mut watch = begin(WatchOptions::default()).await.unwrap();
    for _ in 0..TOO_MANY {
        toy.put("a");
    }
    assert_eq!(drain(&mut watch), "resync Corrupt");
    assert_eq!(toy.hub.watches(), 0);
}

#[tokio::test]
async fn a_state_whose_version_is_gone_is_begun_again() {
    /// Pages of the toy, the first so many of which come too late.
    struct TooLate(Arc<Toy>, Mutex<Vec<bool>>);
    impl State for TooLate {
        fn pages(&self, target: &WatchTarget, wanted_for: StateFor) -> Pages {
            let mut is_late = std::mem::take(&mut *self.1.lock()).into_iter();
            let pages = Pager(Arc::clone(&self.0)).pages(target, wanted_for);
            let pages = pages.map(move |page| match is_late.next() {
                Some(true) => Err(ErrorKind::Compacted { oldest: None }.into()),
                Some(false) | None => page,
            });
            pages.boxed()
        }
    }
    let toy = Toy::new(small());
    for key in ["a", "b", "c"] {
        toy.put(key);
    }
    let begin = |late: &[bool]| {
        let state = Arc::new(TooLate(Arc::clone(&toy), Mutex::new(late.to_vec())));
        let options = WatchOptions::default().with_initial();
        toy.hub.watch(toy.handle, &toy.namespace, state, WatchTarget::Prefix(Prefix::root()), options)
    };
    // Before anything was delivered, nobody notices.
    let mut watch = begin(&[true]).await.unwrap();
    assert_eq!(drain(&mut watch), "+a@1 +b@2 +c@3 synced");
    let mut watch = begin(&[false, true]).await.unwrap();
    toy.put("a");
    assert_eq!(drain(&mut watch), "+a@1 +b@2 resync +a@4 +b@2 +c@3 synced");
    toy.put("c");
    assert_eq!(drain(&mut watch), "+c@5");
}

#[tokio::test]
async fn what_the_store_cannot_tell_makes_every_watch_begin_again() {
    let toy = Toy::new(HubOptions::default());
    toy.put("a/x");
    let from = |version| WatchOptions::default().with_from(Version::new(version));
    let mut reads = toy.watch("a/", WatchOptions::default()).await.unwrap();
    let mut behind = toy.watch("a/", from(0)).await.unwrap();
    let mut initial = toy.watch("a/", WatchOptions::default().with_initial()).await.unwrap();
    let parked = park(&mut reads);
    toy.entries.lock().0 = 7;
    toy.hub.lose_all(Version::new(7)).wake();
    assert!(parked.is_woken());
    assert_eq!((toy.hub.oldest(), toy.hub.newest()), (Version::new(7), Version::new(7)));
    assert_eq!(drain(&mut reads), "resync +a/x@1 synced");
    assert_eq!(drain(&mut behind), "resync +a/x@1 synced");
    assert_eq!(drain(&mut initial), "+a/x@1 synced resync +a/x@1 synced");
    let error = toy.watch("a/", from(6)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Compacted { oldest: Some(Version::new(7)) });
    let mut new = toy.watch("a/", from(7)).await.unwrap();
    toy.put("a/y");
    for watch in [&mut reads, &mut behind, &mut initial, &mut new] {
        assert_eq!(drain(watch), "+a/y@8");
    }
}

#[tokio::test]
async fn handles_see_the_keys_of_their_own_namespace() {
    let toy = Toy::new(HubOptions::default());
    let pager = Arc::new(Pager(Arc::clone(&toy)));
    let below = namespace("app");
    let watch = |namespace: Arc<Namespace>, target: WatchTarget| {
        let (hub, handle, pager) = (toy.hub.clone(), toy.handle, pager.clone());
        async move { hub.watch(handle, &namespace, pager, target, WatchOptions::default()).await.unwrap() }
    };
    let key = Key::new("a").unwrap();
    let mut tree = watch(below.clone(), Prefix::root().into()).await;
    let mut one = watch(below.clone(), key.clone().into()).await;
    let mut root = watch(namespace(""), Prefix::root().into()).await;
    toy.put("a");
    toy.put("app/a");
    let version = Version::new(3);
    let entry = Entry::new(key, Bytes::new(), version, version);
    toy.hub.publish([Change::put(below, entry)]).wake();
    assert_eq!(drain(&mut tree), "+a@2 +a@3");
    assert_eq!(drain(&mut one), "+a@2 +a@3");
    assert_eq!(drain(&mut root), "+a@1 +app/a@2 +app/a@3");
}

#[tokio::test]
async fn a_write_wakes_each_watch_it_matches_once_and_no_other() {
    let toy = Toy::new(HubOptions::default());
    let mut others = Vec::new();
    for number in 0..1000 {
        others.push(toy.watch(&format!("other/{number}/"), WatchOptions::default()).await.unwrap());
    }
    let mut own = toy.watch("a/", WatchOptions::default()).await.unwrap();
    let unwoken: Vec<Parked> = others.iter_mut().map(park).collect();
    let parked = park(&mut own);
    assert_eq!(toy.put("a/x"), 1);
    assert_eq!(toy.put("a/y"), 0, "one that was woken and has not looked is not woken again");
    assert!(parked.is_woken());
    assert!(unwoken.iter().all(|watch| !watch.is_woken()));
    assert_eq!(drain(&mut own), "+a/x@1 +a/y@2");
}

#[tokio::test]
async fn what_is_kept_for_watches_is_bounded_and_goes_when_it_is_read() {
    let toy = Toy::new(small());
    let mut watches = [
        toy.watch("a/", WatchOptions::default()).await.unwrap(),
        toy.watch("a/", WatchOptions::default()).await.unwrap(),
    ];
    let listed = || toy.hub.shared.inner.lock().topics.listed();
    for number in 0..2 * TOO_MANY {
        toy.put(&format!("a/{}", number % 7));
    }
    assert_eq!(listed() as u64, TOO_MANY - 1);
    for watch in &mut watches {
        assert!(drain(watch).starts_with("resync"));
    }
    assert_eq!(listed(), 0);
    // One that begins in the past shares the target with those that have read it.
    let from = WatchOptions::default().with_from(Version::new(2 * TOO_MANY - 1));
    let mut early = toy.watch("a/", from).await.unwrap();
    assert_eq!(drain(&mut early).split(' ').count(), 1);
    let large = Bytes::from(vec![0; 200 << 10]);
    for _ in 0..8 {
        toy.put_value("a/large", large.clone());
    }
    assert!(listed() < 8);
}

/// A watch that was polled and waits.
struct Parked(Arc<AtomicUsize>);

impl Parked {
    fn is_woken(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

fn park(watch: &mut Watch) -> Parked {
    struct Count(Arc<AtomicUsize>);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let woken = Arc::new(AtomicUsize::new(0));
    let waker = Waker::from(Arc::new(Count(woken.clone())));
    assert!(watch.poll_next_unpin(&mut Context::from_waker(&waker)).is_pending());
    Parked(woken)
}
