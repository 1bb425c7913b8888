//! A holder of a lock that stands still, as a stopped process does, while the suite goes on.
//!
//! It has a thread with a runtime of its own. While that thread sleeps, nothing of its handle runs: no
//! renewal is sent and no answer is read. A guard is judged by the clock on every question, so the thread
//! can still ask it.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kv_core::{Key, LockGuard, LockLoss, LockOptions, Store, StoreExt};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};

use crate::fixture::Fixture;
use crate::steps::soon;

/// Between two questions of a holder that stands still.
const SLICE: Duration = Duration::from_millis(5);

/// How a lock was lost while its holder stood still.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lapse {
    pub(crate) loss: LockLoss,
    /// When the guard still said that it was held, for the last time.
    pub(crate) held_at: Instant,
    pub(crate) grace: Duration,
}

/// How a holder says that it is done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LetGo {
    Drop,
    Unlock,
    Close,
}

enum Order {
    StandStill { at_most: Duration, answer: oneshot::Sender<Option<Lapse>> },
    LetGo { how: LetGo, answer: oneshot::Sender<kv_core::Result<()>> },
}

/// Holds a lock on a thread of its own. Dropping it closes the handle in the background.
pub(crate) struct Holder {
    orders: mpsc::UnboundedSender<Order>,
    ended: oneshot::Receiver<()>,
}

impl Holder {
    /// Takes a lock through a handle of its own.
    pub(crate) async fn lock(fixture: &Fixture, key: &Key, options: LockOptions) -> Result<Self> {
        let (orders, received) = mpsc::unbounded_channel();
        let (taken, taking) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (opening, key) = (fixture.opening(), key.clone());
        thread::Builder::new().name("holder".to_owned()).spawn(move || {
            let _end = end;
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(taken.send(Err(error.into()))),
            };
            let locked = runtime.block_on(async {
                let store = opening.await?;
                let guard = store.lock_with(&key, options).await?;
                anyhow::Ok((store, guard))
            });
            match locked {
                Ok((store, guard)) => {
                    drop(taken.send(Ok(())));
                    hold(&runtime, &store, guard, received);
                    // Whatever is still held; what goes wrong is of no interest any more.
                    drop(runtime.block_on(soon("the close of the holder", store.close())));
                }
                Err(error) => drop(taken.send(Err(error))),
            }
        })?;
        soon("the lock of a holder that is to stand still", taking)
            .await?
            .context("the holder's thread ended")??;
        Ok(Self { orders, ended })
    }

    /// Has it stand still until it is told that its lock is lost, and go on then. `None` if that does not
    /// happen in this time.
    pub(crate) async fn stand_still(&self, at_most: Duration) -> Result<Option<Lapse>> {
        let (answer, answered) = oneshot::channel();
        self.order(Order::StandStill { at_most, answer })?;
        answered.await.context("the holder's thread ended")
    }

    pub(crate) async fn let_go(&self, how: LetGo) -> Result<kv_core::Result<()>> {
        let (answer, answered) = oneshot::channel();
        self.order(Order::LetGo { how, answer })?;
        soon("the holder's letting go", answered).await?.context("the holder's thread ended")
    }

    /// Ends it and waits until its handle is closed.
    pub(crate) async fn end(self) -> Result<()> {
        drop(self.orders);
        // The sender is dropped, and sends nothing.
        drop(soon("the end of the holder", self.ended).await?);
        Ok(())
    }

    fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).ok().context("the holder's thread ended")
    }
}

/// Does what it is told, and lets its runtime go on between two orders.
fn hold(
    runtime: &tokio::runtime::Runtime,
    store: &Arc<dyn Store>,
    guard: LockGuard,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let mut guard = Some(guard);
    while let Some(order) = runtime.block_on(orders.recv()) {
        match order {
            Order::StandStill { at_most, answer } => {
                let _ = answer.send(guard.as_ref().and_then(|guard| stand_still(guard, at_most)));
            }
            Order::LetGo { how, answer } => {
                let let_go = runtime.block_on(async {
                    match (how, guard.take()) {
                        (LetGo::Unlock, Some(guard)) => guard.unlock().await,
                        (LetGo::Drop, taken) => {
                            drop(taken);
                            Ok(())
                        }
                        (LetGo::Close, taken) => {
                            guard = taken;
                            store.close().await
                        }
                        (LetGo::Unlock, None) => Ok(()),
                    }
                });
                drop(answer.send(let_go));
            }
        }
    }
}

/// Blocks the thread, and with it everything that runs for this handle.
fn stand_still(guard: &LockGuard, at_most: Duration) -> Option<Lapse> {
    let end = Instant::now() + at_most;
    let mut held_at = Instant::now();
    while held_at < end {
        if let Some(loss) = guard.loss() {
            return Some(Lapse { loss, held_at, grace: guard.grace() });
        }
        thread::sleep(SLICE);
        held_at = Instant::now();
    }
    None
}
