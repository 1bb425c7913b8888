//! delete_tree: everything strictly below a prefix, from the leaves up, with many requests in flight.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use kv_backend::Deadline;
use kv_core::{Consistency, DeleteTreeOptions, Prefix, Result};
use tokio::sync::Semaphore;

use crate::core::{Core, optional};
use crate::error::Fault;
use crate::mapping::{child, is_marker, may_be_marker};

/// How many requests a delete_tree has in flight.
const AT_ONCE: usize = 64;

struct Sweep<'a> {
    core: &'a Core,
    deadline: Deadline,
    requests: Arc<Semaphore>,
}

impl Core {
    pub(crate) async fn delete_tree(&self, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64> {
        self.client.check_open()?;
        let deadline = self.deadline(options.timeout);
        if self.layout.is_reserved_prefix(prefix) {
            return Ok(0);
        }
        let sweep = Sweep { core: self, deadline, requests: Arc::new(Semaphore::new(AT_ONCE)) };
        sweep.below(self.layout.prefix_path(prefix)).await
    }
}

impl Sweep<'_> {
    /// Deletes everything below a node and counts the entries among it.
    fn below(&self, path: String) -> Pin<Box<dyn Future<Output = Result<u64>> + Send + '_>> {
        Box::pin(async move {
            let names = {
                let _turn = self.requests.acquire().await;
                let path = &path;
                let reply = self.core.client.read(self.deadline, |session| async move {
                    session.children(path).await
                });
                optional(reply.await?)?.unwrap_or_default()
            };
            stream::iter(names)
                .map(|name| child(&path, &name))
                // The server's own tree.
                .filter(|path| std::future::ready(path != "/zookeeper"))
                .map(|path| self.node(path))
                .buffer_unordered(AT_ONCE)
                .try_fold(0, |sum, count| std::future::ready(Ok(sum + count)))
                .await
        })
    }

    /// Deletes a node with everything below it.
    async fn node(&self, path: String) -> Result<u64> {
        let mut count = 0;
        let path = path.as_str();
        loop {
            self.deadline.remaining()?;
            let turn = self.requests.acquire().await;
            let reply = self
                .core
                .client
                .read(self.deadline, |session| async move { session.stat(path).await })
                .await?;
            let Some(stat) = optional(reply)?.flatten() else { return Ok(count) };
            if stat.num_children > 0 {
                drop(turn);
                count += self.below(path.to_owned()).await?;
                continue;
            }
            let mut entry = self.core.layout.key(path).is_some();
            if entry && may_be_marker(stat.data_length) {
                match self.core.read(path, Consistency::Stale, self.deadline).await? {
                    Some((data, now)) if now.mzxid == stat.mzxid => entry = !is_marker(&data),
                    _ => continue,
                }
            }
            self.core.known.forget(path);
            let reply = self
                .core
                .client
                .write(self.deadline, |session| async move { session.delete(path, stat.version).await })
                .await?;
            match reply {
                Ok(()) => return Ok(count + u64::from(entry)),
                Err(Fault::NoNode) => return Ok(count),
                // Somebody wrote it or put a key below it.
                Err(Fault::BadVersion | Fault::NotEmpty) => {}
                Err(fault) => return Err(fault.into_error().maybe_applied()),
            }
        }
    }
}
