//! What the hub knows of watches and nodes.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use futures_util::future::AbortHandle;
use kv_core::{Entry, Version};

use crate::client::error::Fault;
use crate::client::wire::{Fired, OneShot, Stat};
use crate::env::version;
use crate::watch::feed::{Feed, Quiet};

/// What is watched, as a path.
#[derive(Clone, Debug)]
pub(super) enum Scope {
    Node(String),
    /// Everything strictly below.
    Tree(String),
    /// A node and everything below it.
    Branch(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Data,
    Names,
}

/// One watch.
pub(super) struct Watching {
    pub(super) scope: Scope,
    pub(super) feed: Arc<Feed>,
    /// Set until the state is known of a watch that begins with changes.
    pub(super) quiet: Option<Quiet>,
    /// What must be read before the state is known.
    pub(super) loading: HashSet<(u64, Part)>,
    pub(super) loaded: bool,
}

/// What is known of the entry of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Absent,
    Marker,
    Entry(Version),
}

/// A node as its data was read last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) czxid: i64,
    pub(super) mzxid: i64,
    pub(super) version: i32,
    /// When its key came to be; `None` for a marker.
    pub(super) created: Option<Version>,
}

impl Seen {
    /// When the key came to be that is at the node in this state, if this one tells. It does where no
    /// write or one lies between: the node's own counter counts them.
    pub(super) fn created_of(&self, stat: &Stat) -> Option<Version> {
        if self.czxid != stat.czxid {
            return None;
        }
        if self.mzxid == stat.mzxid {
            return self.created;
        }
        let next = self.version.checked_add(1) == Some(stat.version);
        next.then(|| self.created.unwrap_or(version(stat.mzxid)))
    }
}

/// One reading of one part of a node.
#[derive(Default)]
pub(super) struct Arm {
    pub(super) running: bool,
    pub(super) queued: bool,
    /// It must be read again when the running one is done.
    pub(super) dirty: bool,
    pub(super) armed: Option<AbortHandle>,
}

/// One node that is watched.
pub(super) struct Tracked {
    pub(super) id: u64,
    pub(super) node_watches: Vec<u64>,
    pub(super) tree_watches: Vec<u64>,
    pub(super) known: Known,
    pub(super) seen: Option<Seen>,
    pub(super) names: BTreeSet<String>,
    pub(super) data: Arm,
    pub(super) list: Arm,
    /// Watches that want the value once more.
    pub(super) wanted: Vec<u64>,
    /// The transaction that deleted it, where a watch told.
    pub(super) deleted_by: Option<i64>,
}

impl Tracked {
    pub(super) fn arm(&mut self, part: Part) -> &mut Arm {
        match part {
            Part::Data => &mut self.data,
            Part::Names => &mut self.list,
        }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        for armed in [self.data.armed.take(), self.list.armed.take()].into_iter().flatten() {
            armed.abort();
        }
    }
}

/// What a read found.
pub(super) enum Found {
    Data { entry: Option<Entry>, seen: Option<Seen>, armed: Option<OneShot> },
    Names { names: Vec<String>, armed: Option<OneShot> },
}

pub(super) struct Done {
    pub(super) path: String,
    pub(super) id: u64,
    pub(super) part: Part,
    pub(super) result: Result<Found, Fault>,
}

pub(super) struct Firing {
    pub(super) path: String,
    pub(super) id: u64,
    pub(super) part: Part,
    pub(super) fired: Fired,
}
