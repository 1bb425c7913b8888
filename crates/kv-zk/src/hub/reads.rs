//! Reading a part of a node with a watch set.

use kv_core::Entry;

use super::node::Found;
use crate::core::{Core, version};
use crate::error::Fault;
use crate::mapping::is_marker;
use crate::session::{OneShot, Reply, Session, answered};

/// Reads the entry of a node and arms its watch; `rooted`, also one for its coming to be.
pub(super) async fn read_data(core: &Core, session: &dyn Session, path: &str, rooted: bool) -> Reply<Found> {
    let found = |entry, marker, armed| Ok(Found::Data { entry, marker, armed });
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
    if is_marker(&data) {
        return found(None, Some(stat.mzxid), Some(armed));
    }
    let Some(key) = core.layout.key(path) else { return found(None, None, Some(armed)) };
    let plain = Entry::new(key.clone(), data.clone(), version(stat.mzxid), version(stat.czxid));
    let entry = match core.entry(&key, path, Some((data, stat)), false, core.deadline(None)).await {
        // It may have been read again, and be gone or newer by now: the watch has fired then.
        Ok(Some(entry)) => entry,
        Ok(None) | Err(_) => plain,
    };
    found(Some(entry), None, Some(armed))
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
