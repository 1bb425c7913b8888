//! What becomes of one record of a lock: it is deleted, or a native tool writes over it.

use std::sync::Arc;
use std::time::Duration;

use kv_core::text::escape;
use kv_core::{Compare, Result};

use super::locks::Locks;
use crate::client::{Change, Check, Field, Name, Range, Read, Record, Step, Tree};
use crate::feed::{Signal, Spec};
use crate::record;

/// The pause before the server is asked again after a failure.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

/// One record, which is this one only with this create revision.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) name: Name,
    pub(crate) created: i64,
}

/// How a record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Deleted,
    /// It is there and lives by its lease no more: for us it is an entry, for `etcdctl lock` a rival
    /// that never goes. See [`clear`].
    Overwritten,
}

impl Place {
    pub(crate) fn of(record: &Record) -> Self {
        Self { name: record.name.clone(), created: record.created }
    }

    /// The comparisons that hold as long as it stands.
    pub(crate) fn stands(&self) -> Vec<Check> {
        let created = Check::new(self.name.clone(), Compare::Equal, Field::Created(self.created));
        let lease = record::spelt_lease(&self.name)
            .map(|lease| Check::new(self.name.clone(), Compare::Equal, Field::Lease(lease)));
        [created].into_iter().chain(lease).collect()
    }

    /// What is there under its name says how it ended; `None` while it stands.
    fn fate(&self, found: Option<&Record>) -> Option<Fate> {
        match found {
            Some(found) if found.created != self.created => Some(Fate::Deleted),
            Some(found) if record::is_lock(found) => None,
            Some(_) => Some(Fate::Overwritten),
            None => Some(Fate::Deleted),
        }
    }

    fn changed(&self, change: &Change) -> Option<Fate> {
        self.fate(Some(&change.record).filter(|_| !change.deleted))
    }
}

/// Resolves once the record has ended. Outages are waited out.
///
/// With `since`, everything from that revision on is told. Without, the watch begins in the present and
/// the state is read once it stands: that is a request more, but the server looks for changes of the
/// past only ten times a second, and a lock changes hands in less.
pub(crate) async fn fate(locks: &Locks, place: &Place, mut since: Option<i64>) -> Result<Fate> {
    loop {
        let spec = Spec {
            range: Range::one(place.name.clone()),
            start: since.unwrap_or(0),
            seen: since.map_or(0, |since| since.saturating_sub(1)),
            puts: true,
            deletes: true,
        };
        match watched(locks, place, spec).await {
            Ok(Some(fate)) => return Ok(fate),
            Ok(None) => {}
            Err(error) if error.is_transient() => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error),
        }
        // What happened since is not known: the present state is.
        since = None;
    }
}

/// One watch of it; `None` if that missed something.
async fn watched(locks: &Locks, place: &Place, spec: Spec) -> Result<Option<Fate>> {
    let is_from_now = spec.start == 0;
    let mut subscription = locks.hub.watch(locks.env.deadline(None), spec).await?;
    if is_from_now {
        let read = Read::new(Range::one(place.name.clone())).keys_only();
        let page = locks.env.client.read(locks.env.deadline(None), &read).await?;
        if let Some(fate) = place.fate(page.records.first()) {
            return Ok(Some(fate));
        }
    }
    loop {
        match subscription.next().await {
            Signal::Changes(changes) => {
                if let Some(fate) = changes.iter().find_map(|change| place.changed(change)) {
                    return Ok(Some(fate));
                }
            }
            Signal::Overflow(_) | Signal::Gap(_) => return Ok(None),
            Signal::Failed(error) => return Err(error),
        }
    }
}

/// How many records are looked at for one lock.
const LOOKED_AT: usize = 8;

/// Removes, in the background, what a native tool left of records that it wrote over while nobody was
/// there to see it. Such a record can be told from an entry by its history alone: it was the record of a
/// lock when it was created. What the server has compacted stays, as does what was created as an entry.
pub(crate) fn clear_left(locks: &Arc<Locks>, mut suspects: Vec<Place>) {
    if suspects.is_empty() {
        return;
    }
    suspects.truncate(LOOKED_AT);
    let locks = Arc::clone(locks);
    locks.env.tasks.clone().spawn(async move {
        for place in suspects {
            let mut read = Read::new(Range::one(place.name.clone())).keys_only();
            read.revision = place.created;
            match locks.env.client.read(locks.env.deadline(None), &read).await {
                Ok(page) if page.records.first().is_some_and(record::is_lock) => clear(&locks, place),
                Ok(_) => {}
                // The next one who wants the lock looks again.
                Err(error) => tracing::debug!(%error, "what a record was when created is not known"),
            }
        }
    });
}

/// Removes, in the background, what a native tool left of a record that it wrote over: without a lease
/// it would keep `etcdctl lock` away for ever.
pub(crate) fn clear(locks: &Arc<Locks>, place: Place) {
    let locks = Arc::clone(locks);
    locks.env.tasks.clone().spawn(async move {
        let name = place.name;
        let mut when = vec![Check::new(name.clone(), Compare::Equal, Field::Created(place.created))];
        when.extend(
            record::spelt_lease(&name)
                .map(|lease| Check::new(name.clone(), Compare::NotEqual, Field::Lease(lease))),
        );
        let then = vec![Step::Delete { range: Range::one(name.clone()), previous: false }];
        loop {
            let is_last = locks.env.closing.is_cancelled();
            let tree = Tree { when: when.clone(), then: then.clone(), or_else: Vec::new() };
            match locks.env.client.commit(locks.env.deadline(None), tree).await {
                Ok(_) => return,
                Err(error) if is_last || !error.is_transient() => {
                    tracing::warn!(
                        %error,
                        name = %escape(&String::from_utf8_lossy(&name)),
                        "the record of a lock that another program wrote over cannot be removed"
                    );
                    return;
                }
                Err(_) => drop(tokio::time::timeout(PAUSE, locks.env.closing.cancelled()).await),
            }
        }
    });
}
