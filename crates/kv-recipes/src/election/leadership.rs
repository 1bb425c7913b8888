//! One term of office, as its holder has it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kv_core::implement::Hold;
use kv_core::{
    Bytes, Error, ErrorKind, Fence, FencingToken, Key, LockGuard, LockLoss, Operation, Power, Precondition,
    PutOptions, Result, Store, StoreExt, Version,
};
use tokio::sync::Mutex;

use super::announcement::Announcement;

/// How often a proclamation is tried while an older leader's writes still arrive.
const ATTEMPTS: u32 = 16;

/// The office, held. Dropping it resigns in the background.
#[must_use = "dropping a leadership resigns"]
pub struct Leadership {
    store: Arc<dyn Store>,
    guard: LockGuard,
    /// What is known of the entry under the key: the version of what this leader proclaimed last. Locked
    /// while one is under way, so that the last call's value is the last one stored.
    announced: Mutex<Option<Version>>,
}

impl Leadership {
    pub(super) fn new(store: Arc<dyn Store>, guard: LockGuard) -> Self {
        Self { store, guard, announced: Mutex::new(None) }
    }

    /// The key of the office.
    #[must_use]
    pub fn key(&self) -> &Key {
        self.guard.key()
    }

    /// The number of this term: greater than that of every earlier leader.
    #[must_use]
    pub fn term(&self) -> FencingToken {
        self.guard.token()
    }

    /// What to give to writes that must happen only during this term. Needs
    /// [`Power::FencedWrites`]; a store without it answers such writes with `Unsupported`.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.guard.fence()
    }

    /// Whether the term goes on, as far as this process can know now.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.guard.is_held()
    }

    /// Resolves once the term is over, with the reason. Cancel-safe, and independent of this value's
    /// lifetime.
    pub fn lost(&self) -> impl Future<Output = LockLoss> + Send + 'static {
        self.guard.lost()
    }

    /// The time there is to end the work after a loss by expiry, before another can lead.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.guard.grace()
    }

    /// Tells observers this value as the leader's: an address, a status. It replaces what was proclaimed
    /// before.
    ///
    /// A proclamation of an older term never replaces one of a newer term, also on stores without fenced
    /// writes. Dropping the future: the value may or may not be told.
    ///
    /// # Errors
    ///
    /// `NotHeld` if the term is over; `InvalidValue` if the key of the election holds an entry that no
    /// leader has written; else as for a put.
    pub async fn proclaim(&self, value: impl Into<Bytes>) -> Result<()> {
        let stored = Announcement::encode(self.term(), &value.into());
        let mut announced = self.announced.lock().await;
        // Forgotten while the write is under way: it may be dropped, or end with an unknown outcome.
        let mut known = announced.take();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let precondition = match known.take() {
                Some(version) => Precondition::At(version),
                None => self.present_announcement().await?,
            };
            if !self.is_leader() {
                return Err(self.not_held());
            }
            let mut options = PutOptions::default().with_precondition(precondition);
            if self.store.capabilities().has(Power::FencedWrites) {
                options = options.with_fence(self.fence());
            }
            match self.store.put_with(self.key(), stored.clone(), options).await {
                Ok(put) => {
                    *announced = Some(put.version);
                    return Ok(());
                }
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// On what a proclamation is written: nothing, or an older announcement.
    async fn present_announcement(&self) -> Result<Precondition> {
        let Some(entry) = self.store.get(self.key()).await? else { return Ok(Precondition::Absent) };
        match Announcement::decode(&entry.value) {
            Some(announcement) if announcement.term > self.term() => Err(self.not_held()),
            Some(_) => Ok(Precondition::At(entry.version)),
            None => {
                let reason = "the key of the election holds an entry that no leader has written: delete it, \
                              or use another key";
                Err(Error::new(ErrorKind::InvalidValue { reason: reason.to_owned() })
                    .with_operation(Operation::Put)
                    .with_backend(self.store.capabilities().backend)
                    .with_key(self.key().as_str()))
            }
        }
    }

    fn not_held(&self) -> Error {
        let loss = self.guard.loss();
        let why = if loss.is_none() { ": a later leader has proclaimed already" } else { "" };
        Error::not_held(loss)
            .with_operation(Operation::Put)
            .with_backend(self.store.capabilities().backend)
            .with_key(self.key().as_str())
            .with_detail(format!("term {} is over{why}", self.term()))
    }

    /// Gives up the office and waits until the backend has confirmed. When it returns, another can lead.
    ///
    /// What was proclaimed stays stored, and no observer takes it for a later leader's. If this future is
    /// dropped, the release goes on in the background.
    ///
    /// # Errors
    ///
    /// `NotHeld` if the term was over before: then nothing was touched. Any other error: the release was
    /// not confirmed; the store goes on with it in the background, and the office ends with its time to
    /// live at the latest.
    pub async fn resign(self) -> Result<()> {
        self.release().await
    }

    pub(super) async fn release(&self) -> Result<()> {
        Hold::unlock(&self.guard).await
    }

    pub(super) fn loss(&self) -> Option<LockLoss> {
        self.guard.loss()
    }
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leadership").field("guard", &self.guard).finish_non_exhaustive()
    }
}
