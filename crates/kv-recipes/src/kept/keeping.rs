//! Keeping an entry: renewing it, and noticing that it is lost.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kv_core::{
    Bytes, DeleteCause, DeleteOptions, Entry, Error, ErrorKind, Key, Operation, Precondition, PutOptions,
    Result, SessionState, SessionStates, Store, StoreExt, Version, WatchEvent, WatchState, WatchTarget,
};
use tokio::time::Instant;

use super::lifetime::Lifetime;
use super::loss::EntryLoss;
use super::place::Placed;
use crate::follow::{Followed, Following};
use crate::pace::{Pauses, passes, until};

/// An entry that is kept, driven by [`lost_or_renewed`](Self::lost_or_renewed).
pub(crate) struct Keeping {
    store: Arc<dyn Store>,
    key: Key,
    lifetime: Lifetime,
    /// The value as it is stored.
    value: Bytes,
    /// A value whose write is under way, or of unknown outcome.
    sent: Option<Bytes>,
    version: Version,
    /// Until when the last acknowledged write vouches for the entry; `None` under a session.
    valid_until: Option<Instant>,
    renew_at: Option<Instant>,
    pauses: Pauses,
    following: Following,
    seen: WatchState,
    has_seen: bool,
    sessions: SessionStates,
}

impl Keeping {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        key: Key,
        value: Bytes,
        lifetime: Lifetime,
        placed: Placed,
    ) -> Self {
        let following = Following::new(Arc::clone(&store), WatchTarget::key(key.clone()));
        let sessions = store.session_states();
        let mut keeping = Self {
            store,
            key,
            lifetime,
            value,
            sent: None,
            version: placed.version,
            valid_until: None,
            renew_at: None,
            pauses: Pauses::new(),
            following,
            seen: WatchState::new(),
            has_seen: false,
            sessions,
        };
        keeping.note(placed);
        keeping
    }

    /// The values under which the entry counts as this one.
    pub(crate) fn own_values(&self) -> Vec<Bytes> {
        [Some(&self.value), self.sent.as_ref()].into_iter().flatten().cloned().collect()
    }

    pub(crate) fn value(&self) -> &Bytes {
        &self.value
    }

    pub(crate) fn valid_until(&self) -> Option<Instant> {
        self.valid_until
    }

    /// Notes an acknowledged write.
    fn note(&mut self, placed: Placed) {
        self.version = placed.version;
        if let Lifetime::Ttl(ttl) = self.lifetime {
            // A tenth, of a second at most, is for clocks that differ. A time too far to be represented
            // never comes.
            let margin = (ttl / 10).min(Duration::from_secs(1));
            self.valid_until = placed.sent_at.checked_add(ttl - margin);
            self.renew_at = placed.sent_at.checked_add(ttl / 3);
        }
    }

    /// Renews the entry, one step at a time, and tells when it is lost. After a step without a loss it may
    /// be valid for longer. Cancel-safe.
    pub(crate) async fn lost_or_renewed(&mut self) -> Option<EntryLoss> {
        tokio::select! {
            biased;
            () = until(self.valid_until) => Some(EntryLoss::Expired),
            state = self.sessions.next(), if self.lifetime == Lifetime::Session => match state {
                Some(SessionState::Lost) => Some(EntryLoss::SessionLost),
                Some(_) => None,
                None => Some(EntryLoss::Closed),
            },
            followed = self.following.next() => match followed {
                Ok(Followed::Event(event)) => self.judge(event),
                Ok(Followed::Trouble(_)) => None,
                Err(error) => Some(refused(error)),
            },
            () = until(self.renew_at) => self.renew().await,
        }
    }

    /// What an event says of the entry.
    fn judge(&mut self, event: WatchEvent) -> Option<EntryLoss> {
        for change in self.seen.apply(event) {
            let loss = match change.new {
                Some(entry) => self.adopt(&entry),
                None => Some(self.gone(change.cause)),
            };
            if loss.is_some() {
                return loss;
            }
        }
        if self.seen.is_complete() && !self.has_seen {
            self.has_seen = true;
            if self.seen.is_empty() {
                return Some(self.gone(None));
            }
        }
        None
    }

    /// Takes an entry for the own one if it has a value that was written here.
    fn adopt(&mut self, entry: &Entry) -> Option<EntryLoss> {
        if entry.version <= self.version {
            return None;
        }
        if self.sent.as_ref() == Some(&entry.value) {
            self.value = entry.value.clone();
            self.sent = None;
        } else if self.value != entry.value {
            return Some(EntryLoss::Replaced);
        }
        // How long it lives is not known: only an acknowledged write vouches for that.
        self.version = entry.version;
        None
    }

    fn gone(&self, cause: Option<DeleteCause>) -> EntryLoss {
        match (self.lifetime, cause) {
            (Lifetime::Ttl(_), Some(DeleteCause::Expired)) => EntryLoss::Expired,
            (Lifetime::Session, Some(DeleteCause::Expired)) => EntryLoss::SessionLost,
            (Lifetime::Session, _) if self.store.session() == SessionState::Lost => EntryLoss::SessionLost,
            _ => EntryLoss::Removed,
        }
    }

    /// Looks at what is there after a refusal.
    async fn look(&mut self) -> Result<Option<EntryLoss>> {
        match self.store.get(&self.key).await? {
            Some(entry) => Ok(self.adopt(&entry)),
            None => Ok(Some(self.gone(None))),
        }
    }

    async fn put(&mut self, value: Bytes) -> Result<Placed> {
        let sent_at = Instant::now();
        let mut options = PutOptions::default()
            .with_precondition(Precondition::At(self.version))
            .with_expiry(self.lifetime.expiry());
        if let Some(end) = self.valid_until {
            options.timeout = Some(end.saturating_duration_since(sent_at));
        }
        let put = self.store.put_with(&self.key, value, options).await?;
        Ok(Placed { version: put.version, sent_at })
    }

    async fn renew(&mut self) -> Option<EntryLoss> {
        let error = match self.put(self.value.clone()).await {
            Ok(placed) => {
                self.note(placed);
                self.pauses.reset();
                return None;
            }
            Err(error) if error.is_conflict() => match self.look().await {
                // It is the own one, at another version.
                Ok(None) => return None,
                Ok(loss) => return loss,
                Err(error) => error,
            },
            Err(error) => error,
        };
        if !passes(&error) {
            return Some(refused(error));
        }
        tracing::debug!(key = self.key.as_str(), %error, "a renewal failed, it is tried again");
        self.renew_at = Some(Instant::now() + self.pauses.next());
        None
    }

    /// Puts another value in its place, which is a renewal; or tells how the entry was lost.
    pub(crate) async fn update(&mut self, value: Bytes) -> Result<Option<EntryLoss>> {
        self.sent = Some(value.clone());
        loop {
            match self.put(value.clone()).await {
                Ok(placed) => {
                    self.note(placed);
                    (self.value, self.sent) = (value, None);
                    return Ok(None);
                }
                Err(error) if error.is_conflict() => {
                    let loss = self.look().await?;
                    // Without a loss, an earlier write of it whose answer was lost may have been applied.
                    if loss.is_some() || self.value == value {
                        return Ok(loss);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Deletes it, if it is still the own one. Returns whether it was.
    pub(crate) async fn release(&mut self) -> Result<bool> {
        loop {
            let options = DeleteOptions::default().with_precondition(Precondition::At(self.version));
            match self.store.delete_with(&self.key, options).await {
                Ok(_) => return Ok(true),
                Err(error) if error.is_conflict() => {
                    if self.look().await?.is_some() {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Deletes it as soon as the store answers, unless it ends by itself before.
    pub(crate) async fn release_in_the_end(mut self) {
        loop {
            match self.release().await {
                Ok(_) => return,
                Err(error) if passes(&error) => {
                    tracing::debug!(key = self.key.as_str(), %error, "tried again")
                }
                Err(error) => {
                    if *error.kind() != ErrorKind::Closed {
                        tracing::warn!(key = self.key.as_str(), %error, "an entry stays until it expires");
                    }
                    return;
                }
            }
            if self.valid_until.is_some_and(|end| Instant::now() >= end) {
                return;
            }
            tokio::time::sleep(self.pauses.next()).await;
        }
    }

    pub(crate) fn not_held(&self, operation: Operation, loss: &EntryLoss) -> Error {
        loss.not_held(&self.store, &self.key, operation)
    }
}

fn refused(error: Error) -> EntryLoss {
    match error.kind() {
        ErrorKind::Closed => EntryLoss::Closed,
        _ => EntryLoss::Refused(error),
    }
}

impl fmt::Debug for Keeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeping")
            .field("key", &self.key)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
