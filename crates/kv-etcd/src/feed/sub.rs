//! One watch of the stream, as the task holds it: what is passed on to its reader.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kv_core::{Error, Result};
use tokio::sync::{mpsc, oneshot};

use crate::client::{Change, Range, WatchRequest};

/// What may wait for one reader; one message more is taken when nothing waits.
const QUEUED_CHANGES: usize = 4096;
const QUEUED_BYTES: usize = 4 << 20;

/// What a watch gets.
#[derive(Debug)]
pub(crate) enum Signal {
    Changes(Vec<Change>),
    /// Too much waits for the reader: what begins at this revision is not delivered here any more.
    Overflow(i64),
    /// Changes were missed. With the revision of the compaction, if it was one.
    Gap(Option<i64>),
    Failed(Error),
}

/// What a watch is about.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) range: Range,
    /// The first revision wanted; 0: what happens once the server has taken it.
    pub(crate) start: i64,
    /// A revision the cluster is known to have had; 0 if none is.
    pub(crate) seen: i64,
    pub(crate) puts: bool,
    pub(crate) deletes: bool,
}

/// How much waits for one reader.
#[derive(Default)]
pub(super) struct Queued {
    changes: AtomicUsize,
    bytes: AtomicUsize,
}

impl Queued {
    /// The reader has taken these.
    pub(super) fn taken(&self, changes: &[Change]) {
        self.changes.fetch_sub(changes.len(), Ordering::AcqRel);
        self.bytes.fetch_sub(size(changes), Ordering::AcqRel);
    }
}

fn size(changes: &[Change]) -> usize {
    changes.iter().map(Change::size).sum()
}

/// One watch, as the task holds it.
pub(super) struct Sub {
    pub(super) request: WatchRequest,
    /// The latest revision the cluster is known to have had: one that has less now lost its data.
    pub(super) seen: i64,
    pub(super) signals: mpsc::UnboundedSender<Signal>,
    pub(super) queued: Arc<Queued>,
    /// Told when the server has taken it the first time.
    pub(super) started: Option<oneshot::Sender<Result<()>>>,
    /// Whether the stream was opened anew because it was refused.
    pub(super) retried: bool,
}

impl Sub {
    /// Passes changes on; `false` if nobody takes them or too much waits.
    pub(super) fn pass(&mut self, mut changes: Vec<Change>) -> bool {
        // A member that lags behind has sent what lies before the start.
        changes.retain(|change| change.record.version >= self.request.start);
        let versions = || changes.iter().map(|change| change.record.version);
        let (Some(first), Some(last)) = (versions().min(), versions().max()) else { return true };
        self.request.start = last.saturating_add(1);
        self.seen = self.seen.max(last);
        let bytes = size(&changes);
        let waiting = self.queued.changes.fetch_add(changes.len(), Ordering::AcqRel);
        let waiting_bytes = self.queued.bytes.fetch_add(bytes, Ordering::AcqRel);
        let fits = waiting == 0
            || (waiting + changes.len() <= QUEUED_CHANGES && waiting_bytes + bytes <= QUEUED_BYTES);
        if fits {
            return self.signals.send(Signal::Changes(changes)).is_ok();
        }
        self.end(Signal::Overflow(first));
        false
    }

    /// The last thing it hears.
    pub(super) fn end(&mut self, signal: Signal) {
        match (self.started.take(), signal) {
            (Some(started), Signal::Failed(error)) => drop(started.send(Err(error))),
            (started, signal) => {
                // A reader that is gone needs no end.
                let _ = self.signals.send(signal);
                if let Some(started) = started {
                    let _ = started.send(Ok(()));
                }
            }
        }
    }
}
