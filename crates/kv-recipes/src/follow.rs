//! A watch that begins again by itself after what passes: outages and compaction.

use std::sync::Arc;

use kv_core::{
    Error, ErrorKind, Operation, Result, Store, StoreExt, Watch, WatchEvent, WatchOptions, WatchTarget,
};
use tokio::time::Instant;

use crate::pace::{Pauses, passes};

/// A watch with the state first. It ends only with an error that does not pass.
#[derive(Debug)]
pub(crate) struct Following {
    store: Arc<dyn Store>,
    target: WatchTarget,
    watch: Option<Watch>,
    pauses: Pauses,
    /// When the next watch is begun, while there is none.
    again_at: Option<Instant>,
}

/// What comes of waiting for the next event.
#[derive(Debug)]
pub(crate) enum Followed {
    Event(WatchEvent),
    /// The watch failed and is begun again: the state may be behind until the next event.
    Trouble(Error),
}

impl Following {
    /// Begins with the first [`next`](Self::next).
    pub(crate) fn new(store: Arc<dyn Store>, target: WatchTarget) -> Self {
        Self { store, target, watch: None, pauses: Pauses::new(), again_at: None }
    }

    /// Begins at once; an error of this first attempt is returned whether it passes or not.
    pub(crate) async fn start(store: Arc<dyn Store>, target: WatchTarget) -> Result<Self> {
        let watch = begin(&store, &target).await?;
        Ok(Self { watch: Some(watch), ..Self::new(store, target) })
    }

    /// The next event; after a failure that passes `Resync` and the state. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Followed> {
        let Some(watch) = &mut self.watch else { return self.again().await };
        match watch.next().await {
            Some(Ok(event)) => {
                if event == WatchEvent::Synced {
                    self.pauses.reset();
                }
                Ok(Followed::Event(event))
            }
            Some(Err(error)) => self.fail(error),
            None => Err(Error::new(ErrorKind::Internal)
                .with_operation(Operation::Watch)
                .with_key(self.target.path())
                .with_detail("the watch ended without an error")),
        }
    }

    async fn again(&mut self) -> Result<Followed> {
        if let Some(at) = self.again_at {
            tokio::time::sleep_until(at).await;
        }
        match begin(&self.store, &self.target).await {
            Ok(watch) => {
                (self.watch, self.again_at) = (Some(watch), None);
                Ok(Followed::Event(WatchEvent::Resync))
            }
            Err(error) => self.fail(error),
        }
    }

    /// What there is of a failure: a pause before the next attempt, or the end.
    fn fail(&mut self, error: Error) -> Result<Followed> {
        self.watch = None;
        if !passes(&error) && !matches!(error.kind(), ErrorKind::Compacted { .. }) {
            return Err(error);
        }
        tracing::debug!(path = self.target.path(), %error, "a watch failed, it begins again");
        self.again_at = Some(Instant::now() + self.pauses.next());
        Ok(Followed::Trouble(error))
    }
}

async fn begin(store: &Arc<dyn Store>, target: &WatchTarget) -> Result<Watch> {
    store.watch_with(target.clone(), WatchOptions::default().with_initial()).await
}
