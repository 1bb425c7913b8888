//! How entries that are read expire: what the server says of their leases.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use kv_backend::{Deadline, Namespace};
use kv_core::{EntryExpiry, ListItem, Result};
use tokio::time::Instant;

use crate::client::{Client, Range, Read};
use crate::session::is_session;

/// The pause before a key whose lease is over is read again.
const EXPIRING: Duration = Duration::from_millis(50);
/// How many leases of one page are asked for at a time.
const ASKED_AT_ONCE: usize = 16;
/// How many leases a list remembers, in some 5 MiB. What lives by others is asked for on each page anew.
const REMEMBERED: usize = 1 << 16;

/// How what lives by this lease expires; `None`: there is no such lease any more.
pub(crate) async fn of_lease(client: &Client, deadline: Deadline, lease: i64) -> Result<Option<EntryExpiry>> {
    if lease == 0 {
        return Ok(Some(EntryExpiry::Never));
    }
    if is_session(lease) {
        return Ok(Some(EntryExpiry::Session));
    }
    let told = client.time_to_live(deadline, lease).await?;
    Ok(told.map(|(granted, left)| {
        EntryExpiry::ttl(Duration::from_secs(granted), Some(Duration::from_secs(left)))
    }))
}

/// The pause of one who has seen a key whose lease is gone: the key is gone or another, or will be in a
/// moment.
pub(crate) async fn expiring(deadline: Deadline) -> Result<()> {
    tokio::time::sleep(EXPIRING.min(deadline.remaining()?)).await;
    Ok(())
}

/// How the key of this name expires now; `None`: it is absent.
async fn of_key(client: &Client, deadline: Deadline, name: &str) -> Result<Option<EntryExpiry>> {
    let read = Read::new(Range::one(name)).keys_only();
    loop {
        let page = client.read(deadline, &read).await?;
        let Some(record) = page.records.first() else { return Ok(None) };
        match of_lease(client, deadline, record.lease).await? {
            None => expiring(deadline).await?,
            expiry => return Ok(expiry),
        }
    }
}

/// The expiries of one list.
pub(crate) struct Expiries {
    client: Arc<Client>,
    timeout: Duration,
    /// What was told of leases, and when it was asked for.
    known: HashMap<i64, (EntryExpiry, Instant)>,
}

impl Expiries {
    /// `timeout` is for each request.
    pub(crate) fn new(client: Arc<Client>, timeout: Duration) -> Self {
        Self { client, timeout, known: HashMap::new() }
    }

    /// Tells how the entries of one page expire, of which each item has the lease it lives by. An entry
    /// that has gone since the page was read is left out; one that was put anew expires as it does now.
    pub(crate) async fn tell(
        &mut self,
        namespace: &Namespace,
        page: Vec<(ListItem, i64)>,
    ) -> Result<VecDeque<ListItem>> {
        let (client, deadline) = (&*self.client, || Deadline::after(self.timeout));
        let leases: BTreeSet<_> = page.iter().map(|(_, lease)| *lease).collect();
        let unknown = leases.into_iter().filter(|lease| !self.known.contains_key(lease));
        let asked: HashMap<_, _> = stream::iter(unknown)
            .map(|lease| async move {
                let at = Instant::now();
                of_lease(client, deadline(), lease).await.map(|expiry| (lease, (expiry, at)))
            })
            .buffer_unordered(ASKED_AT_ONCE)
            .try_collect()
            .await?;
        let told = |lease: &i64| match asked.get(lease) {
            Some((expiry, at)) => expiry.map(|expiry| (expiry, *at)),
            None => self.known.get(lease).copied(),
        };
        let names: Vec<_> = page
            .iter()
            .filter(|(_, lease)| told(lease).is_none())
            .filter_map(|(item, _)| item.key().map(|key| namespace.native(key)))
            .collect();
        let present: HashMap<_, _> = stream::iter(names)
            .map(|name| async move { of_key(client, deadline(), &name).await.map(|expiry| (name, expiry)) })
            .buffer_unordered(ASKED_AT_ONCE)
            .try_collect()
            .await?;
        let items = page.into_iter().filter_map(|(item, lease)| {
            let ListItem::Entry(entry) = item else { return Some(item) };
            let expiry = match told(&lease) {
                Some((expiry, at)) => aged(expiry, at.elapsed()),
                None => (*present.get(&namespace.native(&entry.key))?)?,
            };
            Some(ListItem::Entry(entry.with_expiry(expiry)))
        });
        let items = items.collect();
        for (lease, (expiry, at)) in asked {
            if self.known.len() < REMEMBERED
                && let Some(expiry) = expiry
            {
                self.known.insert(lease, (expiry, at));
            }
        }
        Ok(items)
    }
}

/// What is left of a time to live this much later. The server tells whole seconds, rounded down.
fn aged(expiry: EntryExpiry, elapsed: Duration) -> EntryExpiry {
    match expiry {
        EntryExpiry::Ttl { granted, remaining: Some(remaining), .. } => {
            let elapsed = Duration::from_secs(elapsed.as_secs());
            EntryExpiry::ttl(granted, Some(remaining.saturating_sub(elapsed)))
        }
        other => other,
    }
}
