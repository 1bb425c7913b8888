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

use crate::client::api::Lane;
use crate::client::error::BACKEND;
use crate::client::key_read::{KeyRead, Query};
use crate::client::scope::Scope;
use crate::env::Env;
use crate::env::backoff::Backoff;
use crate::env::names::to_entry;
use crate::watch::event_queue::Item;
use crate::watch::hub::{Hub, Subscription};
use crate::watch::index_diff::IndexDiff;
use crate::watch::members::Wants;

/// Starts a watch.
pub(crate) async fn watch(
    env: &Arc<Env>,
    hub: &Arc<Hub>,
    target: WatchTarget,
    options: WatchOptions,
) -> Result<Watch> {
    let scope = env.names.scope(&target)?;
    let mut watcher = Watcher {
        env: Arc::clone(env),
        subscription: Subscription::new(hub, scope.clone(), Wants::Events(options.filter)),
        scope,
        path: target.path().to_owned(),
        filter: options.filter,
        timeout: options.timeout.unwrap_or(env.times.timeout),
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
    env: Arc<Env>,
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
    items: KeyRead,
    told: IndexDiff,
}

impl Watcher {
    /// Begins to read the state.
    fn read(&self) -> impl Future<Output = Result<Snapshot>> + Send + 'static {
        let query = Query::new(self.scope.clone(), Consistency::Linearizable);
        let (env, timeout) = (Arc::clone(&self.env), self.timeout);
        async move {
            let items = env.api.read(query, Lane::Stream, timeout).await?;
            Ok(Snapshot { items, told: IndexDiff::default() })
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
            self.env.check_open()?;
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
                State::Reading(snapshot) => match next_entry(&self.env, snapshot, self.timeout).await {
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
            let pause = self.env.jitter(self.backoff.pause());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.env.closing.cancelled() => {}
            }
        }
    }
}

/// The next entry of a state. One that has nothing is empty only if the token may read there.
async fn next_entry(env: &Env, snapshot: &mut Snapshot, timeout: Duration) -> Result<Option<WatchEvent>> {
    while let Some(kv) = snapshot.items.next().await? {
        if let Some(key) = env.names.entry(&kv.key, kv.flags) {
            snapshot.told.see(&kv.key, kv.modify_index, true);
            return Ok(Some(WatchEvent::Put(to_entry(key, &kv)?)));
        }
    }
    if snapshot.items.may_be_hidden() {
        let deadline = Deadline::after(timeout);
        env.api.check_readable(Lane::Call, &snapshot.items.scope().right(), &deadline).await?;
    }
    Ok(None)
}
