//! The nodes above a key: made as markers where they are missing, and never ones that expire.

use bytes::Bytes;
use futures_util::future;
use kv_backend::Deadline;
use kv_core::{Error, Result};

use crate::client::error::{EXPIRING_PARENT, Fault};
use crate::client::wire::{Mode, Stat};
use crate::env::{Core, Kind, Known, unsupported};
use crate::names::{MARKER, parent};
use crate::session::Live;

impl Core {
    /// Makes sure that the node above `path` exists and may have children. What is made is no entry,
    /// so it is made again where its outcome is not known.
    pub(crate) async fn make_parents(&self, path: &str, deadline: Deadline) -> Result<()> {
        let unchanged = |error: Error| error.not_applied();
        let unknown: Vec<&str> = std::iter::successors(parent(path), |above| parent(above))
            .take_while(|above| *above != "/")
            .take_while(|above| !self.known.get(above).is_some_and(|known| known.kind == Kind::Permanent))
            .collect();
        let missing = self.missing(&unknown, deadline).await.map_err(unchanged)?;
        let (acl, marker) = (&self.access.acl(), &Bytes::from_static(MARKER));
        // The server carries them out in order, so they need not wait for each other.
        let creating = missing.iter().rev().map(|above| async move {
            let made = self.client.read(deadline, |session| async move {
                session.create(above, marker, Mode::Persistent, acl).await
            });
            made.await.map(|reply| (*above, reply))
        });
        let mut others = Vec::new();
        for (above, made) in future::try_join_all(creating).await.map_err(unchanged)? {
            match made {
                Ok((_, stat)) => {
                    let known = Known { marker: true, ..Known::new(&stat, Kind::Permanent) };
                    self.known.note(above, known);
                }
                Err(Fault::NodeExists) => others.push(above),
                // A delete_tree was faster: the write finds out and begins anew.
                Err(Fault::NoNode) => {}
                Err(fault) => return Err(unchanged(fault.into_error())),
            }
        }
        // Somebody else was faster, with whatever kind of node.
        self.missing(&others, deadline).await.map_err(unchanged)?;
        Ok(())
    }

    /// Which of these nodes are missing.
    ///
    /// # Errors
    ///
    /// `Unsupported` if one of them expires.
    async fn missing<'a>(&self, paths: &[&'a str], deadline: Deadline) -> Result<Vec<&'a str>> {
        let nodes = paths.iter().map(|above| self.node(above, false, deadline));
        let mut missing = Vec::new();
        for (above, node) in paths.iter().zip(future::try_join_all(nodes).await?) {
            match node {
                Some(node) if node.known.kind == Kind::Permanent => self.known.note(above, node.known),
                Some(_) => return Err(unsupported(EXPIRING_PARENT)),
                None => missing.push(*above),
            }
        }
        Ok(missing)
    }

    /// Forgets what is known of the nodes above `path`: one of them is gone.
    pub(crate) fn forget_parents(&self, path: &str) {
        let mut above = parent(path);
        while let Some(path) = above {
            self.known.forget(path);
            above = parent(path);
        }
    }

    /// The state of the node above `path`; `None` where it is the root or cannot be told.
    pub(crate) async fn above(&self, live: &Live, path: &str, deadline: Deadline) -> Option<Stat> {
        let above = parent(path).filter(|above| *above != "/")?;
        deadline.run(async { Ok(live.session.stat(above).await) }).await.ok()?.ok()?
    }

    /// Takes back a node that was just made if the one above it, of which `above` was seen meanwhile,
    /// is not the one that was known to stay: the server keeps children of nodes with a time to live,
    /// and then those for as long.
    pub(crate) async fn check_above(
        &self,
        path: &str,
        made: &Stat,
        seen: Option<Stat>,
        deadline: Deadline,
    ) -> Result<()> {
        let Some(above) = parent(path).filter(|above| *above != "/") else { return Ok(()) };
        let known = self.known.get(above).filter(|known| known.kind == Kind::Permanent);
        // Seen after the node was made, and the one that was known?
        let same = seen
            .zip(known)
            .is_some_and(|(seen, known)| seen.pzxid >= made.czxid && seen.czxid == known.czxid);
        if same {
            return Ok(());
        }
        let node = self.node(above, false, deadline).await.map_err(Error::maybe_applied)?;
        self.known.forget(above);
        match node {
            Some(node) if node.known.kind != Kind::Permanent => {}
            Some(node) => {
                self.known.note(above, node.known);
                return Ok(());
            }
            // Swept away, and with it the node.
            None => return Ok(()),
        }
        let refused = unsupported(EXPIRING_PARENT);
        let undone = self
            .client
            .write(deadline, |session| async move { session.delete(path, made.version).await })
            .await;
        match undone {
            Ok((Ok(()) | Err(Fault::NoNode), _)) => Err(refused),
            _ => Err(refused.maybe_applied()),
        }
    }
}
