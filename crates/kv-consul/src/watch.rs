//! Watches: the stream a consumer reads. The first state, and the state after a gap, it reads itself and
//! at its own pace; the changes come from the hub.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use kv_backend::Deadline;
use kv_core::{
    Consistency, Error, ErrorKind, Operation, Result, Watch, WatchEvent, WatchFilter, WatchOptions,
    WatchStart, WatchTarget,
};

use crate::api::Lane;
use crate::error::BACKEND;
use crate::hub::{Subscription, Wants};
use crate::items::{Items, Query};
use crate::known::Known;
use crate::names::Scope;
use crate::shared::{Backoff, Shared};
use crate::sink::Item;
use crate::store::to_entry;

/// Starts a watch.
pub(crate) async fn watch(shared: &Arc<Shared>, target: WatchTarget, options: WatchOptions) -> Result<Watch> {
    let scope = shared.names.scope(&target)?;
    let mut watcher = Watcher {
        shared: Arc::clone(shared),
        subscription: Subscription::new(shared, scope.clone(), Wants::Events(options.filter)),
        scope,
        path: target.path().to_owned(),
        filter: options.filter,
        timeout: options.timeout.unwrap_or(shared.timeout),
        backoff: Backoff::reconnect(),
        state: State::Live,
    };
    match options.start {
        WatchStart::Now => {
            let timeout = watcher.timeout;
            kv_backend::within(timeout, watcher.subscription.begin()).await?;
        }
        WatchStart::Initial => watcher.state = State::Reading(Box::new(watcher.read().await?)),
        // Consul keeps no history: the state stands for what happened since.
        _ => watcher.state = State::Gap(Some(Box::new(watcher.read().await?))),
    }
    Ok(Watch::new(stream::unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await?;
        Some((event, watcher))
    })))
}

struct Watcher {
    shared: Arc<Shared>,
    subscription: Subscription,
    scope: Scope,
    path: String,
    filter: WatchFilter,
    timeout: Duration,
    backoff: Backoff,
    state: State,
}

enum State {
    /// A `Resync` is to be told, then the state, the reading of which may have begun.
    Gap(Option<Box<Snapshot>>),
    Reading(Box<Snapshot>),
    Live,
    Ended,
}

/// A state that is being read and told.
struct Snapshot {
    items: Items,
    told: Known,
}

impl Watcher {
    /// Begins to read the state.
    fn read(&self) -> impl Future<Output = Result<Snapshot>> + Send + 'static {
        let query = Query::new(self.scope.clone(), Consistency::Linearizable);
        let (shared, timeout) = (Arc::clone(&self.shared), self.timeout);
        async move {
            let items = shared.api.read(query, Lane::Stream, timeout).await?;
            Ok(Snapshot { items, told: Known::default() })
        }
    }

    async fn next(&mut self) -> Option<Result<WatchEvent>> {
        if matches!(self.state, State::Ended) {
            return None;
        }
        let event = self.advance().await;
        if event.is_err() {
            self.state = State::Ended;
            self.subscription.leave();
        }
        Some(event.map_err(|error| {
            error.with_operation(Operation::Watch).with_backend(BACKEND).with_key(self.path.as_str())
        }))
    }

    /// The next event; ends only with an error.
    async fn advance(&mut self) -> Result<WatchEvent> {
        loop {
            if let State::Live = self.state {
                match self.subscription.next().await {
                    Item::Event(event) => return Ok(event),
                    Item::Changed => {}
                    Item::End(error) => return Err(error),
                    Item::Gap => self.state = State::Gap(None),
                }
                continue;
            }
            self.shared.check_open()?;
            let failed = match &mut self.state {
                State::Gap(begun) => match begun.take() {
                    Some(snapshot) => {
                        self.state = State::Reading(snapshot);
                        return Ok(WatchEvent::Resync);
                    }
                    None => match self.read().await {
                        Ok(snapshot) => {
                            self.backoff.reset();
                            self.state = State::Gap(Some(Box::new(snapshot)));
                            continue;
                        }
                        Err(error) => error,
                    },
                },
                State::Reading(snapshot) => match next_entry(&self.shared, snapshot, self.timeout).await {
                    Ok(Some(event)) if self.filter.admits(&event) => return Ok(event),
                    Ok(Some(_)) => continue,
                    Ok(None) => {
                        let told = std::mem::take(&mut snapshot.told);
                        self.subscription.resume(told);
                        self.state = State::Live;
                        return Ok(WatchEvent::Synced);
                    }
                    Err(error) => error,
                },
                State::Live | State::Ended => return Err(Error::new(ErrorKind::Internal)),
            };
            if !failed.is_transient() {
                return Err(failed);
            }
            // What was told of a state that broke off is to be forgotten.
            self.state = State::Gap(None);
            let pause = self.shared.jitter(self.backoff.pause());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.closing.cancelled() => {}
            }
        }
    }
}

/// The next entry of a state. One that has nothing is empty only if the token may read there.
async fn next_entry(
    shared: &Shared,
    snapshot: &mut Snapshot,
    timeout: Duration,
) -> Result<Option<WatchEvent>> {
    while let Some(kv) = snapshot.items.next().await? {
        if let Some(key) = shared.names.entry(&kv.key, kv.flags) {
            snapshot.told.see(&kv.key, kv.modify_index, true);
            return Ok(Some(WatchEvent::Put(to_entry(key, &kv)?)));
        }
    }
    if snapshot.items.may_be_hidden() {
        let deadline = Deadline::after(timeout);
        shared.api.check_readable(Lane::Call, &snapshot.items.scope().right(), &deadline).await?;
    }
    Ok(None)
}
