//! Reading a part of Consul's key space: once, when it changes, or while deleting it; item by item as they
//! arrive.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use kv_backend::{Deadline, within};
use kv_core::{Consistency, Error, Result};
use tokio::sync::OwnedSemaphorePermit;

use crate::api::{Api, MAX_STREAMS, SMALL, collect, consistency, permit, refusals};
use crate::error;
use crate::names::{Scope, encode};
use crate::split::Splitter;
use crate::transport::{Body, Request};
use crate::wire::{Kv, Op, TxnItem, from_json, txn_body};

/// What a query reads.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    /// Which part of the key space.
    pub(crate) scope: Scope,
    /// Only the names.
    pub(crate) names_only: bool,
    /// How fresh.
    pub(crate) consistency: Consistency,
    /// Wait until the index is above this one, at most this long.
    pub(crate) wait: Option<(u64, Duration)>,
}

impl Query {
    /// Reads a scope as it is now.
    pub(crate) fn new(scope: Scope, consistency: Consistency) -> Self {
        Self { scope, names_only: false, consistency, wait: None }
    }
}

/// Whose connections a query counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Read at once.
    Call,
    /// A list or first state, read at the pace of whoever asked for it.
    Stream,
    /// A waiting query of the watch hub, which has its own limit.
    Watch,
}

impl Api {
    /// The items of a scope, as JSON: objects, or texts where only names were asked for.
    pub(crate) async fn read(&self, query: Query, lane: Lane, timeout: Duration) -> Result<Items> {
        let permit = match lane {
            Lane::Call => Some(within(timeout, permit(&self.calls)).await?),
            Lane::Stream => Some(within(timeout, permit(&self.streams)).await.map_err(|error| {
                error.with_detail(format!("{MAX_STREAMS} lists are open and not read to their end"))
            })?),
            Lane::Watch => None,
        };
        let patience = match query.wait {
            Some((_, wait)) => wait + wait / 16 + timeout,
            None => timeout,
        };
        loop {
            let refuses = self.refuses_names.load(Ordering::Relaxed);
            let asked = if refuses { query.scope.accepted() } else { query.scope.clone() };
            let path = self.query_path(&asked, &query);
            let (mut reply, endpoint) = within(patience, self.exchange(Request::get(path)))
                .await
                .map_err(|error| error.with_endpoint(self.endpoints[self.at()].endpoint()))?;
            let body = match reply.status {
                200 => Some(reply.body),
                404 => None,
                status => {
                    let text = within(timeout, collect(&mut *reply.body, SMALL, &endpoint)).await?;
                    if status == 400 && !refuses && asked.accepted() != asked {
                        tracing::debug!("Consul refuses keys in URLs: reading from their ancestors");
                        self.refuses_names.store(true, Ordering::Relaxed);
                        continue;
                    }
                    return Err(error::status(status, &text, 0, &endpoint));
                }
            };
            let index = reply.index.as_deref().and_then(|text| text.parse().ok());
            self.newest.fetch_max(index.unwrap_or_default(), Ordering::Relaxed);
            let splitter = Splitter::new(1);
            return Ok(Items {
                index,
                scope: query.scope,
                body,
                splitter,
                timeout,
                endpoint,
                _permit: permit,
            });
        }
    }

    /// Deletes a tree in one step and hands over the keys that went.
    pub(crate) async fn delete_tree(
        &self,
        prefix: &str,
        deadline: &Deadline,
        mut each: impl FnMut(Kv) + Send,
    ) -> Result<()> {
        let body = txn_body(&[Op::get_tree(prefix), Op::delete_tree(prefix)])?;
        let sent = body.len();
        let permit = deadline.run(permit(&self.calls)).await.map_err(Error::not_applied)?;
        deadline
            .run(async {
                let request = Request::put(self.path("/v1/txn", None), body);
                let (mut reply, endpoint) = self.exchange(request).await?;
                if reply.status != 200 {
                    let body = collect(&mut *reply.body, SMALL, &endpoint).await?;
                    if reply.status == 409 {
                        refusals(&body).map_err(|error| error.with_endpoint(&endpoint))?;
                    }
                    return Err(error::status(reply.status, &body, sent, &endpoint));
                }
                let mut items = Items {
                    index: None,
                    scope: Scope::Tree(prefix.to_owned()),
                    body: Some(reply.body),
                    splitter: Splitter::new(2),
                    timeout: deadline.remaining()?,
                    endpoint,
                    _permit: Some(permit),
                };
                while let Some(item) = items.item().await? {
                    each(from_json::<TxnItem>(&item)?.kv);
                }
                Ok(())
            })
            .await
    }

    fn query_path(&self, scope: &Scope, query: &Query) -> String {
        let mut flags = consistency(query.consistency).to_owned();
        match scope {
            Scope::Tree(_) if query.names_only => flags.push_str("&keys"),
            Scope::Tree(_) => flags.push_str("&recurse"),
            Scope::Key(_) => {}
        }
        if let Some((index, wait)) = query.wait {
            flags.push_str(&format!("&index={index}&wait={}ms", wait.as_millis()));
        }
        self.path(&format!("/v1/kv/{}", encode(scope.text())), Some(&flags))
    }
}

/// The items of a scope, as they arrive. Dropping it ends the request.
pub(crate) struct Items {
    index: Option<u64>,
    scope: Scope,
    body: Option<Box<dyn Body>>,
    splitter: Splitter,
    timeout: Duration,
    endpoint: String,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Items {
    /// The index of the state they show.
    pub(crate) fn index(&self) -> Option<u64> {
        self.index
    }

    /// The same, which a query that is to be repeated cannot do without. 0 counts as 1.
    pub(crate) fn required_index(&self) -> Result<u64> {
        self.index.map(|index| index.max(1)).ok_or_else(|| {
            error::protocol("the answer to a query lacks its index").with_endpoint(self.endpoint.as_str())
        })
    }

    /// The next key.
    pub(crate) async fn next(&mut self) -> Result<Option<Kv>> {
        while let Some(item) = self.item().await? {
            let kv: Kv = from_json(&item)?;
            // A query of an ancestor brings more than was asked for.
            if self.scope.contains(&kv.key) {
                return Ok(Some(kv));
            }
        }
        Ok(None)
    }

    /// The next name, of a query for names.
    pub(crate) async fn next_name(&mut self) -> Result<Option<String>> {
        while let Some(item) = self.item().await? {
            let name: String = from_json(&item)?;
            if self.scope.contains(&name) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    async fn item(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(item) = self.splitter.next().map_err(|error| error.with_endpoint(&self.endpoint))? {
                return Ok(Some(item));
            }
            let Some(body) = &mut self.body else { return Ok(None) };
            let endpoint = &self.endpoint;
            let chunk = within(self.timeout, async {
                body.chunk().await.map_err(|failure| error::transport(failure, endpoint))
            });
            match chunk.await? {
                Some(chunk) => self.splitter.push(&chunk),
                None => {
                    self.body = None;
                    self.splitter.finish().map_err(|error| error.with_endpoint(&self.endpoint))?;
                }
            }
        }
    }
}
