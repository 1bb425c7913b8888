//! Reading a part of a node with a watch set.

use std::time::Duration;

use kv_core::{Entry, Key, Result};

use super::node::{Found, Seen};
use crate::client::error::Fault;
use crate::client::wire::{OneShot, Reply, Session, answered};
use crate::env::{Core, version};
use crate::names::is_marker;

/// How often a node is looked at once more whose key has just come to be, and how long after.
const CREATION: (usize, Duration) = (10, Duration::from_millis(10));

/// Reads the entry of a node and arms its watch; `rooted`, also one for its coming to be. `before` is
/// how the node was read the last time.
pub(super) async fn read_data(
    core: &Core,
    session: &dyn Session,
    path: &str,
    rooted: bool,
    before: Option<Seen>,
) -> Reply<Found> {
    let found = |entry, seen, armed| Ok(Found::Data { entry, seen, armed });
    let (data, stat, armed) = loop {
        match answered(session, || session.get_watched(path)).await {
            Err(Fault::NoNode) if !rooted => return found(None, None, None),
            Err(Fault::NoNode) => {
                if let Some(armed) = coming(session, path).await? {
                    return found(None, None, Some(armed));
                }
            }
            read => break read?,
        }
    };
    let mut seen = Seen { czxid: stat.czxid, mzxid: stat.mzxid, version: stat.version, created: None };
    if is_marker(&data) {
        return found(None, Some(seen), Some(armed));
    }
    let Some(key) = core.layout.key(path) else { return found(None, None, Some(armed)) };
    let plain = Entry::new(key.clone(), data.clone(), version(stat.mzxid), version(stat.czxid));
    let known = before.and_then(|before| before.created_of(&stat));
    // Of what was written more than once since it was a marker, the node will say when it came to be.
    let since = before.filter(|before| before.created.is_none() && before.czxid == stat.czxid);
    let read = match since.filter(|_| known.is_none()) {
        Some(marker) => creation(core, path, &key, marker.mzxid).await,
        None => core.entry(&key, path, Some((data, stat)), false, core.deadline(None)).await,
    };
    // It may have been read again, and be gone or newer by now: the watch has fired then.
    let mut entry = read.ok().flatten().unwrap_or(plain);
    if let Some(known) = known.filter(|known| *known > entry.created) {
        entry.created = known;
    }
    seen.created = Some(entry.created);
    found(Some(entry), Some(seen), Some(armed))
}

/// The entry of a key that came to be after a transaction, by when its writer has noted that, or will
/// not any more.
async fn creation(core: &Core, path: &str, key: &Key, after: i64) -> Result<Option<Entry>> {
    let (times, pause) = CREATION;
    for _ in 0..times {
        let Some(node) = core.node(path, true, core.deadline(None)).await? else { return Ok(None) };
        if node.created() > after {
            return Ok(node.entry(key));
        }
        tokio::time::sleep(pause).await;
    }
    Ok(None)
}

/// Reads the names of a node's children and arms their watch; `rooted`, also one for its coming to be.
pub(super) async fn read_names(session: &dyn Session, path: &str, rooted: bool) -> Reply<Found> {
    loop {
        match answered(session, || session.children_watched(path)).await {
            // Its data watch or its parent's tell the rest.
            Err(Fault::NoNode) if !rooted => return Ok(Found::Names { names: Vec::new(), armed: None }),
            Err(Fault::NoNode) => {
                if let Some(armed) = coming(session, path).await? {
                    return Ok(Found::Names { names: Vec::new(), armed: Some(armed) });
                }
            }
            read => {
                let (names, armed) = read?;
                return Ok(Found::Names { names, armed: Some(armed) });
            }
        }
    }
}

/// A watch for the coming to be of a node that is not there; `None` if it is there by now.
async fn coming(session: &dyn Session, path: &str) -> Reply<Option<OneShot>> {
    let (stat, armed) = answered(session, || session.stat_watched(path)).await?;
    Ok(stat.is_none().then_some(armed))
}
