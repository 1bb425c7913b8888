//! The task of a registration: keeps its entry, and puts it again when it is lost.

use std::sync::Arc;

use kv_core::{Bytes, ErrorKind, Key, Operation, Result, Store};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::options::{OnLoss, RegistrationOptions, RegistrationState};
use crate::kept::{EntryLoss, Keeping, Over, Unplaced, forget, place};
use crate::pace::{Pauses, passes};

#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) state: RegistrationState,
    pub(super) valid_until: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum Command {
    Update(Bytes, Reply),
    Leave(Reply),
}

pub(super) type Reply = oneshot::Sender<Result<()>>;

/// What the task of a registration has.
pub(super) struct Keeper {
    store: Arc<dyn Store>,
    key: Key,
    options: RegistrationOptions,
    known: watch::Sender<Known>,
    orders: mpsc::UnboundedReceiver<Command>,
    /// Updates that wait until the entry is put again.
    waiting: Vec<Reply>,
    /// The value of the last of them.
    wanted: Option<Bytes>,
}

/// How the keeping of one entry ended.
enum Ended {
    Lost(EntryLoss),
    /// It is to be given up.
    Left,
}

impl Keeper {
    pub(super) fn new(
        store: Arc<dyn Store>,
        key: Key,
        options: RegistrationOptions,
        known: watch::Sender<Known>,
        orders: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        Self { store, key, options, known, orders, waiting: Vec::new(), wanted: None }
    }

    pub(super) async fn keep(mut self, mut keeping: Keeping) {
        loop {
            let loss = match self.keep_one(&mut keeping).await {
                Ended::Lost(loss) => loss,
                Ended::Left => return self.leave(keeping).await,
            };
            let ends = matches!(loss, EntryLoss::Replaced | EntryLoss::Closed | EntryLoss::Refused(_));
            if ends || self.options.on_loss == OnLoss::Stop {
                return self.end(loss);
            }
            tracing::info!(key = self.key.as_str(), %loss, "a registration is lost and made again");
            self.tell(RegistrationState::Rejoining(loss), None);
            match self.rejoin(keeping.value().clone(), keeping.own_values()).await {
                Some(again) => keeping = again,
                None => return,
            }
            self.tell(RegistrationState::Registered, keeping.valid_until());
            for reply in self.waiting.drain(..) {
                drop(reply.send(Ok(())));
            }
        }
    }

    /// Keeps the entry until it is lost or given up.
    async fn keep_one(&mut self, keeping: &mut Keeping) -> Ended {
        loop {
            tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    Some(Command::Update(value, reply)) => match keeping.update(value.clone()).await {
                        Ok(Some(loss)) => {
                            // Put with the entry, when it is put again.
                            self.wanted = Some(value);
                            self.waiting.push(reply);
                            return Ended::Lost(loss);
                        }
                        done => drop(reply.send(done.map(drop))),
                    },
                    Some(Command::Leave(reply)) => {
                        self.waiting.push(reply);
                        return Ended::Left;
                    }
                    None => return Ended::Left,
                },
                loss = keeping.lost_or_renewed() => if let Some(loss) = loss {
                    return Ended::Lost(loss);
                },
            }
            self.known.send_if_modified(|known| {
                known.valid_until = keeping.valid_until();
                false
            });
        }
    }

    /// Puts the entry again; `None` if the registration has ended.
    async fn rejoin(&mut self, last: Bytes, mut own: Vec<Bytes>) -> Option<Keeping> {
        let mut pauses = Pauses::new();
        let lifetime = self.options.lifetime;
        loop {
            // Orders are taken between two attempts: one that is dropped could be applied later.
            while let Ok(order) = self.orders.try_recv() {
                self.take(order, &own)?;
            }
            if self.orders.is_closed() {
                self.tell(RegistrationState::Ended(EntryLoss::Released), None);
                self.forget(&own).await;
                return None;
            }
            let value = self.wanted.clone().unwrap_or_else(|| last.clone());
            if !own.contains(&value) {
                own.push(value.clone());
            }
            let loss = match place(&self.store, &self.key, &value, lifetime, Over::Own(&own)).await {
                Ok(Some(placed)) => {
                    self.wanted = None;
                    let (store, key) = (Arc::clone(&self.store), self.key.clone());
                    return Some(Keeping::new(store, key, value, lifetime, placed));
                }
                Ok(None) => Some(EntryLoss::Replaced),
                Err(Unplaced { error, .. }) if passes(&error) || error.is_conflict() => None,
                Err(Unplaced { error, .. }) if *error.kind() == ErrorKind::Closed => Some(EntryLoss::Closed),
                Err(Unplaced { error, .. }) => Some(EntryLoss::Refused(error)),
            };
            if let Some(loss) = loss {
                self.end(loss);
                return None;
            }
            tokio::select! {
                biased;
                order = self.orders.recv() => if let Some(order) = order {
                    self.take(order, &own)?;
                },
                () = pauses.pause() => {}
            }
        }
    }

    /// Takes an order while there is no entry; `None` if the registration ends with it.
    fn take(&mut self, order: Command, own: &[Bytes]) -> Option<()> {
        match order {
            Command::Update(value, reply) => {
                self.waiting.push(reply);
                self.wanted = Some(value);
                Some(())
            }
            Command::Leave(reply) => {
                self.tell(RegistrationState::Ended(EntryLoss::Released), None);
                let forgetting = self.forget(own);
                tokio::spawn(async move {
                    forgetting.await;
                    drop(reply.send(Ok(())));
                });
                None
            }
        }
    }

    /// Takes away what attempts whose answer was lost may have put.
    fn forget(&self, own: &[Bytes]) -> impl Future<Output = ()> + use<> {
        forget(Arc::clone(&self.store), self.key.clone(), own.to_vec())
    }

    /// Deletes the entry, and answers who waits for that.
    async fn leave(&mut self, mut keeping: Keeping) {
        self.tell(RegistrationState::Ended(EntryLoss::Released), None);
        let left = keeping.release().await;
        let is_done = left.is_ok();
        let answer = match left {
            Ok(true) => Ok(()),
            Ok(false) => Err(keeping.not_held(Operation::Delete, &EntryLoss::Removed)),
            Err(error) => Err(error),
        };
        for reply in self.waiting.drain(..) {
            drop(reply.send(answer.clone()));
        }
        if !is_done {
            keeping.release_in_the_end().await;
        }
    }

    fn end(&mut self, loss: EntryLoss) {
        self.tell(RegistrationState::Ended(loss), None);
        // Orders that come later, or wait now, are answered by their end: their channels close.
        self.waiting.clear();
    }

    fn tell(&self, state: RegistrationState, valid_until: Option<Instant>) {
        self.known.send_replace(Known { state, valid_until });
    }
}
