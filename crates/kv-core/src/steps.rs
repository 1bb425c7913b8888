//! The short forms of [`StoreExt`](crate::StoreExt) that are more than one call.

use std::collections::BTreeSet;
use std::pin::pin;
use std::task::Poll;

use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::fence::Fence;
use crate::key::{Key, Prefix};
use crate::list::ListItem;
use crate::lock::{LockGuard, LockOptions, LockWait};
use crate::options::ListOptions;
use crate::store::Store;
use crate::watch::{WatchOptions, WatchTarget, ended_silently};
use crate::watch_state::WatchState;

pub(crate) async fn keys<S: Store + ?Sized>(store: &S, prefix: &Prefix) -> Result<Vec<Key>> {
    let mut listing = store.list_opts(prefix, ListOptions::default().with_keys_only()).await?;
    let mut keys = Vec::new();
    while let Some(item) = listing.next().await {
        keys.extend(item?.key().cloned());
    }
    Ok(keys)
}

pub(crate) async fn children<S: Store + ?Sized>(store: &S, prefix: &Prefix) -> Result<Vec<ListItem>> {
    let mut listing = store.list_opts(prefix, ListOptions::default().with_one_level()).await?;
    let mut items = Vec::new();
    while let Some(item) = listing.next().await {
        items.push(item?);
    }
    Ok(items)
}

pub(crate) async fn child_names<S: Store + ?Sized>(store: &S, prefix: &Prefix) -> Result<Vec<String>> {
    let options = ListOptions::default().with_one_level().with_keys_only();
    let mut listing = store.list_opts(prefix, options).await?;
    // A sub-prefix need not stand behind the entry of its name: `a-b` lies between `a` and `a/`.
    let mut names = BTreeSet::new();
    while let Some(item) = listing.next().await {
        names.insert(item?.name().to_owned());
    }
    Ok(names.into_iter().collect())
}

pub(crate) async fn wait_for<S: Store + ?Sized>(
    store: &S,
    key: &Key,
    mut wanted: impl FnMut(Option<&Entry>) -> bool + Send,
) -> Result<Option<Entry>> {
    let options = WatchOptions::default().with_initial();
    let mut watch = store.watch_opts(WatchTarget::key(key), options).await?;
    let mut state = WatchState::new();
    while let Some(event) = watch.next().await {
        state.apply(event?);
        let entry = state.get(key);
        if state.is_complete() && wanted(entry) {
            return Ok(entry.cloned());
        }
    }
    Err(ended_silently())
}

pub(crate) async fn try_lock<S: Store + ?Sized>(store: &S, key: &Key) -> Result<Option<LockGuard>> {
    match store.lock_opts(key, LockOptions::default().with_wait(LockWait::Try)).await {
        Ok(guard) => Ok(Some(guard)),
        Err(error) if *error.kind() == ErrorKind::Locked => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) async fn with_lock<S, T, W>(
    store: &S,
    key: &Key,
    options: LockOptions,
    work: impl FnOnce(Fence) -> W + Send,
) -> Result<T>
where
    S: Store + ?Sized,
    W: Future<Output = T> + Send,
    T: Send,
{
    let guard = store.lock_opts(key, options).await?;
    let done = {
        let mut work = pin!(work(guard.fence()));
        let mut lost = pin!(guard.lost());
        std::future::poll_fn(|cx| {
            // The loss is looked at first: work must not go on after it.
            if let Poll::Ready(loss) = lost.as_mut().poll(cx) {
                return Poll::Ready(Err(loss));
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    };
    match done {
        Ok(value) => match guard.unlock().await {
            Err(error) if matches!(error.kind(), ErrorKind::NotHeld { .. }) => Err(error),
            _ => Ok(value),
        },
        Err(loss) => Err(Error::not_held(loss).with_operation(Operation::Lock).with_key(key.as_str())),
    }
}
