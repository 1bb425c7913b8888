//! The records of a lock: whose turn it is, what a record tells, and taking one away with the nodes above
//! that are there only for it.
//!
//! A node with a child cannot be deleted. So a node above a record that was read while the record was
//! there is the very node that was read for as long as the record is there, whatever its version: both
//! go in one multi, which is refused if anything has changed.

use bytes::Bytes;
use futures_util::future;
use kv_core::text::escape;
use kv_core::{FencingToken, LockHolder};

use crate::client::error::Fault;
use crate::client::wire::{ANY_VERSION, MultiOp, Reply, Session, Stat, answered};
use crate::env::Core;
use crate::names::{is_marker, lock_sequence, parent};

/// The records of a lock among these names, in the order of their turn.
pub(crate) fn rivals(names: Vec<String>) -> Vec<String> {
    let mut rivals: Vec<(i32, String)> =
        names.into_iter().filter_map(|name| Some((lock_sequence(&name)?, name))).collect();
    rivals.sort();
    rivals.into_iter().map(|(_, name)| name).collect()
}

/// The number of the acquisition whose record is in this state.
pub(crate) fn token(stat: &Stat) -> FencingToken {
    FencingToken::new(stat.czxid.unsigned_abs())
}

/// Who made the record with this name, data and state.
pub(crate) fn holder(name: &str, owner: Bytes, stat: &Stat) -> LockHolder {
    let native = match stat.ephemeral_owner {
        0 => format!("node {}, of no session", escape(name)),
        session => format!("node {}, session 0x{session:x}", escape(name)),
    };
    LockHolder::new(owner, token(stat)).with_native(native)
}

/// How many nodes above a record may go with it: each more is a request more.
const LEVELS: usize = 4;

/// A node above a record that holds no entry.
#[derive(Clone, Debug)]
pub(crate) struct Above {
    path: String,
    version: i32,
}

impl Core {
    /// The nodes above a record that may go with it, from the nearest. The record is there. Containers
    /// are other programs', and so are empty nodes.
    pub(crate) async fn above_record(&self, session: &dyn Session, record: &str) -> Vec<Above> {
        if !self.clears_locks() {
            return Vec::new();
        }
        let paths = std::iter::successors(parent(record), |above| parent(above))
            .take_while(|above| *above != self.layout.root() && *above != "/")
            .take(LEVELS);
        let reading = paths.map(|path| async move {
            let (data, stat) = answered(session, || session.get(path)).await?;
            let above = Above { path: path.to_owned(), version: stat.version };
            Ok(is_marker(&data).then_some(above))
        });
        let read: Vec<Reply<Option<Above>>> = future::join_all(reading).await;
        read.into_iter().map_while(|above| above.ok().flatten()).collect()
    }

    /// Takes a record away, with what is above it and is empty then. Once: where the answer is lost, the
    /// record may be gone.
    pub(crate) async fn remove_record(
        &self,
        session: &dyn Session,
        record: &str,
        above: &[Above],
    ) -> Reply<()> {
        let with = |above: &[Above]| {
            let record = MultiOp::Delete { path: record.to_owned(), version: ANY_VERSION };
            let above = above.iter();
            let above =
                above.map(|above| MultiOp::Delete { path: above.path.clone(), version: above.version });
            std::iter::once(record).chain(above).collect::<Vec<_>>()
        };
        // All at once: the server carries out the first that it can, and the record is gone for the others.
        let sets: Vec<Vec<MultiOp>> =
            (1..=above.len()).rev().filter_map(|count| above.get(..count)).map(with).collect();
        let together = future::join_all(sets.iter().map(|ops| session.multi(ops)));
        let (together, alone) = future::join(together, session.delete(record, ANY_VERSION)).await;
        // Where the record went alone, nothing above it did.
        if alone.is_err() {
            for above in above {
                self.known.forget(&above.path);
            }
        }
        match alone {
            Err(Fault::NoNode) if together.iter().any(Result::is_ok) => Ok(()),
            alone => alone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_go_by_sequence_whatever_the_layout() {
        let names = ["b__lock__0000000003", "_c_x-lock-0000000001", "a-lock-0000000002", "other", "latch-1"];
        let names = names.map(str::to_owned).to_vec();
        assert_eq!(rivals(names), ["_c_x-lock-0000000001", "a-lock-0000000002", "b__lock__0000000003"]);
    }

    #[test]
    fn what_the_server_knows_of_a_holder_is_told_as_its_tools_do() {
        let stat = Stat { czxid: 7, ephemeral_owner: 0x0100_0012_3456_0001, ..Stat::default() };
        let told = holder("x\u{1b}-lock-0000000001", Bytes::from_static(b"me"), &stat);
        assert_eq!((told.owner.as_ref(), told.token), (b"me".as_slice(), FencingToken::new(7)));
        let native = told.native.unwrap();
        assert!(native.ends_with("-lock-0000000001, session 0x100001234560001"), "{native}");
        assert!(!native.contains('\u{1b}'), "{native:?}");
    }
}
