//! delete of one key, which can tell what it deleted.
//!
//! ZooKeeper guards a delete by the node's own version, which a node that is deleted and made again
//! has once more. A delete that is to tell what it deleted therefore keeps the node in its place from
//! before it is read until it goes.

use bytes::Bytes;
use futures_util::future;
use kv_backend::Deadline;
use kv_core::{DeleteOptions, DeleteResult, Entry, Error, ErrorKind, Fence, Key, Precondition, Result};

use crate::client::error::{BACKEND, Fault};
use crate::client::wire::{MultiOp, Reply};
use crate::env::write_queue::{StepBack, competes};
use crate::env::{Age, Core, Node, container, unsupported};
use crate::names::MARKER;
use crate::ops::pin::{Pin, Pinned};
use crate::ops::put::{Attempt, State};

impl Core {
    pub(crate) async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<DeleteResult> {
        self.layout.check_writable(key)?;
        self.client.check_open()?;
        let deadline = self.deadline(options.timeout);
        let path = self.layout.path(key);
        let _turn = match competes(&options.precondition) {
            true => Some(self.queue.turn(&path, deadline).await?),
            false => None,
        };
        self.known.forget(&path);
        if options.previous
            && let Some(result) = self.delete_pinned(key, &path, &options, deadline).await?
        {
            return Ok(result);
        }
        let compares = matches!(options.precondition, Precondition::Value(_));
        let mut age = self.age(&options.precondition);
        let mut back = StepBack::default();
        loop {
            let now = self.state(&path, compares, age, deadline).await.map_err(Error::not_applied)?;
            // An answer without a write must not be older than the call.
            let settled = age == Age::Now
                || (options.precondition != Precondition::Absent
                    && now.refuses_for_good(&options.precondition));
            let node = match (now.check(&options.precondition), now) {
                (Ok(()), State::There(known, Some(node))) if !known.marker => node,
                _ if !settled => {
                    age = Age::Now;
                    continue;
                }
                (Err(refusal), _) => return Err(refusal),
                _ => return self.deleted_nothing(options.fence.as_ref(), deadline).await,
            };
            match self.erase(key, &path, &node, &options, deadline).await? {
                Attempt::Done(previous) => return Ok(DeleteResult::deleted(previous)),
                Attempt::Conflict => back.wait(deadline).await?,
            }
        }
    }

    /// Deletes a key whose node is kept in its place meanwhile. `None` where that cannot be done.
    async fn delete_pinned(
        &self,
        key: &Key,
        path: &str,
        options: &DeleteOptions,
        deadline: Deadline,
    ) -> Result<Option<DeleteResult>> {
        let mut back = StepBack::default();
        loop {
            let (pin, node) = match self.pin(path, deadline).await? {
                Pinned::There(pin, node) => (Some(pin), Some(*node)),
                Pinned::Absent => (None, None),
                Pinned::Impossible => return Ok(None),
            };
            let state =
                node.as_ref().map_or(State::Absent, |node| State::There(node.known, Some(node.clone())));
            let refusal = state.check(&options.precondition).err();
            match (pin, node) {
                (Some(pin), Some(node)) if refusal.is_none() && !node.known.marker => {
                    match self.erase_pinned(key, path, pin, &node, options, deadline).await? {
                        Attempt::Done(entry) => return Ok(Some(DeleteResult::deleted(entry))),
                        Attempt::Conflict => {
                            back.wait(deadline).await?;
                            continue;
                        }
                    }
                }
                (Some(pin), Some(node)) if node.known.marker => {
                    self.unmark(path, pin, &node, deadline).await;
                }
                (Some(pin), _) => pin.release(deadline).await,
                (None, _) => {}
            }
            return match refusal {
                Some(refusal) => Err(refusal),
                None => self.deleted_nothing(options.fence.as_ref(), deadline).await.map(Some),
            };
        }
    }

    /// Takes the key away that is kept in its place, and leaves the keys below it.
    async fn erase_pinned(
        &self,
        key: &Key,
        path: &str,
        pin: Pin,
        node: &Node,
        options: &DeleteOptions,
        deadline: Deadline,
    ) -> Result<Attempt<Option<Entry>>> {
        let version = node.known.version;
        let mut parent = node.stat.num_children > 1;
        let reply = loop {
            if parent && node.known.container {
                pin.release(deadline).await;
                return Err(unsupported(container(path)));
            }
            let (path, data) = (path.to_owned(), Bytes::from_static(MARKER));
            if !self.client.is_full() {
                break self.mark(&path, &pin, node, deadline).await?;
            }
            let erase = match parent {
                true => MultiOp::Set { path, data, version },
                false => MultiOp::Delete { path, version },
            };
            match self.submit(options.fence.as_ref(), vec![pin.lift(), erase], deadline).await?.0 {
                Err(Fault::NotEmpty) if !parent => parent = true,
                reply => break reply.map(drop),
            }
        };
        match reply {
            Ok(()) if self.client.is_full() => pin.lifted(),
            Ok(()) if parent => pin.release(deadline).await,
            Ok(()) => self.sweep_mark(path, pin, version.wrapping_add(1), deadline).await,
            Err(Fault::NoNode | Fault::BadVersion | Fault::Unsent) => {
                pin.release(deadline).await;
                return Ok(Attempt::Conflict);
            }
            Err(fault) => return Err(fault.into_error()),
        }
        Ok(Attempt::Done(node.entry(key)))
    }

