//! What each change took the place of: with the present state, all that older states are made of.

use std::collections::VecDeque;
use std::sync::Arc;

use kv_core::Version;

use crate::name::Name;
use crate::record::Record;

/// A change, and what was there before it.
#[derive(Debug)]
pub(crate) struct Before {
    pub(crate) version: Version,
    pub(crate) name: Name,
    /// `None` where the key was absent.
    pub(crate) record: Option<Arc<Record>>,
}

/// The changes after the oldest version that can be read, in their order.
#[derive(Debug, Default)]
pub(crate) struct Past(VecDeque<Before>);

impl Past {
    /// Notes a change. Versions never go back.
    pub(crate) fn note(&mut self, version: Version, name: Name, record: Option<Arc<Record>>) {
        self.0.push_back(Before { version, name, record });
    }

    /// Lets go of the changes up to the oldest version that can be read.
    pub(crate) fn forget_up_to(&mut self, oldest: Version) {
        while self.0.front().is_some_and(|before| before.version <= oldest) {
            self.0.pop_front();
        }
    }

    /// The changes after a version, the newest first: undone in this order, they lead back to it.
    pub(crate) fn back_to(&self, version: Version) -> impl Iterator<Item = &Before> {
        self.0.iter().rev().take_while(move |before| before.version > version)
    }

    /// The changes of one name, the oldest first.
    pub(crate) fn of<'a>(&'a self, native: &'a str) -> impl Iterator<Item = &'a Before> {
        self.0.iter().filter(move |before| before.name.as_str() == native)
    }
}
