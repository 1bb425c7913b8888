//! Locks while no server answers: what fails like any request, and what waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kv_core::{ErrorKind, Key, LockOptions, LockWait, PutOptions, Store, StoreExt};

use crate::case::{BeyondReach, Case, case};
use crate::fixture::{Fixture, GRACE, PATIENCE};
use crate::line::Line;
use crate::steps::{at_once, ensure_eq, key, lock, refused, settle, until, within};

pub(super) const CASES: &[Case] = &[
    case!(
        lock_without_a_server_fails_like_a_request,
        "A wait for a lock that is not queued yet fails like any request when no server answers."
    ),
    case!(queued_wait_outlives_an_outage, "A wait for a lock that was queued once outlives outages."),
    case!(wait_up_to_ends_in_an_outage, "A wait up to d ends within d plus one request, also in an outage."),
];

/// The deadline of each request in these cases.
const REQUEST: Duration = Duration::from_secs(2);

/// A handle that the case can cut off. It is one that has worked.
async fn cuttable(fixture: &Fixture) -> Result<(Arc<dyn Store>, Line)> {
    let Some((store, line)) = fixture.on_a_line().await? else {
        return Err(BeyondReach("nothing here can cut a handle off from its servers".to_owned()).into());
    };
    store.put("before", "x").await?;
    lock(&store, &key("before")?).await?.unlock().await?;
    Ok((store, line))
}

fn waiting(wait: LockWait) -> LockOptions {
    LockOptions::default().with_wait(wait).with_timeout(REQUEST)
}

/// Catches a wait without end for a server that is not there.
async fn lock_without_a_server_fails_like_a_request(fixture: &Fixture) -> Result<()> {
    let ((store, line), k) = (cuttable(fixture).await?, key("dir/lock")?);
    line.cut();
    let put = store.put_with(&k, Bytes::new(), PutOptions::default().with_timeout(REQUEST));
    let put = within(REQUEST + PATIENCE, "a put without a server", put).await?;
    refused!(put, ErrorKind::Unavailable | ErrorKind::Timeout, "a put without a server");
    for wait in [LockWait::Forever, LockWait::Try, LockWait::UpTo(Duration::from_secs(600))] {
        let locked = store.lock_with(&k, waiting(wait));
        let locked =
            within(REQUEST + PATIENCE, &format!("a lock without a server, {wait:?}"), locked).await?;
        refused!(locked, ErrorKind::Unavailable | ErrorKind::Timeout, "a lock without a server, {wait:?}");
    }
    line.mend();
    until(PATIENCE * 2, "the handle should work again", || async { Ok(store.get(&k).await.is_ok()) }).await?;
    leaves_nothing(fixture, &k).await
}

/// What a handle left that was cut off is in the way no longer than what one left that died.
async fn leaves_nothing(fixture: &Fixture, k: &Key) -> Result<()> {
    let options = waiting(LockWait::UpTo(fixture.limits().session_bound + PATIENCE));
    fixture.store.lock_with(k, options).await.context("the lock afterwards")?.unlock().await?;
    Ok(())
}

/// Catches a wait that ends with the connection it was begun on, or whose lost record is not made again.
async fn queued_wait_outlives_an_outage(fixture: &Fixture) -> Result<()> {
    let ((store, line), k) = (cuttable(fixture).await?, key("dir/lock")?);
    let range = fixture.limits().lock_ttl;
    let ttl = Duration::from_secs(2).clamp(range.min, range.max);
    let guard = lock(&fixture.store, &k).await?;
    let mut waiting = Box::pin(at_once({
        let (store, k) = (Arc::clone(&store), k.clone());
        async move { store.lock_with(&k, waiting(LockWait::Forever).with_ttl(ttl)).await }
    }));
    settle(&store).await?;
    line.cut();
    // Long enough that the server gives up what was queued.
    let outage = (ttl * 2).min(Duration::from_secs(30)) + REQUEST * 2;
    if let Ok(ended) = tokio::time::timeout(outage, &mut waiting).await {
        let guard = ended.context("a queued wait that was cut off")?;
        anyhow::bail!("the wait ended with {guard:?} while another held the lock");
    }
    ensure!(guard.is_held(), "the lock of a handle that was not cut off was lost: {:?}", guard.loss());
    line.mend();
    let token = guard.token();
    guard.unlock().await?;
    let bound = fixture.limits().session_bound + PATIENCE * 2;
    let next = within(bound, "the released lock", waiting).await?.context("a wait through an outage")?;
    ensure!(next.token() > token, "token {} after {token}", next.token());
    ensure_eq!(next.loss(), None, "the loss of the lock that was waited for");
    next.unlock().await?;
    Ok(())
}

/// Catches a bounded wait that goes on while it cannot take its record back.
async fn wait_up_to_ends_in_an_outage(fixture: &Fixture) -> Result<()> {
    let ((store, line), k) = (cuttable(fixture).await?, key("dir/lock")?);
    let guard = lock(&fixture.store, &k).await?;
    let wait = Duration::from_secs(3);
    let begun = Instant::now();
    let waited = at_once({
        let (store, k) = (Arc::clone(&store), k.clone());
        async move { store.lock_with(&k, waiting(LockWait::UpTo(wait))).await }
    });
    settle(&store).await?;
    line.cut();
    let left = (wait + REQUEST).saturating_sub(begun.elapsed());
    let waited = within(left + GRACE * 2, "the end of a bounded wait in an outage", waited).await?;
    refused!(
        waited,
        ErrorKind::Locked | ErrorKind::Unavailable | ErrorKind::Timeout,
        "a wait of {wait:?} for a held lock, in an outage"
    );
    line.mend();
    guard.unlock().await?;
    leaves_nothing(fixture, &k).await
}
