//! What a cluster still knows of its past, for watches that are taken up again.

use kv_backend::Deadline;
use kv_core::Result;

use crate::client::error;
use crate::client::{Client, Range, Read};

/// What the cluster knows of its past.
pub(crate) struct Past {
    /// Its revision: less than what a watch has seen means that it was set back.
    pub(crate) now: i64,
    /// The first of the watches' revisions that can be taken up again without a gap.
    pub(crate) history: i64,
}

impl Past {
    /// Looks what is there for watches that stand at these revisions, which are in order.
    ///
    /// The server tells of a watch that begins before what was compacted. Older ones also lose a delete
    /// at the very revision up to which they compacted, and do not tell. So the revision before a
    /// watch's must be there too.
    pub(crate) async fn look(
        client: &Client,
        deadline: Deadline,
        range: &Range,
        starts: &[i64],
    ) -> Result<Self> {
        let mut past = Self { now: i64::MAX, history: i64::MIN };
        let mut read = Read::new(Range::one(range.start.clone())).keys_only();
        let (mut low, mut high) = (0, starts.len());
        // Mostly nothing is gone, so the first is looked at first.
        let mut at = 0;
        while low < high {
            read.revision = starts[at].saturating_sub(1).max(1);
            match client.read(deadline, &read).await {
                Ok(page) => (past.now, high) = (page.revision, at),
                Err(error) if error::compacted(&error) => low = at + 1,
                Err(error) if error::is_future(&error) => {
                    // Set back, or asked for a revision that is yet to come.
                    read.revision = 0;
                    past.now = client.read(deadline, &read).await?.revision;
                    high = at;
                }
                Err(error) => return Err(error),
            }
            at = usize::midpoint(low, high);
        }
        if low > 0 {
            past.history = starts.get(low).copied().unwrap_or(i64::MAX);
        }
        Ok(past)
    }
}
