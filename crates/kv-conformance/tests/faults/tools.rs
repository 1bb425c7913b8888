//! What faults share: short calls on the memory store, and ways to bend its streams and guards.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use kv_core::implement::Hold;
use kv_core::{
    Entry, Fence, FencingToken, Key, ListItem, ListOptions, Listing, LockGuard, LockLoss, Prefix, PutOptions,
    Result, Store, StoreExt, Watch, WatchEvent, WatchOptions, WatchTarget,
};

pub(crate) use std::collections::{BTreeMap, BTreeSet};

pub(crate) type Shared<T> = Arc<Mutex<T>>;

pub(crate) fn shared<T: Default>() -> Shared<T> {
    Arc::default()
}

/// Looks at or changes shared state.
pub(crate) fn with<T, R>(shared: &Shared<T>, work: impl FnOnce(&mut T) -> R) -> R {
    work(&mut shared.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Which handle a hook was called on.
pub(crate) fn id(store: &Arc<dyn Store>) -> usize {
    Arc::as_ptr(store).cast::<()>() as usize
}

pub(crate) async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// The entries below `prefix`, changed, as a listing.
pub(crate) async fn relist(
    store: &Arc<dyn Store>,
    prefix: &Prefix,
    options: ListOptions,
    change: impl FnOnce(Vec<ListItem>) -> Vec<ListItem>,
) -> Result<Listing> {
    let listing = store.list_with(prefix, options).await?;
    let as_of = listing.as_of();
    let items: Vec<ListItem> = listing.try_collect().await?;
    Ok(Listing::new(as_of, stream::iter(change(items).into_iter().map(Ok))))
}

/// Changes the entry of an item.
pub(crate) fn with_entry(item: ListItem, change: impl FnOnce(&mut Entry)) -> ListItem {
    match item {
        ListItem::Entry(mut entry) => {
            change(&mut entry);
            ListItem::Entry(entry)
        }
        other => other,
    }
}

/// The memory store's watch with events left out, changed or doubled.
pub(crate) async fn rewatch<S>(
    store: &Arc<dyn Store>,
    target: WatchTarget,
    options: WatchOptions,
    mut change: impl FnMut(WatchEvent) -> S + Send + 'static,
) -> Result<Watch>
where
    S: IntoIterator<Item = WatchEvent>,
    S::IntoIter: Send + 'static,
{
    let watch = store.watch_with(target, options).await?;
    Ok(Watch::new(watch.flat_map(move |event| match event {
        Ok(event) => stream::iter(change(event).into_iter().map(Ok).collect::<Vec<_>>()),
        Err(error) => stream::iter(vec![Err(error)]),
    })))
}

/// A stream that goes on for ever without a word.
pub(crate) fn silence<T: Send + 'static>() -> impl Stream<Item = T> + Send {
    stream::pending()
}

pub(crate) async fn put_any(store: &Arc<dyn Store>, key: &Key, entry: &Entry) -> Result<()> {
    store.put_with(key, entry.value.clone(), PutOptions::default()).await.map(drop)
}

/// Whether anything lies below a key.
pub(crate) async fn has_children(store: &Arc<dyn Store>, key: &Key) -> Result<bool> {
    Ok(!store.keys(key).await?.is_empty())
}

/// How a guard lies.
pub(crate) enum Twist {
    /// It tells this token.
    Token(u64),
    /// It tells this key.
    Key(Key),
    /// Its fence names this record.
    Record(String),
    /// It tells this grace.
    Grace(Duration),
    /// It never tells a loss.
    NeverLost,
    /// Its unlock answers before anything was released.
    LazyUnlock,
    /// Dropping it releases nothing.
    KeptWhenDropped,
    /// Unlocking or dropping it removes whoever's record lies under its key.
    Meddling(Arc<dyn Store>),
}

/// A guard that lies in one way.
pub(crate) fn twisted(guard: LockGuard, twist: Twist) -> LockGuard {
    LockGuard::new(Twisted { guard: Mutex::new(Some(guard)), twist })
}

struct Twisted {
    guard: Mutex<Option<LockGuard>>,
    twist: Twist,
}

impl Twisted {
    fn inner<R>(&self, ask: impl FnOnce(&LockGuard) -> R) -> Option<R> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(ask)
    }

    fn take(&self) -> Option<LockGuard> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn in_background(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(work);
    }
}

#[async_trait]
impl Hold for Twisted {
    fn fence(&self) -> Fence {
        let fence = self.inner(LockGuard::fence).expect("asked while the guard is made");
        match &self.twist {
            Twist::Token(token) => Fence::new(fence.key().clone(), FencingToken::new(*token), fence.record()),
            Twist::Key(key) => Fence::new(key.clone(), fence.token(), fence.record()),
            Twist::Record(record) => Fence::new(fence.key().clone(), fence.token(), record.as_str()),
            _ => fence,
        }
    }

    fn loss(&self) -> Option<LockLoss> {
        match self.twist {
            Twist::NeverLost => None,
            _ => self.inner(LockGuard::loss).unwrap_or(Some(LockLoss::Released)),
        }
    }

    async fn lost(&self) -> LockLoss {
        let lost =
            self.inner(|guard| Box::pin(guard.lost()) as Pin<Box<dyn Future<Output = LockLoss> + Send>>);
        match (&self.twist, lost) {
            (Twist::NeverLost, _) => std::future::pending().await,
            (_, Some(lost)) => lost.await,
            (_, None) => LockLoss::Released,
        }
    }

    fn grace(&self) -> Duration {
        match self.twist {
            Twist::Grace(grace) => grace,
            _ => self.inner(LockGuard::grace).unwrap_or_default(),
        }
    }

    async fn unlock(&self) -> Result<()> {
        let Some(guard) = self.take() else { return Ok(()) };
        match &self.twist {
            Twist::LazyUnlock => {
                in_background(async move {
                    pause(300).await;
                    drop(guard);
                });
                Ok(())
            }
            Twist::Meddling(store) => {
                store.delete_tree(guard.key()).await?;
                Ok(())
            }
            _ => guard.unlock().await,
        }
    }

    fn release(&self) {
        let Some(guard) = self.take() else { return };
        match &self.twist {
            Twist::KeptWhenDropped => std::mem::forget(guard),
            Twist::Meddling(store) => {
                let store = Arc::clone(store);
                in_background(async move {
                    let _ = store.delete_tree(guard.key()).await;
                });
            }
            _ => drop(guard),
        }
    }
}
