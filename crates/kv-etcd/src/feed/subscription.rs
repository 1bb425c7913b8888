//! One watch of the stream, as its reader holds it.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::sub::{Queued, Signal, Sub};
use crate::client::error::closed;

/// What the task is told.
pub(super) enum Command {
    Watch(i64, Box<Sub>),
    Cancel(i64),
}

/// One watch, as its reader holds it. Dropping it ends the watch.
pub(crate) struct Subscription {
    pub(super) signals: mpsc::UnboundedReceiver<Signal>,
    pub(super) queued: Arc<Queued>,
    pub(super) id: i64,
    pub(super) commands: mpsc::UnboundedSender<Command>,
}

impl Subscription {
    /// The next signal; after one that is no change there is none. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Signal {
        match self.signals.recv().await {
            Some(Signal::Changes(changes)) => {
                self.queued.taken(&changes);
                Signal::Changes(changes)
            }
            Some(signal) => signal,
            None => Signal::Failed(closed()),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Cancel(self.id));
    }
}
