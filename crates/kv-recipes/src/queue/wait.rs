//! Waiting for a job.

use std::future::pending;

use kv_core::{Result, StoreExt, Watch, WatchEvent, WatchFilter, WatchOptions, WatchTarget};
use tokio::time::{Instant, sleep_until};

use super::job::Job;
use super::line::Queue;
use crate::pace::{Pauses, passes};

impl Queue {
    /// Claims a job, and waits until there is one.
    ///
    /// It waits through outages: a claim that surely was not made, a list or a watch that fails for a
    /// moment, is tried again after a pause.
    ///
    /// # Errors
    ///
    /// As for [`try_claim`](Self::try_claim), but for what passes.
    pub async fn claim(&self) -> Result<Job> {
        let mut pauses = Pauses::new();
        loop {
            match self.claim_or_wait().await {
                Ok(job) => return Ok(job),
                Err(error) if passes(&error) && error.applied() == kv_core::Applied::No => {
                    tracing::debug!(%error, "waiting for a job failed and is tried again");
                    pauses.pause().await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn claim_or_wait(&self) -> Result<Job> {
        if let Some(job) = self.try_claim().await? {
            return Ok(job);
        }
        let options = WatchOptions::default().with_filter(WatchFilter::Puts);
        let mut watch = self.store.watch_with(WatchTarget::below(self.jobs.clone()), options).await?;
        loop {
            // What came before the watch, and after each wait what was seen or ended.
            if let Some(job) = self.try_claim().await? {
                return Ok(job);
            }
            self.see_next(&mut watch).await?;
        }
    }

    /// Waits until there may be something to claim: the watch tells of a job that nobody has claimed, or a
    /// claim that was seen ends.
    async fn see_next(&self, watch: &mut Watch) -> Result<()> {
        loop {
            let end = self.view.lock().next_end();
            let ended = async {
                match end {
                    Some(end) => sleep_until(end).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                event = watch.next() => match event {
                    Some(Ok(WatchEvent::Put(entry))) => {
                        let mut view = self.view.lock();
                        view.see(&entry, Instant::now());
                        if view.free() > 0 {
                            return Ok(());
                        }
                    }
                    Some(Ok(WatchEvent::Synced)) => return Ok(()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error),
                    None => return Err(kv_core::ErrorKind::Internal.into()),
                },
                () = ended => return Ok(()),
            }
        }
    }
}
