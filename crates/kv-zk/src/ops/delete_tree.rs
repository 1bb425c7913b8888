//! delete_tree: everything strictly below a prefix, from the leaves up, with many requests in flight.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use kv_backend::Deadline;
use kv_core::text::duration;
use kv_core::{Consistency, DeleteTreeOptions, Error, ErrorKind, Prefix, Result};

use crate::client::error::Fault;
use crate::client::wire::Stat;
use crate::env::{Core, optional};
use crate::names::{MARKER, child, is_marker, lock_sequence, may_be_marker, parent};

/// How many nodes are worked on at once. Many: each write waits for the servers' disks, and those
/// that wait together share one wait.
const AT_ONCE: usize = 256;

/// What one step did.
enum Step {
    /// The node has these children, which go first.
    Open(String, Vec<String>),
    /// The node is gone, or stays as the parent of what others put below it meanwhile. How many
    /// entries went with it: one or none.
    Closed(String, u64),
}

impl Core {
    pub(crate) async fn delete_tree(&self, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64> {
        self.client.check_open()?;
        let timeout = options.timeout.unwrap_or(self.timeout);
        if self.layout.is_reserved_prefix(prefix) {
            return Ok(0);
        }
        let root = self.layout.prefix_path(prefix);
        let mut count = 0;
        // Whether a delete may have been carried out: an error then leaves some of it done.
        let begun = AtomicBool::new(false);
        // The last found is worked on first, so that few nodes are open at a time.
        let first = self.children(&root, Deadline::after(timeout)).await?;
        let mut waiting: Vec<(String, bool)> = first.into_iter().map(|path| (path, true)).collect();
        // Nodes whose children are under way, and how many of them.
        let mut open: HashMap<String, usize> = HashMap::new();
        let mut working = FuturesUnordered::new();
        let mut failed: Option<Error> = None;
        loop {
            while failed.is_none()
                && working.len() < AT_ONCE
                && let Some((path, descend)) = waiting.pop()
            {
                working.push(self.sweep(path, descend, &begun, timeout));
            }
            let Some(step) = working.next().await else { break };
            match step {
                Ok(Step::Open(path, children)) => {
                    open.insert(path, children.len());
                    waiting.extend(children.into_iter().map(|path| (path, true)));
                }
                Ok(Step::Closed(path, went)) => {
                    count += went;
                    let above = parent(&path).filter(|above| *above != root).unwrap_or_default();
                    if let Some(left) = open.get_mut(above) {
                        *left -= 1;
                        if *left == 0 {
                            open.remove(above);
                            waiting.push((above.to_owned(), false));
                        }
                    }
                }
                // What is under way is still counted.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let Some(error) = failed else { return Ok(count) };
        let silent = match error.kind() {
            ErrorKind::Timeout => format!("no answer within {}; ", duration(timeout)),
            _ => String::new(),
        };
        let error = error.with_detail(format!("{silent}{count} entries were deleted before"));
        Err(if begun.load(Ordering::Relaxed) { error.maybe_applied() } else { error })
    }

    async fn children(&self, path: &str, deadline: Deadline) -> Result<Vec<String>> {
        let reply = self.client.read(deadline, |session| async move { session.children(path).await });
        let mut names = optional(reply.await?)?.unwrap_or_default();
        // The last comes first: of a lock's records that of the last waiter, so that nobody whose own
        // record goes too is woken by the removal of the one before it.
        names.sort_by_key(|name| lock_sequence(name));
        let paths = names.iter().map(|name| child(path, name));
        // The server's own tree stays.
        Ok(paths.filter(|path| path != "/zookeeper").collect())
    }

    /// Takes a node away, or finds the children that go first. The time is for this node.
    async fn sweep(
        &self,
        path: String,
        descend: bool,
        begun: &AtomicBool,
        timeout: Duration,
    ) -> Result<Step> {
        let name = self.layout.shown(&path).to_owned();
        let step = self.step(path, descend, begun, Deadline::after(timeout)).await;
        step.map_err(|error| error.with_key(name))
    }

    async fn step(
        &self,
        path: String,
        descend: bool,
        begun: &AtomicBool,
        deadline: Deadline,
    ) -> Result<Step> {
        loop {
            deadline.remaining()?;
            let node = path.as_str();
            let reply = self.client.read(deadline, |session| async move { session.stat(node).await });
            let Some(stat) = optional(reply.await?)?.flatten() else { return Ok(Step::Closed(path, 0)) };
            let is_parent = stat.num_children > 0;
            if is_parent && descend {
                let children = self.children(node, deadline).await?;
                if !children.is_empty() {
                    return Ok(Step::Open(path, children));
                }
                continue;
            }
            let Some(entry) = self.is_entry(node, &stat, deadline).await? else { continue };
            // Others write below it faster than it is emptied: their keys keep the parent.
            if is_parent && !entry {
                return Ok(Step::Closed(path, 0));
            }
            if is_parent && stat.data_length == 0 && stat.version == 0 {
                let looked = self.node(node, false, deadline).await?;
                match looked.filter(|looked| looked.stat.mzxid == stat.mzxid) {
                    None => continue,
                    // It goes with its last child; marked as a parent it would look like one of ours.
                    Some(looked) if looked.known.container => return Ok(Step::Closed(path, 0)),
                    Some(_) => {}
                }
            }
            self.known.forget(node);
            begun.store(true, Ordering::Relaxed);
            let reply = self.client.write(deadline, |session| async move {
                if is_parent {
                    session.set(node, &Bytes::from_static(MARKER), stat.version).await.map(drop)
                } else {
                    session.delete(node, stat.version).await
                }
            });
            match reply.await?.0 {
                Ok(()) => return Ok(Step::Closed(path, u64::from(entry))),
                Err(Fault::NoNode) => return Ok(Step::Closed(path, 0)),
                // Somebody wrote it or put a key below it.
                Err(Fault::BadVersion | Fault::NotEmpty) => {}
                Err(fault) => return Err(fault.into_error()),
            }
        }
    }

    /// Whether a node in this state is an entry; `None` if it is in another one by now.
    async fn is_entry(&self, path: &str, stat: &Stat, deadline: Deadline) -> Result<Option<bool>> {
        if self.layout.key(path).is_none() {
            return Ok(Some(false));
        }
        if !may_be_marker(stat.data_length) {
            return Ok(Some(true));
        }
        let read = self.read(path, Consistency::Stale, deadline).await?;
        Ok(read.filter(|(_, now)| now.mzxid == stat.mzxid).map(|(data, _)| !is_marker(&data)))
    }
}
