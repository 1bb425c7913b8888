//! Steps that cases share: short calls, refusals, and waiting with a deadline.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::{TryStreamExt, stream};
use kv_core::{
    DeleteOptions, DeleteResult, Entry, EntryExpiry, ErrorKind, Expiry, GetOptions, IntoValue, Key, ListItem,
    ListOptions, LockGuard, LockOptions, LockWait, Precondition, Prefix, PutOptions, PutResult, Store,
    StoreExt,
};

use tokio::task::JoinSet;

use crate::fixture::{Fixture, PATIENCE};

/// Fails the case unless both are equal.
macro_rules! ensure_eq {
    ($found:expr, $expected:expr, $($what:tt)+) => {{
        let (found, expected) = (&$found, &$expected);
        if found != expected {
            anyhow::bail!("{}: expected {expected:?}, found {found:?}", format_args!($($what)+));
        }
    }};
}
pub(crate) use ensure_eq;

/// The error of a call that must be refused in one way; any other answer fails the case.
macro_rules! refused {
    ($call:expr, $kind:pat $(if $guard:expr)?, $($what:tt)+) => {
        match $call {
            Err(error) if matches!(error.kind(), $kind $(if $guard)?) => error,
            Err(error) => {
                let wanted = format!("{}: expected {}", format_args!($($what)+), stringify!($kind));
                return Err(anyhow::Error::new(error).context(wanted));
            }
            Ok(answer) => anyhow::bail!(
                "{}: expected {}, but it answered {answer:?}", format_args!($($what)+), stringify!($kind)
            ),
        }
    };
}
pub(crate) use refused;

pub(crate) fn key(text: &str) -> Result<Key> {
    Ok(Key::new(text)?)
}

pub(crate) async fn put_if(
    store: &impl Store,
    key: &Key,
    value: impl IntoValue,
    precondition: Precondition,
) -> kv_core::Result<PutResult> {
    store.put_with(key, value, PutOptions::default().with_precondition(precondition)).await
}

pub(crate) async fn put_expiring(
    store: &impl Store,
    key: &Key,
    value: impl IntoValue,
    expiry: Expiry,
) -> kv_core::Result<PutResult> {
    store.put_with(key, value, PutOptions::default().with_expiry(expiry)).await
}

pub(crate) async fn delete_if(
    store: &impl Store,
    key: &Key,
    precondition: Precondition,
) -> kv_core::Result<DeleteResult> {
    store.delete_with(key, DeleteOptions::default().with_precondition(precondition)).await
}

/// The entry that must be under `key`.
pub(crate) async fn entry(store: &impl Store, key: &Key) -> Result<Entry> {
    store.get(key).await?.with_context(|| format!("{key:?} is absent"))
}

/// How the entry under `key` expires, as the store tells when asked.
pub(crate) async fn expiry_of(store: &impl Store, key: &Key) -> Result<EntryExpiry> {
    let entry = store.get_with(key, GetOptions::default().with_expiry()).await?;
    let entry = entry.with_context(|| format!("{key:?} is absent"))?;
    entry.expiry.with_context(|| format!("the expiry of {key:?} was asked for and not told"))
}

pub(crate) async fn list(store: &impl Store, prefix: &str, options: ListOptions) -> Result<Vec<ListItem>> {
    Ok(store.list_with(&Prefix::new(prefix)?, options).await?.try_collect().await?)
}

/// The keys below `prefix`, as text.
pub(crate) async fn names(store: &impl Store, prefix: &str) -> Result<Vec<String>> {
    Ok(store.keys(prefix).await?.iter().map(ToString::to_string).collect())
}

/// Puts `count` entries, many at a time.
pub(crate) async fn fill(
    store: &impl Store,
    count: usize,
    entry: impl Fn(usize) -> (String, String),
) -> Result<()> {
    stream::iter((0..count).map(entry).map(Ok))
        .try_for_each_concurrent(32, |(key, value)| async move {
            store.put(key, value).await.map(drop).map_err(anyhow::Error::new)
        })
        .await
}

