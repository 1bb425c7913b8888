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
    pub async fn prepare(&mut self) -> Result<()> {
        if self.reads.is_empty() || self.is_unchanged().await? {
            return Ok(());
        }
        self.conflicted = true;
        Err(self.conflict().await)
    }

    async fn is_unchanged(&mut self) -> Result<bool> {
        if self.is_transactional() {
            let unchanged = self.store.transact(self.check()).await?.succeeded;
            if unchanged {
                self.moments.unite();
            }
            return Ok(unchanged);
        }
        for (key, read) in &self.reads {
            let now = self.store.get_with(key, self.get_options()).await?;
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
    pub async fn commit(mut self) -> Result<Committed> {
        match self.try_commit().await? {
            Some(committed) => Ok(committed),
            None => Err(self.conflict().await),
        }
    }

    /// Commits, or tells by `None` that something read has changed; then what the refusal brought back is
    /// in `fresh`.
    pub(super) async fn try_commit(&mut self) -> Result<Option<Committed>> {
        if self.conflicted {
            return Ok(None);
        }
        self.check_kept_expiries().await?;
        if self.writes.is_empty() && self.fence.is_none() && self.moments.is_one() {
            return Ok(Some(Committed::default()));
        }
        let committed =
            if self.is_transactional() { self.commit_all().await? } else { self.commit_one().await? };
        self.conflicted = committed.is_none();
        Ok(committed)
    }

    async fn commit_all(&mut self) -> Result<Option<Committed>> {
        let mut txn = self.check().then(self.ops(&self.writes));
        txn.fence.clone_from(&self.fence);
        let refreshing = txn.clone().or_else(self.reads.keys().map(TxnOp::get));
        let bytes: usize = self.reads.values().filter_map(value_of).map(|value| value.len()).sum();
        let refreshes =
            bytes <= MAX_FRESH_BYTES && self.store.capabilities().admit_transact(&refreshing).is_ok();
        let result = self.store.transact(if refreshes { refreshing } else { txn }).await?;
        if result.succeeded {
            let versions =
                self.writes.keys().zip(result.outcomes).filter_map(|(key, outcome)| match outcome {
                    TxnOutcome::Put(put) => Some((key.clone(), put.version)),
                    _ => None,
                });
            return Ok(Some(Committed { versions: versions.collect() }));
        }
        let seen = self.reads.keys().zip(result.outcomes).filter_map(|(key, outcome)| match outcome {
            TxnOutcome::Get(entry) => Some((key.clone(), entry)),
            _ => None,
        });
        self.fresh = seen.collect();
        Ok(None)
    }

    /// On a store without transactions there is one key at most.
    async fn commit_one(&mut self) -> Result<Option<Committed>> {
        let mut committed = Committed::default();
        for (key, write) in &self.writes {
            let precondition = match self.reads.get(key) {
                None => Precondition::Any,
                Some(None) => Precondition::Absent,
                Some(Some(entry)) => Precondition::At(entry.version),
            };
            let done = match write {
                Write::Put { value, expiry } => {
                    let keeps = self.store.capabilities().has(Power::KeepExpiry);
                    let mut options = PutOptions::default().with_precondition(precondition);
                    options.expiry = if *expiry == Expiry::Keep && !keeps { Expiry::Never } else { *expiry };
                    options.fence.clone_from(&self.fence);
                    options.timeout = self.timeout;
                    self.store.put_with(key, value.clone(), options).await.map(|put| {
                        committed.versions.insert(key.clone(), put.version);
                    })
                }
                Write::Delete => {
                    let mut options = DeleteOptions::default().with_precondition(precondition);
                    options.fence.clone_from(&self.fence);
                    options.timeout = self.timeout;
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
    async fn check_kept_expiries(&mut self) -> Result<()> {
        if self.store.capabilities().has(Power::KeepExpiry) {
            return Ok(());
        }
        let keeping = |write: &Write| matches!(write, Write::Put { expiry: Expiry::Keep, .. });
        let keys: Vec<Key> =
            self.writes.iter().filter(|(_, write)| keeping(write)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let entry = self.store.get_with(&key, self.get_options().with_expiry()).await?;
            if entry.as_ref().is_some_and(|entry| entry.expiry != Some(EntryExpiry::Never)) {
                let what = format!(
                    "{}: the key expires, and this store cannot write it without changing that",
                    Power::KeepExpiry.name()
                );
                return Err(self.about(Error::unsupported(what).with_key(key.as_str())));
            }
            if let std::collections::btree_map::Entry::Vacant(unread) = self.reads.entry(key) {
                unread.insert(entry);
                self.moments.add_new();
            }
        }
        Ok(())
    }

    /// The refusal, naming a key that has changed and what it is at now.
    pub(super) async fn conflict(&self) -> Error {
        let mut changed = None;
        for (key, read) in &self.reads {
            let now = match self.fresh.get(key) {
                Some(entry) => Ok(entry.clone()),
                None => self.store.get_with(key, self.get_options()).await,
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
