//! An entry that was claimed, kept by a task of its own for whoever holds it.

use std::sync::Arc;

use kv_core::{Bytes, Error, ErrorKind, Key, Operation, Result, SessionState, Store};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::keeping::Keeping;
use super::lifetime::Lifetime;
use super::loss::EntryLoss;
use super::place::{Over, Unplaced, forget, place};

/// The hold of an entry that was claimed.
#[derive(Debug)]
pub(crate) struct Held {
    store: Arc<dyn Store>,
    key: Key,
    lifetime: Lifetime,
    state: watch::Receiver<State>,
    /// Closed by dropping it.
    commands: mpsc::UnboundedSender<Command>,
    /// Whether dropping it leaves the entry.
    leaves: bool,
}

/// What becomes of the entry when its hold is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnDrop {
    /// It is deleted in the background.
    Delete,
    /// It stays until it expires.
    Leave,
}

#[derive(Debug)]
enum Command {
    /// Delete the entry.
    Release(Reply),
    /// Renew it a last time, and leave it.
    Leave(Reply),
    /// Leave it as it is.
    Abandon,
}

type Reply = oneshot::Sender<Result<()>>;

#[derive(Clone, Debug)]
struct State {
    loss: Option<EntryLoss>,
    valid_until: Option<Instant>,
}

impl Held {
    /// Puts an entry if there is none, and keeps it; `None` if there is one. The value must be one that
    /// nobody else writes.
    ///
    /// Dropping the future leaves nothing: what was put all the same is deleted in the background.
    pub(crate) async fn claim(
        store: &Arc<dyn Store>,
        key: &Key,
        value: Bytes,
        lifetime: Lifetime,
        on_drop: OnDrop,
    ) -> Result<Option<Self>> {
        let (claimed, claiming) = oneshot::channel();
        tokio::spawn(claim(Arc::clone(store), key.clone(), value, lifetime, claimed));
        // The task answers unless the runtime goes down, and then this is not polled any more.
        let mut claimed = claiming.await.unwrap_or_else(|_| Err(ErrorKind::Closed.into()))?;
        if let Some(held) = &mut claimed {
            // Before this the caller does not know of it, and it is deleted.
            held.leaves = on_drop == OnDrop::Leave;
        }
        Ok(claimed)
    }

    /// Why it is not held any more, as far as this process can know now.
    pub(crate) fn loss(&self) -> Option<EntryLoss> {
        let state = self.state.borrow();
        if state.loss.is_some() {
            return state.loss.clone();
        }
        if state.valid_until.is_some_and(|end| Instant::now() >= end) {
            return Some(EntryLoss::Expired);
        }
        let is_lost = self.lifetime == Lifetime::Session && self.store.session() == SessionState::Lost;
        is_lost.then_some(EntryLoss::SessionLost)
    }

    /// Resolves once it is lost. Cancel-safe, and independent of this value's lifetime.
    pub(crate) fn lost(&self) -> impl Future<Output = EntryLoss> + Send + 'static {
        let mut state = self.state.clone();
        async move {
            let lost = state.wait_for(|state| state.loss.is_some()).await;
            // Without its task it was given up.
            lost.ok().and_then(|state| state.loss.clone()).unwrap_or(EntryLoss::Released)
        }
    }

    /// Deletes it, and waits until that is confirmed. An error: it goes on in the background.
    pub(crate) async fn release(self) -> Result<()> {
        self.order(Operation::Delete, Command::Release).await
    }

    /// Renews it a last time, and leaves it until it expires.
    pub(crate) async fn leave(self) -> Result<()> {
        self.order(Operation::Put, Command::Leave).await
    }

    async fn order(self, operation: Operation, command: impl FnOnce(Reply) -> Command) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let answered = match self.commands.send(command(reply)) {
            Ok(()) => answer.await.ok(),
            Err(_) => None,
        };
        answered.unwrap_or_else(|| Err(self.not_held(operation)))
    }

    /// The error of what needs it to be held, after it was lost.
    pub(crate) fn not_held(&self, operation: Operation) -> Error {
        self.loss().unwrap_or(EntryLoss::Released).not_held(&self.store, &self.key, operation)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.leaves {
            // Without the task nothing is deleted either.
            drop(self.commands.send(Command::Abandon));
        }
    }
}

async fn claim(
    store: Arc<dyn Store>,
    key: Key,
    value: Bytes,
    lifetime: Lifetime,
    claimed: oneshot::Sender<Result<Option<Held>>>,
) {
    let placed = match place(&store, &key, &value, lifetime, Over::Nothing).await {
        Ok(Some(placed)) => placed,
        Ok(None) => return drop(claimed.send(Ok(None))),
        Err(Unplaced { error, may_be_there }) => {
            drop(claimed.send(Err(error)));
            if may_be_there {
                forget(store, key, vec![value]).await;
            }
            return;
        }
    };
    let mut keeping = Keeping::new(Arc::clone(&store), key.clone(), value, lifetime, placed);
    let (state, told) = watch::channel(State { loss: None, valid_until: keeping.valid_until() });
    let (commands, mut orders) = mpsc::unbounded_channel();
    let held = Held { store, key, lifetime, state: told, commands, leaves: false };
    if claimed.send(Ok(Some(held))).is_err() {
        // Nobody wants it any more.
        return keeping.release_in_the_end().await;
    }
    let loss = loop {
        tokio::select! {
            biased;
            order = orders.recv() => {
                state.send_modify(|state| state.loss = Some(EntryLoss::Released));
                return give_up(keeping, order).await;
            }
            loss = keeping.lost_or_renewed() => match loss {
                Some(loss) => break loss,
                None => drop(state.send_if_modified(|state| {
                    state.valid_until = keeping.valid_until();
                    false
                })),
            },
        }
    };
    state.send_modify(|state| state.loss = Some(loss));
}

async fn give_up(mut keeping: Keeping, order: Option<Command>) {
    match order {
        Some(Command::Leave(reply)) => {
            let left = keeping.update(keeping.value().clone()).await;
            drop(reply.send(left.and_then(|loss| match loss {
                Some(loss) => Err(keeping.not_held(Operation::Put, &loss)),
                None => Ok(()),
            })));
        }
        Some(Command::Release(reply)) => {
            let released = keeping.release().await;
            let is_done = released.is_ok();
            drop(reply.send(released.and_then(|was_own| match was_own {
                true => Ok(()),
                false => Err(keeping.not_held(Operation::Delete, &EntryLoss::Removed)),
            })));
            if !is_done {
                keeping.release_in_the_end().await;
            }
        }
        None => keeping.release_in_the_end().await,
        Some(Command::Abandon) => {}
    }
}
