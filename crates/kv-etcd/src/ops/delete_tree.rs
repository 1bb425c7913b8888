//! Deletes of everything below a prefix.

use std::sync::Arc;

use kv_backend::Deadline;
use kv_core::{DeleteTreeOptions, Prefix, Result};

use crate::client::error;
use crate::client::{Done, Range, Read, Record, Step, Tree};
use crate::handle::Handle;
use crate::pager::Pager;
use crate::record;

/// How many keys a delete_tree looks at in its one request, to tell entries from records of locks.
const MAX_LOOKED_AT: i64 = 40_000;

/// See [`kv_core::Store::delete_tree_with`].
pub(crate) async fn delete_tree(handle: &Handle, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64> {
    handle.env.check_open()?;
    let range = Range::below(&handle.env.namespace.native_prefix(prefix));
    // One transaction: what is looked at is what is deleted.
    let look = Read::new(range.clone()).keys_only().limit(MAX_LOOKED_AT);
    let delete = Step::Delete { range: range.clone(), previous: false };
    let timeout = options.timeout.unwrap_or(handle.env.timeout);
    let tree = Tree::always(vec![Step::Read(look), delete]);
    let done = handle.env.client.commit(Deadline::after(timeout), tree).await?;
    let (Some(Done::Read(page)), Some(Done::Delete { deleted, .. })) =
        (done.steps.first(), done.steps.get(1))
    else {
        return Err(error::nonsense("another answer than that of a delete"));
    };
    let mut others = gone(handle, &page.records, done.revision);
    if let (true, Some(last)) = (page.more, page.records.last()) {
        // The state before still tells of the rest.
        let mut rest = Read::new(Range { start: [&last.name[..], &[0]].concat(), ..range }).keys_only();
        rest.revision = done.revision.saturating_sub(1);
        let mut pager = Pager::new(Arc::clone(&handle.env.client), rest, timeout);
        loop {
            match pager.next(usize::MAX).await {
                Ok(page) => {
                    others += gone(handle, &page.records, done.revision);
                    if !page.more {
                        break;
                    }
                }
                Err(error) => {
                    // It is deleted all the same: as of a compaction right behind it.
                    tracing::debug!(%error, "what a delete_tree took is counted roughly");
                    break;
                }
            }
        }
    }
    Ok(u64::try_from(*deleted).unwrap_or(0).saturating_sub(others))
}

/// Lets go of the leases of records that were deleted, and counts those that were no entries.
fn gone(handle: &Handle, records: &[Record], revision: i64) -> u64 {
    for record in records.iter().filter(|record| record.lease != 0) {
        handle.leases.detached(&record.name, revision);
    }
    let others = records.iter().filter(|record| {
        record::is_lock(record) || record::key(&handle.env.namespace, &record.name).is_none()
    });
    u64::try_from(others.count()).unwrap_or(0)
}
