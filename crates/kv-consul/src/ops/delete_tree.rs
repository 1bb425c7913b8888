//! Deleting a tree in one step, and counting what went.

use std::collections::BTreeSet;
use std::sync::Arc;

use kv_core::{Consistency, DeleteTreeOptions, Error, Prefix, Result};

use crate::client::api::Lane;
use crate::client::key_read::Query;
use crate::client::scope::Scope;
use crate::session::holding::retire;
use crate::session::sessions::Sessions;

/// Deletes everything below a prefix, and counts the entries among it.
pub(crate) async fn delete_tree(
    sessions: &Arc<Sessions>,
    prefix: &Prefix,
    options: DeleteTreeOptions,
) -> Result<u64> {
    let deadline = sessions.env.deadline(options.timeout);
    let native = sessions.env.names.native_prefix(prefix);
    let mut count = 0;
    let mut bound_to = BTreeSet::new();
    if native.is_empty() {
        // A transaction cannot delete everything there is. The request that can does not count.
        let query = Query::new(Scope::Tree(native), Consistency::Linearizable);
        let mut items =
            deadline.run(sessions.env.api.read(query, Lane::Stream, deadline.remaining()?)).await?;
        while let Some(kv) = deadline.run(items.next()).await.map_err(Error::not_applied)? {
            count += u64::from(sessions.env.names.entry(&kv.key, kv.flags).is_some());
            bound_to.extend(kv.session().map(str::to_owned));
        }
        sessions.env.api.delete_all(&deadline).await?;
        retire(&sessions.env, bound_to.into_iter().collect());
        return Ok(count);
    }
    sessions
        .env
        .api
        .delete_tree(&native, &deadline, |kv| {
            count += u64::from(sessions.env.names.entry(&kv.key, kv.flags).is_some());
            bound_to.extend(kv.session().map(str::to_owned));
        })
        .await?;
    retire(&sessions.env, bound_to.into_iter().collect());
    Ok(count)
}
