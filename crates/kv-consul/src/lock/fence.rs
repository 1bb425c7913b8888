//! Fences: what says to Consul that a lock is still held.

use kv_core::{Error, Fence, Result};

use crate::client::refusal::Refusal;
use crate::client::wire::Op;

/// The check that a lock is still held: that its record has the session of that acquisition.
pub(crate) fn fence_op(fence: &Fence) -> Result<Op> {
    match fence.record().split_once(' ') {
        Some((session, record)) if !session.is_empty() => Ok(Op::check_session(record, session)),
        _ => {
            Err(Error::invalid_argument("the fence is of a lock of another store")
                .with_key(fence.key().as_str()))
        }
    }
}

/// What [`fence_op`] reads.
pub(crate) fn fence_record(session: &str, record: &str) -> String {
    format!("{session} {record}")
}

/// Tells a lost lock from a lost race: the fence's check is the first operation.
pub(crate) fn check_fence(fenced: bool, refused: &[(usize, Refusal)]) -> Result<()> {
    if fenced && refused.iter().any(|(at, _)| *at == 0) {
        return Err(Error::not_held(None).with_detail("by Consul's account; nothing was changed"));
    }
    Ok(())
}
