//! The registration as its process has it.

use std::sync::Arc;

use kv_core::{Bytes, Error, ErrorKind, Key, Operation, Result, SessionState, Store};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::keeper::{Command, Keeper, Known, Reply};
use super::options::{RegistrationOptions, RegistrationState};
use crate::kept::{EntryLoss, Keeping, Lifetime, Over, Unplaced, forget, place};

/// An entry that says that this process is there: put under a session or a time to live, renewed, and put
/// again when it is lost. Dropping it deletes the entry in the background.
///
/// # What it promises
///
/// - The entry goes when this process dies: at the latest by
///   [`Limits::session_bound`](kv_core::Limits::session_bound), or by
///   [`Limits::ttl_bound`](kv_core::Limits::ttl_bound) for a time to live.
/// - The entry is never permanent, not for a moment.
/// - It takes the place of what is there when it starts, such as what an earlier run of this process left.
///   Once it is registered it never replaces another's value: somebody who puts another value ends it with
///   [`EntryLoss::Replaced`], so that two processes of one name do not fight.
/// - An entry that somebody deleted, or that went with a lost session, is put again
///   ([`OnLoss::Rejoin`](super::OnLoss)) or ends the registration ([`OnLoss::Stop`](super::OnLoss)).
///
/// # What it does not promise
///
/// On a store without `expiry_change` (zookeeper-async), that a registration ends when another starts on its
/// key: a session key is deleted there before another is put, and the first to put one afterwards keeps it.
///
/// That the entry is there at every moment: between a loss and its replacement it is not, and a process that
/// hangs stays registered until its session or time to live ends.
///
/// # Costs
///
/// A write to start, one watch on the key, and under a time to live a write for each third of it.
///
/// # Examples
///
/// ```
/// # use std::sync::Arc;
/// # use kv_recipes::kv_core::{Result, Store, StoreExt};
/// use kv_recipes::{Registration, RegistrationOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let store: Arc<dyn Store> = Arc::new(kv_mem::MemStore::open(Default::default())?);
/// let options = RegistrationOptions::default(); // under the session of the store handle
/// let me = Registration::start(store.clone(), "services/web/7", "10.0.0.7:80", options).await?;
/// assert!(store.exists("services/web/7").await?);
/// me.update("10.0.0.7:81").await?;
/// me.leave().await?;
/// assert!(!store.exists("services/web/7").await?);
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "dropping a registration deletes its entry"]
pub struct Registration {
    store: Arc<dyn Store>,
    key: Key,
    lifetime: Lifetime,
    known: watch::Receiver<Known>,
    /// Closed by dropping it.
    commands: mpsc::UnboundedSender<Command>,
}

impl Registration {
    /// Puts the entry, in place of whatever is there, and keeps it. Must be called within a tokio runtime.
    ///
    /// Dropping the future leaves nothing: an entry that was put all the same is deleted in the background.
    ///
    /// # Errors
    ///
    /// `Unsupported` before any I/O if the store lacks the power that the lifetime needs, `TtlOutOfRange`,
    /// and as for a put.
    pub async fn start<K>(
        store: Arc<dyn Store>,
        key: K,
        value: impl Into<Bytes>,
        options: RegistrationOptions,
    ) -> Result<Self>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        let refuse = |error: Error| error.with_operation(Operation::Put);
        let key = key.try_into().map_err(|error| refuse(error.into()))?;
        options.lifetime.admit(store.capabilities()).map_err(|error| refuse(error).with_key(key.as_str()))?;
        let (started, starting) = oneshot::channel();
        tokio::spawn(start(store, key, value.into(), options, started));
        // The task answers unless the runtime goes down, and then this is not polled any more.
        starting.await.unwrap_or_else(|_| Err(ErrorKind::Closed.into()))
    }

    /// The key of the entry.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// How it stands now.
    #[must_use]
    pub fn state(&self) -> RegistrationState {
        self.known.borrow().state.clone()
    }

    /// Whether the entry is there, as far as this process can know now: not while its time to live has passed
    /// without a renewal, nor while the session is [`Suspect`](SessionState::Suspect).
    #[must_use]
    pub fn is_registered(&self) -> bool {
        let known = self.known.borrow();
        let is_valid = match self.lifetime {
            Lifetime::Session => self.store.session() == SessionState::Held,
            Lifetime::Ttl(_) => known.valid_until.is_none_or(|end| Instant::now() < end),
        };
        is_valid && matches!(known.state, RegistrationState::Registered)
    }

    /// Waits until the state is another than the one this was last asked for, or than
    /// [`Registered`](RegistrationState::Registered) the first time, and tells it; `None` after the end.
    /// A slow caller sees the latest state and not each one between. Cancel-safe.
    pub async fn changed(&mut self) -> Option<RegistrationState> {
        self.known.changed().await.ok()?;
        Some(self.known.borrow_and_update().state.clone())
    }

    /// Puts another value in the entry, which lives as before. While the entry is lost and put again, it
    /// waits for that.
    ///
    /// If the future is dropped, the value may or may not be put.
    ///
    /// # Errors
    ///
    /// `NotHeld` if the registration has ended; else as for a put. The value counts as this registration's
    /// also where the outcome is unknown.
    pub async fn update(&self, value: impl Into<Bytes>) -> Result<()> {
        self.order(Operation::Put, |reply| Command::Update(value.into(), reply)).await
    }

    /// Deletes the entry and waits until that is confirmed.
    ///
    /// If the future is dropped, the deletion goes on in the background.
    ///
    /// # Errors
    ///
    /// `NotHeld` if the registration had ended before: then nothing was touched. Any other error: the
    /// deletion goes on in the background, and the entry goes with its session or time to live at the
    /// latest.
    pub async fn leave(self) -> Result<()> {
        self.order(Operation::Delete, Command::Leave).await
    }

    async fn order(&self, operation: Operation, command: impl FnOnce(Reply) -> Command) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let answered = match self.commands.send(command(reply)) {
            Ok(()) => answer.await.ok(),
            Err(_) => None,
        };
        answered.unwrap_or_else(|| {
            let why = match self.state() {
                RegistrationState::Ended(loss) => loss,
                _ => EntryLoss::Released,
            };
            Err(why.not_held(&self.store, &self.key, operation))
        })
    }
}

async fn start(
    store: Arc<dyn Store>,
    key: Key,
    value: Bytes,
    options: RegistrationOptions,
    started: oneshot::Sender<Result<Registration>>,
) {
    let lifetime = options.lifetime;
    let placed = match place(&store, &key, &value, lifetime, Over::Anything).await {
        Ok(Some(placed)) => placed,
        Ok(None) => return drop(started.send(Err(ErrorKind::Internal.into()))),
        Err(Unplaced { error, may_be_there }) => {
            drop(started.send(Err(error)));
            if may_be_there {
                forget(store, key, vec![value]).await;
            }
            return;
        }
    };
    let keeping = Keeping::new(Arc::clone(&store), key.clone(), value, lifetime, placed);
    let (known, told) =
        watch::channel(Known { state: RegistrationState::Registered, valid_until: keeping.valid_until() });
    let (commands, orders) = mpsc::unbounded_channel();
    let keeper = Keeper::new(Arc::clone(&store), key.clone(), options, known, orders);
    // Not wanted any more, it is dropped with its end of the commands, and the keeper leaves.
    drop(started.send(Ok(Registration { store, key, lifetime, known: told, commands })));
    keeper.keep(keeping).await;
}
