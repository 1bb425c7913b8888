//! The stream of one watch: how it begins, what it delivers, its end.

use std::sync::Arc;

use futures_util::stream;
use kv_core::{Consistency, Error, Operation, Result, Watch, WatchOptions, WatchStart, WatchTarget};

use super::feed::{Feed, Quiet, Taken};
use super::hub::HubHandle;
use super::node::Scope;
use crate::client::error::BACKEND;
use crate::env::Core;

/// Begins a watch: when this returns, every later change is delivered.
pub(crate) async fn watch(
    core: &Core,
    hub: &HubHandle,
    target: WatchTarget,
    options: WatchOptions,
) -> Result<Watch> {
    core.client.check_open()?;
    let deadline = core.deadline(options.timeout);
    // What was acknowledged before is not reported as a change. An answer comes after the watches
    // that fired before it.
    if core.must_sync(Consistency::Linearizable) {
        core.catch_up(Consistency::Linearizable, deadline).await?;
    } else {
        let root = core.layout.root();
        let asked = core.client.read(deadline, |session| async move { session.stat(root).await });
        let _ = asked.await?;
    }
    core.client.up(deadline).await?;
    let feed = Feed::new(options.filter);
    let scope = match &target {
        WatchTarget::Key(key) if !core.layout.is_readable(key) => None,
        WatchTarget::Key(key) => Some(Scope::Node(core.layout.path(key))),
        WatchTarget::Prefix(prefix) if core.layout.is_reserved_prefix(prefix) => None,
        WatchTarget::Prefix(prefix) => Some(Scope::Tree(core.layout.prefix_path(prefix))),
        // A lock's record is never an entry, and nothing below it is.
        WatchTarget::Tree(key) if !core.layout.is_readable(key) => None,
        WatchTarget::Tree(key) => Some(Scope::Branch(core.layout.path(key))),
        _ => return Err(Error::unsupported("this kind of watch target")),
    };
    let quiet = match options.start {
        WatchStart::Now => true,
        WatchStart::Initial => {
            feed.begin_state(false);
            false
        }
        // No history: the state stands for it.
        WatchStart::After(_) => {
            feed.begin_state(true);
            false
        }
        _ => return Err(Error::unsupported("this kind of watch start")),
    };
    // What is never an entry is watched as a path nobody can write: nothing, until it is closed.
    let scope = scope.unwrap_or_else(|| Scope::Node("/zookeeper/kv.absent".to_owned()));
    let (quiet, begun) = quiet.then(Quiet::new).unzip();
    let id = hub.add(scope, Arc::clone(&feed), quiet);
    let watch = stream(hub.clone(), id, feed);
    if let Some(begun) = begun {
        // Dropping the watch on the way out takes it back.
        begun.wait(options.timeout.unwrap_or(core.timeout)).await?;
    }
    Ok(watch)
}

/// Ends the watch at the hub when its stream is dropped.
struct Subscription {
    hub: HubHandle,
    id: u64,
    feed: Arc<Feed>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.remove(self.id);
    }
}

/// The stream of a feed.
fn stream(hub: HubHandle, id: u64, feed: Arc<Feed>) -> Watch {
    let subscription = Subscription { hub, id, feed };
    Watch::new(stream::unfold(Some(subscription), |subscription| async move {
        let subscription = subscription?;
        loop {
            match subscription.feed.take() {
                Taken::Event(event) => return Some((Ok(event), Some(subscription))),
                Taken::End(error) => return Some((Err(decorate(error)), None)),
                Taken::Nothing(unread) => {
                    for key in unread {
                        subscription.hub.fetch(subscription.id, key);
                    }
                    // Each change leaves a permit, so none is missed.
                    subscription.feed.changed.notified().await;
                }
            }
        }
    }))
}

pub(crate) fn decorate(error: Error) -> Error {
    error.with_operation(Operation::Watch).with_backend(BACKEND)
}