    /// Makes the node a parent, which deletes the key, where there is no multi.
    async fn mark(&self, path: &str, pin: &Pin, node: &Node, deadline: Deadline) -> Result<Reply<()>> {
        let marker = Bytes::from_static(MARKER);
        let set = pin.session().set(path, &marker, node.known.version);
        match deadline.run(async { Ok(set.await) }).await? {
            // Swept away with its pin, and made again.
            Ok(stat) if stat.czxid != node.known.czxid => Err(unknown()),
            reply => Ok(reply.map(drop)),
        }
    }

    /// Takes away a parent with no child but the pin: another delete left it because of the pin.
    async fn unmark(&self, path: &str, pin: Pin, node: &Node, deadline: Deadline) {
        let version = node.known.version;
        if node.stat.num_children > 1 || (version == 0 && !self.client.is_full()) {
            return pin.release(deadline).await;
        }
        if !self.client.is_full() {
            return self.sweep_mark(path, pin, version, deadline).await;
        }
        let ops = vec![pin.lift(), MultiOp::Delete { path: path.to_owned(), version }];
        match self.submit(None, ops, deadline).await {
            Ok((Ok(_), _)) => pin.lifted(),
            _ => pin.release(deadline).await,
        }
    }

    /// Lets the pin go and takes away the parent it was on, one right after the other, where there is
    /// no multi. Only at a version that no new node is at.
    async fn sweep_mark(&self, path: &str, pin: Pin, version: i32, deadline: Deadline) {
        let going = future::join(pin.remove(), pin.session().delete(path, version));
        if let Ok((Ok(()), _)) = deadline.run(async { Ok(going.await) }).await {
            pin.lifted();
        }
    }

    /// A delete of nothing is still refused by a fence that does not hold.
    async fn deleted_nothing(&self, fence: Option<&Fence>, deadline: Deadline) -> Result<DeleteResult> {
        if fence.is_some() {
            self.submit(fence, Vec::new(), deadline).await?.0.map_err(Fault::into_error)?;
        }
        Ok(DeleteResult::absent())
    }

    /// Takes the key away and leaves the keys below it. Answers what it was, if that is asked for: of a
    /// node that can have no child, what was read right before.
    async fn erase(
        &self,
        key: &Key,
        path: &str,
        node: &Node,
        options: &DeleteOptions,
        deadline: Deadline,
    ) -> Result<Attempt<Option<Entry>>> {
        let version = node.known.version;
        let mut parent = node.stat.num_children > 0;
        loop {
            if parent && node.known.container {
                return Err(unsupported(container(path)));
            }
            let mark = MultiOp::Set { path: path.to_owned(), data: Bytes::from_static(MARKER), version };
            let delete = |version| MultiOp::Delete { path: path.to_owned(), version };
            let ops = match parent {
                true => vec![mark],
                // A set tells which node it was, a delete does not.
                false if options.previous && self.client.is_full() => {
                    vec![mark, delete(version.wrapping_add(1))]
                }
                false => vec![delete(version)],
            };
            // The server answers in order, so both travel at once.
            let look =
                async { if options.previous { self.node(path, true, deadline).await } else { Ok(None) } };
            let (seen, erased) = future::join(look, self.submit(options.fence.as_ref(), ops, deadline)).await;
            return match erased?.0 {
                Ok(_) if !options.previous => Ok(Attempt::Done(None)),
                Ok(stat) => {
                    let seen = seen.map_err(Error::maybe_applied)?;
                    let same = |node: &Node| {
                        node.known.version == version && (stat.czxid == 0 || stat.czxid == node.known.czxid)
                    };
                    let entry = seen.filter(same).and_then(|node| node.entry(key));
                    Ok(Attempt::Done(Some(entry.ok_or_else(unknown)?)))
                }
                Err(Fault::NotEmpty) if !parent => {
                    parent = true;
                    continue;
                }
                Err(Fault::NoNode | Fault::BadVersion) => Ok(Attempt::Conflict),
                Err(fault) => Err(fault.into_error()),
            };
        }
    }
}

/// The key is gone, and nobody can tell what it was.
fn unknown() -> Error {
    Error::new(ErrorKind::Unavailable).maybe_applied().with_backend(BACKEND).with_detail(
        "the key was deleted, and what it held is not known: others deleted it and put it anew in that \
         very moment",
    )
}