/// Waits for a lock that must be had soon.
pub(crate) async fn lock(store: &impl Store, key: &Key) -> Result<LockGuard> {
    let options = LockOptions::default().with_wait(LockWait::UpTo(PATIENCE));
    store.lock_with(key, options).await.with_context(|| format!("the lock {key:?} should be free"))
}

/// Tries a lock without waiting.
pub(crate) async fn try_lock(store: &impl Store, key: &Key) -> kv_core::Result<LockGuard> {
    store.lock_with(key, LockOptions::default().with_wait(LockWait::Try)).await
}

/// Gives what was begun on this handle before, such as a wait for a lock, the time to get where it waits:
/// as long as a few locks take here, which is longer where everything takes longer.
pub(crate) async fn settle(store: &impl Store) -> Result<()> {
    tokio::time::sleep(Duration::from_millis(50)).await;
    for round in 0..3 {
        lock(store, &key(&format!("settling/{round}"))?).await?.unlock().await?;
    }
    Ok(())
}

/// Begins `work` at once, as a task of its own, which ends when what is returned is dropped. An
/// in-process store answers without ever waiting, so that on one task calls would only take turns.
pub(crate) fn at_once<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> + Send {
    let mut task = JoinSet::new();
    task.spawn(work);
    async move {
        match task.join_next().await {
            Some(Ok(done)) => done,
            Some(Err(failed)) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            // Stopped along with the runtime.
            _ => std::future::pending().await,
        }
    }
}

/// What comes of `future`, which must not take longer than a busy machine explains.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    within(PATIENCE, what, future).await
}

/// What comes of `future`, which must not take longer than `limit`.
pub(crate) async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> Result<T> {
    match tokio::time::timeout(limit, future).await {
        Ok(done) => Ok(done),
        Err(_) => bail!("{what}: not within {limit:?}"),
    }
}

/// Asks again and again until the answer is yes; fails after `limit`. The last question is asked
/// after it, so that a slow machine cannot turn a yes into a no.
pub(crate) async fn until<A>(limit: Duration, what: &str, mut ask: impl FnMut() -> A) -> Result<()>
where
    A: Future<Output = Result<bool>>,
{
    let deadline = Instant::now() + limit;
    loop {
        let asked = Instant::now();
        if ask().await? {
            return Ok(());
        }
        if asked > deadline {
            bail!("{what}: not within {limit:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until `key` is absent; fails after `limit`.
pub(crate) async fn until_gone(store: &impl Store, key: &Key, limit: Duration) -> Result<()> {
    until(limit, &format!("{key:?} should be gone"), || async { Ok(store.get(key).await?.is_none()) }).await
}

/// Checks what a handle reads of another's writes: at once where reads are linearizable, else it may
/// take its time.
pub(crate) async fn sees<A>(fixture: &Fixture, what: &str, ask: impl FnMut() -> A) -> Result<()>
where
    A: Future<Output = Result<bool>>,
{
    let limit = if fixture.reads_are_linearizable() { Duration::ZERO } else { PATIENCE };
    until(limit, what, ask).await
}

/// Tries a case again whose history was compacted meanwhile: a bounded history is shared with every
/// other writer of the store. One that never lasts is a failure.
pub(crate) async fn unless_compacted<A>(mut attempt: impl FnMut() -> A) -> Result<()>
where
    A: Future<Output = Result<()>>,
{
    for _ in 0..10 {
        match attempt().await {
            Err(error) if is_compacted(&error) => {}
            ended => return ended,
        }
    }
    attempt().await
}

pub(crate) fn is_compacted(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<kv_core::Error>();
    error.is_some_and(|error| matches!(error.kind(), ErrorKind::Compacted { .. }))
}

/// Sleeps until `moment`, for waits whose length is what is tested.
pub(crate) async fn sleep_until(moment: Instant) {
    tokio::time::sleep_until(moment.into()).await;
}
