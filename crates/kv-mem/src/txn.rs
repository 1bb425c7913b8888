//! Transactions: one step under the store's lock.

use async_trait::async_trait;
use kv_core::implement::Transact;
use kv_core::{
    DeleteCause, DeleteResult, Error, Operation, Result, Store, Txn, TxnOp, TxnOutcome, TxnResult,
};

use crate::name::native;
use crate::record::Record;
use crate::state::{Granted, Put};
use crate::store::MemStore;

#[async_trait]
impl Transact for MemStore {
    async fn transact_with(&self, txn: Txn) -> Result<TxnResult> {
        self.capabilities().admit_transact(&txn)?;
        tokio::task::consume_budget().await;
        self.run(txn)
            .map_err(|error| error.with_operation(Operation::Transact).with_backend(crate::store::BACKEND))
    }
}

impl MemStore {
    fn run(&self, txn: Txn) -> Result<TxnResult> {
        let limits = self.limits();
        // Everything that can be refused is refused before the first operation: then none fails.
        let [then, or_else] = [&txn.then, &txn.or_else].map(|ops| ops.iter().map(|op| check(op, limits)));
        let (then, or_else) = (then.collect::<Result<Vec<_>>>()?, or_else.collect::<Result<Vec<_>>>()?);
        self.database().write(|writer| {
            writer.check_open(self.id())?;
            writer.check_fence(self.database(), txn.fence.as_ref())?;
            let holds = txn.conditions.iter().all(|condition| {
                let stored = writer.record(&native(self.namespace(), &condition.key));
                condition.holds(stored.map(Record::entry).as_ref())
            });
            let steps = if holds { then } else { or_else };
            let writes = steps.iter().any(|step| !matches!(step, Step::Get(_)));
            let version = if writes { writer.version() } else { kv_core::Version::ZERO };
            let outcomes = steps.into_iter().map(|step| match step {
                Step::Put(key, value, expiry) => {
                    self.note_session(expiry);
                    let put = Put { handle: self.id(), namespace: self.namespace(), key, value, expiry };
                    TxnOutcome::Put(writer.put(put, version))
                }
                Step::Delete(key) => {
                    let removed =
                        writer.remove(&native(self.namespace(), key), version, DeleteCause::Deleted);
                    TxnOutcome::Delete(match removed {
                        Some(_) => DeleteResult::deleted(None),
                        None => DeleteResult::absent(),
                    })
                }
                Step::Get(key) => {
                    let record = writer.record(&native(self.namespace(), key));
                    TxnOutcome::Get(record.and_then(|record| record.seen_from(self.namespace())))
                }
            });
            Ok(TxnResult::new(holds, outcomes.collect()))
        })
    }
}

/// An operation that was checked.
enum Step<'a> {
    Put(&'a kv_core::Key, kv_core::Bytes, Granted),
    Delete(&'a kv_core::Key),
    Get(&'a kv_core::Key),
}

fn check<'a>(op: &'a TxnOp, limits: &kv_core::Limits) -> Result<Step<'a>> {
    match op {
        TxnOp::Put { key, value, expiry, .. } => {
            let expiry = Granted::new(*expiry, limits).map_err(|error| error.with_key(key.as_str()))?;
            Ok(Step::Put(key, value.clone(), expiry))
        }
        TxnOp::Delete { key, .. } => Ok(Step::Delete(key)),
        TxnOp::Get { key, .. } => Ok(Step::Get(key)),
        _ => Err(Error::unsupported("this operation of a transaction").with_key(op.key().as_str())),
    }
}
