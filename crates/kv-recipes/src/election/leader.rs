//! Who leads, as an observer sees it.

use kv_core::{Bytes, FencingToken, LockHolder};

use super::announcement::Announcement;

/// Who leads, as an observer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    /// The identity it campaigned with.
    pub identity: Bytes,
    /// Its term: greater than that of every earlier leader.
    pub term: FencingToken,
    /// What it proclaimed last in this term; `None` until it proclaims something.
    pub proclaimed: Option<Bytes>,
    /// What else the server knows of it, as its own tools print it; for people.
    pub native: Option<String>,
}

impl Leader {
    /// The holder of the office, with what it proclaimed itself; an announcement of another term is not its.
    pub(super) fn new(holder: LockHolder, announcement: Option<Announcement>) -> Self {
        let own = announcement.filter(|announcement| announcement.term == holder.token);
        Self {
            identity: holder.owner,
            term: holder.token,
            proclaimed: own.map(|announcement| announcement.value),
            native: holder.native,
        }
    }
}
