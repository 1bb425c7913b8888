//! A store can be wrapped without tricks: a layer that shows one subtree under shorter names.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kv_core::implement::Hold;
use kv_core::*;
use kv_mem::{MemConfig, MemStore};

/// Everything below `prefix` of another store. It hands on no power of its own trait: `as_…` is `None`
/// unless a layer says otherwise.
#[derive(Clone, Debug)]
struct Below {
    inner: Arc<dyn Store>,
    prefix: Prefix,
    capabilities: Capabilities,
}

impl Below {
    fn new(inner: Arc<dyn Store>, prefix: &str, lacks: &[Power]) -> Self {
        let lacks = lacks.iter().chain(&[
            Power::Transactions,
            Power::LockView,
            Power::History,
            Power::Cluster,
            Power::Storage,
            Power::Access,
        ]);
        let declared = inner.capabilities().clone();
        let capabilities = lacks.fold(declared, |declared, power| declared.without_power(*power));
        Self { inner, prefix: prefix.parse().unwrap(), capabilities }
    }

    fn down(&self, key: &Key) -> Result<Key> {
        self.prefix.join(key.as_str())
    }

    fn up(&self, key: &Key) -> Key {
        self.prefix.relative(key).unwrap().parse().unwrap()
    }

    fn entry(&self, mut entry: Entry) -> Entry {
        entry.key = self.up(&entry.key);
        entry
    }

    fn error(&self, error: Error) -> Error {
        let prefix = format!("{}/", self.prefix);
        error.map_key(|key| key.strip_prefix(&prefix).unwrap_or(key).to_owned())
    }

    fn down_prefix(&self, prefix: &Prefix) -> Result<Prefix> {
        match prefix.to_key() {
            Some(key) => self.down(&key).map(Prefix::from),
            None => Ok(self.prefix.clone()),
        }
    }
}

/// A hold under its shorter name.
struct Held(LockGuard, Below);

#[async_trait]
impl Hold for Held {
    fn fence(&self) -> Fence {
        let fence = self.0.fence();
        let key = self.1.up(fence.key());
        fence.with_key(key)
    }
    fn loss(&self) -> Option<LockLoss> {
        self.0.loss()
    }
    async fn lost(&self) -> LockLoss {
        Hold::lost(&self.0).await
    }
    fn grace(&self) -> Duration {
        self.0.grace()
    }
    async fn unlock(&self) -> Result<()> {
        Hold::unlock(&self.0).await.map_err(|error| self.1.error(error))
    }
    fn release(&self) {
        self.0.release();
    }
}

