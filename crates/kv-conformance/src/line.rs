//! The way from a handle to its servers, for cases that cut it.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

/// The way from a handle to its servers, which a case can cut.
///
/// A factory makes one for [`Factory::open_on_a_line`](crate::Factory::open_on_a_line) and has the handle's
/// connections follow [`is_cut`](Self::is_cut). Clones are one line.
#[derive(Clone)]
pub struct Line(Arc<Inner>);

struct Inner {
    cut: watch::Sender<bool>,
    /// What passes bytes on, for as long as the line lives.
    _relays: JoinSet<()>,
}

impl Line {
    /// A whole line.
    #[must_use]
    pub fn new() -> Self {
        Self::with_relays(watch::Sender::new(false), JoinSet::new())
    }

    /// A line that these tasks make, by the state in `cut`.
    pub(crate) fn with_relays(cut: watch::Sender<bool>, relays: JoinSet<()>) -> Self {
        Self(Arc::new(Inner { cut, _relays: relays }))
    }

    /// Cuts it: nothing goes through, and no server answers.
    pub fn cut(&self) {
        self.0.cut.send_replace(true);
    }

    /// Mends it.
    pub fn mend(&self) {
        self.0.cut.send_replace(false);
    }

    /// Whether it is cut now.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        *self.0.cut.borrow()
    }

    /// Waits until it is cut, or whole.
    pub async fn until(&self, is_cut: bool) {
        // The sender lives in `self`.
        drop(self.0.cut.subscribe().wait_for(|now| *now == is_cut).await);
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("is_cut", &self.is_cut()).finish()
    }
}
