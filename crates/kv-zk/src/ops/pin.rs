//! Keeping a node in its place: a node with a child cannot be deleted.
//!
//! ZooKeeper guards a write by the node's own version, which begins anew where a node is deleted and
//! made again. A node that was read while it had a child of ours, and still has it, is the very node
//! that was read. The child is ephemeral, has a name that no key has, and is gone after a moment.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future;
use kv_backend::Deadline;
use kv_core::{Error, Result};

use crate::client::error::Fault;
use crate::client::wire::{AGAIN, ANY_VERSION, Mode, MultiOp, Reply, Session, answered};
use crate::env::{Core, Node, optional};
use crate::names::{child, is_pin, pin_name};

/// A node kept in its place. Dropping it lets it go in the background.
#[derive(Debug)]
pub(crate) struct Pin {
    session: Arc<dyn Session>,
    runtime: tokio::runtime::Handle,
    path: String,
    /// Whether the child may be there.
    there: bool,
}

/// What came of pinning.
pub(crate) enum Pinned {
    /// The node as it is while the pin holds.
    There(Pin, Box<Node>),
    /// There is no node, by the leader's account.
    Absent,
    /// The node can have no child, or none of ours.
    Impossible,
}

impl Pin {
    /// The operation that lets it go, for a multi that is carried out only while it holds.
    pub(crate) fn lift(&self) -> MultiOp {
        MultiOp::Delete { path: self.path.clone(), version: ANY_VERSION }
    }

    /// It is known to be gone.
    pub(crate) fn lifted(mut self) {
        self.there = false;
    }

    /// The session that holds it.
    pub(crate) fn session(&self) -> &dyn Session {
        &*self.session
    }

    /// Takes the child away.
    pub(crate) async fn remove(&self) -> Reply<()> {
        match self.session.delete(&self.path, ANY_VERSION).await {
            Err(Fault::NoNode) => Ok(()),
            reply => reply,
        }
    }

    /// Takes the child away and waits until it is. What takes too long goes on in the background.
    pub(crate) async fn release(self, deadline: Deadline) {
        if deadline.run(async { Ok(self.remove().await) }).await.is_ok_and(|reply| reply.is_ok()) {
            self.lifted();
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if self.there {
            let (session, path) = (Arc::clone(&self.session), std::mem::take(&mut self.path));
            // Where the runtime is gone the child goes with the session.
            self.runtime.spawn(async move {
                let _ = answered(&*session, || session.delete(&path, ANY_VERSION)).await;
            });
        }
    }
}

impl Core {
    /// Keeps the node in its place and reads it.
    pub(crate) async fn pin(&self, path: &str, deadline: Deadline) -> Result<Pinned> {
        let (access, empty) = (self.access.acl(), Bytes::new());
        loop {
            let live = self.client.up(deadline).await?;
            let pin = Pin {
                session: Arc::clone(&live.session),
                runtime: self.runtime.clone(),
                path: child(path, &pin_name()),
                there: true,
            };
            let session = pin.session();
            // The server answers in order, so all travel at once.
            let asked = future::join3(
                session.create(&pin.path, &empty, Mode::Ephemeral, &access),
                session.acl(path),
                session.get(path),
            );
            let (made, acl, read) =
                deadline.run(async { Ok(asked.await) }).await.map_err(Error::not_applied)?;
            match made {
                Ok((_, stat)) => {
                    let _ = live.own_id.set(stat.ephemeral_owner);
                }
                Err(Fault::NoNode) => {
                    pin.lifted();
                    return Ok(Pinned::Absent);
                }
                Err(Fault::NoChildrenForEphemerals | Fault::NoAuth | Fault::QuotaExceeded) => {
                    pin.lifted();
                    return Ok(Pinned::Impossible);
                }
                Err(fault) if fault.is_transient() => {
                    deadline.remaining().map_err(|_| fault.into_error().not_applied())?;
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                Err(fault) => return Err(fault.into_error().not_applied()),
            }
            let (mut acl, mut read) = (acl, read);
            loop {
                match (acl, read) {
                    (Ok((acl, stat)), Ok((data, other))) if stat.mzxid == other.mzxid => {
                        return Ok(Pinned::There(pin, Box::new(Node::new(acl, stat, Some(data)))));
                    }
                    // Somebody wrote in between.
                    (Ok(_), Ok(_)) => {
                        let again = future::join(session.acl(path), session.get(path));
                        let again = deadline.run(async { Ok(again.await) }).await;
                        (acl, read) = again.map_err(Error::not_applied)?;
                    }
                    (Err(fault), _) | (_, Err(fault)) if fault == Fault::NoNode || fault.is_transient() => {
                        // Swept away with its child, or the connection broke.
                        deadline.remaining()?;
                        tokio::time::sleep(AGAIN).await;
                        break;
                    }
                    (Err(fault), _) | (_, Err(fault)) => return Err(fault.into_error().not_applied()),
                }
            }
        }
    }

    /// Whether the children of a node are only there for a moment.
    pub(crate) async fn is_only_pinned(&self, path: &str, deadline: Deadline) -> Result<bool> {
        let reply = self.client.read(deadline, |session| async move { session.children(path).await });
        let names = optional(reply.await?)?.unwrap_or_default();
        Ok(names.iter().all(|name| is_pin(name)))
    }
}
