//! Telling the handles of one in-process store apart.

use std::sync::atomic::{AtomicU64, Ordering};

/// The identity of one store handle in this process: what its watches, locks and session keys are
/// tied to, so that closing it ends exactly those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandleId(u64);

impl HandleId {
    /// An identity no other handle of this process has or had.
    #[must_use]
    pub fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}
