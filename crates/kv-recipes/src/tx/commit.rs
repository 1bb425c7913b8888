//! How a buffered transaction is checked and committed.

use std::collections::BTreeMap;

use kv_core::{
    DeleteOptions, EntryExpiry, Error, ErrorKind, Expiry, Key, Power, Precondition, PutOptions, Result,
    Store as _, StoreExt as _, TxnOp, TxnOutcome, Version,
};

use super::buffer::{Tx, Write, value_of};

/// What is read anew together with a refusal is this small, so that the answer to a refusal never outgrows
/// what a server sends.
const MAX_FRESH_BYTES: usize = 64 << 10;

/// What a commit did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// The versions of the keys it put.
    pub versions: BTreeMap<Key, Version>,
}

impl Tx {
    /// Checks that nothing that was read has changed, and changes nothing. It promises nothing for later:
    /// the commit checks again.
    ///
    /// Without anything read it does nothing.
    ///
    /// # Errors
    ///
    /// `PreconditionFailed`, naming a key that has changed; what a transaction of the store fails with.
    pub async fn prepare(&self) -> Result<()> {
        if self.is_unchanged().await? {
            return Ok(());
        }
        self.state.lock().conflicted = true;
        Err(self.conflict().await)
    }

    async fn is_unchanged(&self) -> Result<bool> {
        let (check, reads, options) = {
            let state = self.state.lock();
            (state.check(), state.reads.clone(), state.get_options())
        };
        if reads.is_empty() {
            return Ok(true);
        }
        if self.is_transactional() {
            let unchanged = self.store.transact(check).await?.succeeded;
            let mut state = self.state.lock();
            if unchanged && state.reads.len() == reads.len() {
                state.moments.unite();
            }
            return Ok(unchanged);
        }
        for (key, read) in &reads {
            let now = self.store.get_with(key, options.clone()).await?;
            if now.map(|entry| entry.version) != read.as_ref().map(|entry| entry.version) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Applies all writes in one step, if nothing that was read has changed.
    ///
    /// # Errors
    ///
    /// `PreconditionFailed`, naming a key that has changed: nothing was applied, begin again. `NotHeld` for
    /// a fence whose lock is lost. Any other error can have [`applied`](Error::applied) `Unknown`: then
    /// everything was applied, or nothing; the recipe never sends it again.
    pub async fn commit(self) -> Result<Committed> {
        match self.try_commit().await? {
            Some(committed) => Ok(committed),
            None => Err(self.conflict().await),
        }
    }

    /// Commits, or tells by `None` that something read has changed; then what the refusal brought back is
    /// in `fresh`.
    pub(super) async fn try_commit(&self) -> Result<Option<Committed>> {
        if self.state.lock().conflicted {
            return Ok(None);
        }
        self.check_kept_expiries().await?;
        {
            let state = self.state.lock();
            if state.writes.is_empty() && state.fence.is_none() && state.moments.is_one() {
                return Ok(Some(Committed::default()));
            }
        }
        let committed =
            if self.is_transactional() { self.commit_all().await? } else { self.commit_one().await? };
        self.state.lock().conflicted = committed.is_none();
        Ok(committed)
    }

    async fn commit_all(&self) -> Result<Option<Committed>> {
        let (reads, writes, txn) = {
            let state = self.state.lock();
            let mut txn = state.check().then(self.ops(&state.writes));
            txn.fence.clone_from(&state.fence);
            let reads: Vec<Key> = state.reads.keys().cloned().collect();
            let writes: Vec<Key> = state.writes.keys().cloned().collect();
            let bytes: usize = state.reads.values().filter_map(value_of).map(|value| value.len()).sum();
            let refreshing = txn.clone().or_else(reads.iter().map(TxnOp::get));
            let refreshes =
                bytes <= MAX_FRESH_BYTES && self.store.capabilities().admit_transact(&refreshing).is_ok();
            (reads, writes, if refreshes { refreshing } else { txn })
        };
        let result = self.store.transact(txn).await?;
        if result.succeeded {
            let versions =
                writes.into_iter().zip(result.outcomes).filter_map(|(key, outcome)| match outcome {
                    TxnOutcome::Put(put) => Some((key, put.version)),
                    _ => None,
                });
            return Ok(Some(Committed { versions: versions.collect() }));
        }
        let seen = reads.into_iter().zip(result.outcomes).filter_map(|(key, outcome)| match outcome {
            TxnOutcome::Get(entry) => Some((key, entry)),
            _ => None,
        });
        self.state.lock().fresh = seen.collect();
        Ok(None)
    }

    /// On a store without transactions there is one key at most.
    async fn commit_one(&self) -> Result<Option<Committed>> {
        let (reads, writes, fence, timeout) = {
            let state = self.state.lock();
            (state.reads.clone(), state.writes.clone(), state.fence.clone(), state.timeout)
        };
        let mut committed = Committed::default();
        for (key, write) in &writes {
            let precondition = match reads.get(key) {
                None => Precondition::Any,
                Some(None) => Precondition::Absent,
                Some(Some(entry)) => Precondition::At(entry.version),
            };
            let done = match write {
                Write::Put { value, expiry } => {
                    let keeps = self.store.capabilities().has(Power::KeepExpiry);
                    let mut options = PutOptions::default().with_precondition(precondition);
                    options.expiry = if *expiry == Expiry::Keep && !keeps { Expiry::Never } else { *expiry };
                    options.fence.clone_from(&fence);
                    options.timeout = timeout;
                    self.store.put_with(key, value.clone(), options).await.map(|put| {
                        committed.versions.insert(key.clone(), put.version);
                    })
                }
                Write::Delete => {
                    let mut options = DeleteOptions::default().with_precondition(precondition);
                    options.fence.clone_from(&fence);
                    options.timeout = timeout;
                    self.store.delete_with(key, options).await.map(drop)
                }
            };
            match done {
                Err(error) if error.is_conflict() => return Ok(None),
                done => done?,
            }
        }
        Ok(Some(committed))
    }

    /// Where a store cannot keep an expiry, a put that is to keep it goes through only if there is none.
    async fn check_kept_expiries(&self) -> Result<()> {
        if self.store.capabilities().has(Power::KeepExpiry) {
            return Ok(());
        }
        let keeping = |write: &Write| matches!(write, Write::Put { expiry: Expiry::Keep, .. });
        let (keys, options): (Vec<Key>, _) = {
            let state = self.state.lock();
            let keys = state.writes.iter().filter(|(_, write)| keeping(write)).map(|(key, _)| key.clone());
            (keys.collect(), state.get_options().with_expiry())
        };
        for key in keys {
            let entry = self.store.get_with(&key, options.clone()).await?;
            if entry.as_ref().is_some_and(|entry| entry.expiry != Some(EntryExpiry::Never)) {
                let what = format!(
                    "{}: the key expires, and this store cannot write it without changing that",
                    Power::KeepExpiry.name()
                );
                return Err(self.about(Error::unsupported(what).with_key(key.as_str())));
            }
            self.state.lock().read([(key, entry)]);
        }
        Ok(())
    }

    /// The refusal, naming a key that has changed and what it is at now.
    pub(super) async fn conflict(&self) -> Error {
        let (reads, fresh, options) = {
            let state = self.state.lock();
            (state.reads.clone(), state.fresh.clone(), state.get_options())
        };
        let mut changed = None;
        for (key, read) in &reads {
            let now = match fresh.get(key) {
                Some(entry) => Ok(entry.clone()),
                None => self.store.get_with(key, options.clone()).await,
            };
            match now.map(|entry| entry.map(|entry| entry.version)) {
                Ok(now) if now != read.as_ref().map(|entry| entry.version) => {
                    changed = Some((key, now));
                    break;
                }
                Ok(_) => {}
                // The refusal itself is certain; which key it was stays unknown.
                Err(_) => break,
            }
        }
        let current = changed.and_then(|(_, now)| now);
        let error = self.about(Error::new(ErrorKind::PreconditionFailed { current }));
        match changed {
            Some((key, _)) => error.with_key(key.as_str()),
            None => error.with_detail("something that the transaction read has changed"),
        }
    }
}