#[async_trait]
impl Store for Below {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    async fn get_opts(&self, key: &Key, options: GetOptions) -> Result<Option<Entry>> {
        self.capabilities.admit_get(key, &options)?;
        let found =
            self.inner.get_opts(&self.down(key)?, options).await.map_err(|error| self.error(error))?;
        Ok(found.map(|entry| self.entry(entry)))
    }
    async fn put_opts(&self, key: &Key, value: Bytes, mut options: PutOptions) -> Result<PutResult> {
        self.capabilities.admit_put(key, &value, &options)?;
        if let Some(fence) = options.fence.take() {
            let key = self.down(fence.key())?;
            options.fence = Some(fence.with_key(key));
        }
        self.inner.put_opts(&self.down(key)?, value, options).await.map_err(|error| self.error(error))
    }
    async fn delete_opts(&self, key: &Key, options: DeleteOptions) -> Result<DeleteResult> {
        self.capabilities.admit_delete(key, &options)?;
        let mut deleted =
            self.inner.delete_opts(&self.down(key)?, options).await.map_err(|error| self.error(error))?;
        deleted.previous = deleted.previous.map(|entry| self.entry(entry));
        Ok(deleted)
    }
    async fn list_opts(&self, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
        self.capabilities.admit_list(prefix.as_str(), &options)?;
        let listing = self.inner.list_opts(&self.down_prefix(prefix)?, options).await?;
        let this = self.clone();
        Ok(listing.map_items(move |item| match item {
            Ok(ListItem::Entry(entry)) => Ok(ListItem::Entry(this.entry(entry))),
            Ok(ListItem::Key(key)) => Ok(ListItem::Key(this.up(&key))),
            Ok(other) => Ok(other),
            Err(error) => Err(this.error(error)),
        }))
    }
    async fn delete_tree_opts(&self, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64> {
        self.inner.delete_tree_opts(&self.down_prefix(prefix)?, options).await
    }
    async fn watch_opts(&self, target: WatchTarget, options: WatchOptions) -> Result<Watch> {
        self.capabilities.admit_watch(&target, &options)?;
        let target = match target {
            WatchTarget::Key(key) => WatchTarget::key(self.down(&key)?),
            WatchTarget::Prefix(prefix) => WatchTarget::below(self.down_prefix(&prefix)?),
            WatchTarget::Tree(key) => WatchTarget::tree(self.down(&key)?),
            _ => return Err(Error::unsupported("this kind of watch")),
        };
        let watch = self.inner.watch_opts(target, options).await?;
        let this = self.clone();
        Ok(watch.map_events(move |event| match event {
            Ok(WatchEvent::Put(entry)) => Ok(WatchEvent::Put(this.entry(entry))),
            Ok(WatchEvent::Delete(mut deletion)) => {
                deletion.key = this.up(&deletion.key);
                deletion.previous = deletion.previous.map(|entry| this.entry(entry));
                Ok(WatchEvent::Delete(deletion))
            }
            other => other,
        }))
    }
    async fn lock_opts(&self, key: &Key, options: LockOptions) -> Result<LockGuard> {
        self.capabilities.admit_lock(key, &options)?;
        let guard = self.inner.lock_opts(&self.down(key)?, options).await?;
        Ok(LockGuard::new(Held(guard, self.clone())))
    }
    async fn lock_holder_opts(&self, key: &Key, options: CallOptions) -> Result<Option<LockHolder>> {
        self.inner.lock_holder_opts(&self.down(key)?, options).await
    }
    fn session(&self) -> SessionState {
        self.inner.session()
    }
    fn session_states(&self) -> SessionStates {
        self.inner.session_states()
    }
    async fn server_opts(&self, options: CallOptions) -> Result<ServerInfo> {
        self.inner.server_opts(options).await
    }
    async fn close_opts(&self, options: CallOptions) -> Result<()> {
        self.inner.close_opts(options).await
    }
}

fn stores(lacks: &[Power]) -> (Arc<dyn Store>, Below) {
    let inner: Arc<dyn Store> = Arc::new(MemStore::open(MemConfig::new()).unwrap());
    let below = Below::new(Arc::clone(&inner), "app", lacks);
    (inner, below)
}

#[tokio::test(flavor = "current_thread")]
async fn a_layer_maps_entries_items_events_errors_and_guards() {
    let (inner, below) = stores(&[]);
    let mut watch = below.watch("").await.unwrap();
    below.put("a", "1").await.unwrap();
    assert_eq!(inner.get("app/a").await.unwrap().unwrap().text().unwrap(), "1");
    assert_eq!(below.entries("").await.unwrap()[0].key.as_str(), "a");
    let event = watch.next().await.unwrap().unwrap();
    assert_eq!(event.key().unwrap().as_str(), "a");
    assert!(event.is_create() && event.version().is_some());
    assert_eq!(below.create("a", "2").await.unwrap_err().key(), Some("a"));

    let guard = below.lock("job").await.unwrap();
    assert_eq!(guard.key().as_str(), "job");
    let fenced = PutOptions::default().with_fence(guard.fence());
    below.put_with("a", "3", fenced).await.unwrap();
    assert!(inner.lock_holder("app/job").await.unwrap().is_some());
    drop(guard);
    assert!(inner.try_lock("app/job").await.unwrap().is_some(), "dropping the layer's guard releases it");
}

#[tokio::test(flavor = "current_thread")]
async fn a_layer_that_forgets_a_power_loses_it() {
    let (inner, below) = stores(&[]);
    assert!(inner.as_transact().is_some() && below.as_transact().is_none());
    let error = below.transact(Txn::always()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_keys_only_list_has_no_entries() {
    let (_, below) = stores(&[]);
    below.put("a", "1").await.unwrap();
    let listing = below.list_with("", ListOptions::default().with_keys_only()).await.unwrap();
    let error = listing.entries().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidArgument { .. }), "{error}");
}

#[tokio::test(flavor = "current_thread")]
async fn an_update_keeps_the_expiry_or_is_refused() {
    let hour = Duration::from_secs(3600);
    for lacks in [&[][..], &[Power::KeepExpiry]] {
        let (inner, below) = stores(lacks);
        below.put_ttl("t", "0", hour).await.unwrap();
        below.put("p", "0").await.unwrap();
        let updated = below.update("t", |_| Some("1".into())).await;
        let found = inner.get_with("app/t", GetOptions::default().with_expiry()).await.unwrap().unwrap();
        assert!(matches!(found.expiry, Some(EntryExpiry::Ttl { granted, .. }) if granted == hour));
        if lacks.is_empty() {
            assert_eq!((updated.unwrap(), found.value), (Some(found.version), "1".into()));
        } else {
            let error = updated.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
            assert_eq!(found.value, "0");
        }
        // What never expires needs no power.
        below.update("p", |entry| entry.map(|_| "1".into())).await.unwrap().unwrap();
        assert_eq!(below.update("absent", |entry| entry.map(|_| "1".into())).await.unwrap(), None);
        assert_eq!(below.get("p").await.unwrap().unwrap().text().unwrap(), "1");
    }
}

/// What somebody else does between the read and the write of an update.
fn write_now(store: &Arc<dyn Store>, key: &str) {
    std::thread::scope(|scope| {
        let write = || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(store.put(key, "theirs")).unwrap();
        };
        scope.spawn(write).join().unwrap();
    });
}

