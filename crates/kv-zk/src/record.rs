//! Taking a lock's record away, and with it the nodes above that are there only for it.
//!
//! A node with a child cannot be deleted. So a node above a record that was read while the record was
//! there is the very node that was read for as long as the record is there, whatever its version: both
//! go in one multi, which is refused if anything has changed.

use futures_util::future;

use crate::core::Core;
use crate::error::Fault;
use crate::mapping::{is_marker, parent};
use crate::session::{ANY_VERSION, MultiOp, Reply, Session, answered};

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
