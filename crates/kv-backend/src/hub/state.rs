//! The full state of a watch's target, page by page, and how it joins the changes that follow.

use std::pin::Pin;

use futures_core::Stream;
use kv_core::{Entry, Key, Result, Version, WatchTarget};

/// Some entries of a target, as they stood at one version.
#[derive(Clone, Debug)]
pub struct Page {
    /// The entries, in key order, behind those of the page before.
    pub entries: Vec<Entry>,
    /// Every change up to this version, and none after it, is in the page. What the page says covers
    /// the keys from the last one of the page before to its own last one, and the last page all the
    /// keys behind.
    pub as_of: Version,
}

/// The pages of a target's state: at least one, empty if there is nothing.
pub type Pages = Pin<Box<dyn Stream<Item = Result<Page>> + Send>>;

/// What the state is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateFor {
    /// A watch that begins with the entries there are. Pages of one version keep its promise to
    /// deliver every change after it began.
    Initial,
    /// A watch that was too slow: changes were lost already, and pages of different versions are as
    /// good.
    Resync,
}

/// Where a watch gets the state from: the store, as one of its handles sees it.
///
/// It must not keep the store open: hold a `Weak` and answer `Closed` when it is gone.
pub trait State: Send + Sync + 'static {
    /// The entries of `target`. Every change that was published before the first page is read is in
    /// the pages. Nothing is read before it is polled.
    fn pages(&self, target: &WatchTarget, wanted_for: StateFor) -> Pages;
}

/// Which changes the pages of a state contain already.
#[derive(Debug, Default)]
pub(super) struct Contained {
    /// Up to which key which version is contained. Neighbours with the same version are one.
    ranges: Vec<(Option<Key>, Version)>,
}

impl Contained {
    /// Notes a page; `last` is its last key.
    pub(super) fn add(&mut self, last: Option<Key>, as_of: Version) {
        // An empty page says something only if it is the last.
        self.ranges.pop_if(|(up_to, _)| up_to.is_none());
        match self.ranges.last_mut() {
            Some((up_to, version)) if *version == as_of => *up_to = last.or(up_to.take()),
            _ => self.ranges.push((last, as_of)),
        }
    }

    /// Notes that there are no more pages.
    pub(super) fn complete(&mut self) {
        if let Some((up_to, _)) = self.ranges.last_mut() {
            *up_to = None;
        }
    }

    /// Whether the change of `key` at `version` is contained.
    pub(super) fn has(&self, key: &Key, version: Version) -> bool {
        let at = self.ranges.partition_point(|(up_to, _)| up_to.as_ref().is_some_and(|up_to| up_to < key));
        self.ranges.get(at).is_some_and(|(_, as_of)| version <= *as_of)
    }

    /// Whether no change at `version` or later is contained.
    pub(super) fn ends_before(&self, version: Version) -> bool {
        self.ranges.iter().all(|(_, as_of)| *as_of < version)
    }
}