#[tokio::test(flavor = "current_thread")]
async fn an_update_asks_again_when_somebody_was_faster_and_gives_up_in_the_end() {
    let (inner, below) = stores(&[]);
    below.put("n", "0").await.unwrap();
    let mut asked = 0;
    let updated = below.update("n", |_| {
        asked += 1;
        if asked < 4 {
            write_now(&inner, "app/n");
        }
        Some("ours".into())
    });
    assert!(updated.await.unwrap().is_some());
    assert_eq!(asked, 4);
    let updated = below.update_with("n", UpdateOptions::default().with_attempts(2), |_| {
        write_now(&inner, "app/n");
        Some("ours".into())
    });
    let error = updated.await.unwrap_err();
    assert!(error.is_conflict() && error.to_string().contains("2 times in a row"), "{error}");
}

#[tokio::test(flavor = "current_thread")]
async fn what_became_of_a_conditional_write_is_settled() {
    let (_, below) = stores(&[]);
    let version = below.put("a", "old").await.unwrap();
    let Settled::Applied(applied) = below.settle("a", Some(version), "new").await.unwrap() else {
        panic!("not applied")
    };
    // Now the first one was applied: the same again must not be.
    let Settled::Undecided { current: Some(current) } =
        below.settle("a", Some(version), "new").await.unwrap()
    else {
        panic!("applied twice")
    };
    assert_eq!((current.version, current.text().unwrap()), (applied, "new"));
    assert!(matches!(below.settle("b", None, "x").await.unwrap(), Settled::Applied(_)));
}

#[tokio::test(flavor = "current_thread")]
async fn touching_changes_the_expiry_and_nothing_else() {
    let (_, below) = stores(&[]);
    assert_eq!(below.touch("t", Expiry::Never).await.unwrap_err().kind(), &ErrorKind::NotFound);
    below.put_session("t", "x").await.unwrap();
    below.touch("t", Expiry::Never).await.unwrap();
    let found = below.get_with("t", GetOptions::default().with_expiry()).await.unwrap();
    let found = found.unwrap();
    assert_eq!((found.text().unwrap(), found.expiry), ("x", Some(EntryExpiry::Never)));
    below.compare_value_and_delete("t", "y").await.unwrap_err();
    below.compare_value_and_delete("t", "x").await.unwrap();
}
