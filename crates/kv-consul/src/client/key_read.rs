//! Reading a part of Consul's key space: once, when it changes, or while deleting it; item by item as they
//! arrive.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use kv_backend::{Deadline, within};
use kv_core::{Consistency, Error, ErrorKind, Result};
use tokio::sync::OwnedSemaphorePermit;

use crate::client::api::{Api, Lane, MAX_STREAMS, SMALL, collect, consistency, refusals};
use crate::client::encode::encode;
use crate::client::error;
use crate::client::error::{Asked, is_name_refused};
use crate::client::json_stream::JsonStream;
use crate::client::scope::Scope;
use crate::client::transport::{Body, Request};
use crate::client::wire::{Kv, Op, TxnItem, from_json, txn_body};

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

impl Api {
    /// The items of a scope, as JSON: objects, or texts where only names were asked for.
    pub(crate) async fn read(&self, query: Query, lane: Lane, timeout: Duration) -> Result<KeyRead> {
        let permit = within(timeout, self.permit(lane)).await.map_err(|error| match lane {
            Lane::Stream => {
                error.with_detail(format!("{MAX_STREAMS} large lists are open and not read to their end"))
            }
            _ => error,
        })?;
        // Consul adds up to a sixteenth.
        let wait = query.wait.map_or(Duration::ZERO, |(_, wait)| wait + wait / 16);
        loop {
            let refuses = self.refuses_names.load(Ordering::Relaxed);
            let asked = if refuses { query.scope.accepted() } else { query.scope.asked() };
            let path = self.query_path(&asked, &query);
            let (mut reply, at) = tokio::select! {
                biased;
                () = self.moved.notified(), if lane == Lane::Watch => {
                    return Err(Error::new(ErrorKind::Unavailable)
                        .with_detail("the host it was asked of fell silent"));
                }
                answer = self.exchange(Request::get(path), wait + timeout, wait) => answer?,
            };
            let endpoint = self.endpoints[at].endpoint().to_owned();
            let body = match reply.status {
                200 => Some(reply.body),
                404 => None,
                status => {
                    let text = within(timeout, collect(&mut *reply.body, SMALL, &endpoint)).await?;
                    let name_refused = status == 400 || is_name_refused(&String::from_utf8_lossy(&text));
                    if name_refused && !refuses && asked.accepted() != asked {
                        tracing::debug!("Consul refuses keys in URLs: reading from their ancestors");
                        self.refuses_names.store(true, Ordering::Relaxed);
                        continue;
                    }
                    let right = match &asked {
                        Scope::Tree(name) | Scope::Branch(name) => {
                            format!("key:read below {name:?}, or key:list if Consul wants that")
                        }
                        Scope::Key(name) => format!("key:read on {name:?}"),
                    };
                    let asked = Asked { bytes: 0, right: &right };
                    return Err(error::status(status, &text, asked, &endpoint));
                }
            };
            let index = match reply.index.as_deref().map(str::parse) {
                None => None,
                Some(Ok(index)) => Some(index),
                Some(Err(_)) => {
                    return Err(
                        error::protocol("the index of the answer is no index").with_endpoint(endpoint)
                    );
                }
            };
            self.newest.fetch_max(index.unwrap_or_default(), Ordering::Relaxed);
            let json = JsonStream::new(1);
            let mut items = KeyRead {
                index,
                scope: query.scope,
                asked,
                last: None,
                found: false,
                body,
                whole: false,
                json,
                timeout,
                endpoint,
                permit,
            };
            if lane == Lane::Stream {
                items.gather().await?;
            }
            return Ok(items);
        }
    }

    /// Deletes a tree in one step and hands over the keys that went.
    pub(crate) async fn delete_tree(
        &self,
        prefix: &str,
        deadline: &Deadline,
        mut each: impl FnMut(Kv) + Send,
    ) -> Result<()> {
        let ops = [Op::get_tree(prefix), Op::delete_tree(prefix)];
        let body = txn_body(&ops)?;
        let sent = body.len();
        let permit = deadline.run(self.permit(Lane::Call)).await.map_err(Error::not_applied)?;
        let request = Request::put(self.path("/v1/txn", None), body);
        let (mut reply, at) = self.exchange(request, deadline.remaining()?, Duration::ZERO).await?;
        let endpoint = self.endpoints[at].endpoint().to_owned();
        deadline
            .run(async {
                if reply.status != 200 {
                    let body = collect(&mut *reply.body, SMALL, &endpoint).await?;
                    if reply.status == 409 {
                        refusals(&body, &ops).map_err(|error| error.with_endpoint(&endpoint))?;
                    }
                    let asked = Asked { bytes: sent, right: "key:write everywhere below" };
                    return Err(error::status(reply.status, &body, asked, &endpoint));
                }
                let mut items = KeyRead {
                    index: None,
                    scope: Scope::Tree(prefix.to_owned()),
                    asked: Scope::Tree(prefix.to_owned()),
                    last: None,
                    found: false,
                    body: Some(reply.body),
                    whole: false,
                    json: JsonStream::new(2),
                    timeout: deadline.remaining()?,
                    endpoint,
                    permit,
                };
                while let Some(item) = items.item().await? {
                    let kv = from_json::<TxnItem>(&item)?.kv;
                    items.follows(&kv.key)?;
                    each(kv.checked()?);
                }
                Ok(())
            })
            .await
    }

    fn query_path(&self, scope: &Scope, query: &Query) -> String {
        let mut flags = consistency(query.consistency).to_owned();
        match scope {
            Scope::Tree(_) | Scope::Branch(_) if query.names_only => flags.push_str("&keys"),
            Scope::Tree(_) | Scope::Branch(_) => flags.push_str("&recurse"),
            Scope::Key(_) => {}
        }
        if let Some((index, wait)) = query.wait {
            flags.push_str(&format!("&index={index}&wait={}ms", wait.as_millis()));
        }
        self.path(&format!("/v1/kv/{}", encode(scope.text())), Some(&flags))
    }
}

/// The items of a scope, as they arrive. Dropping it ends the request.
pub(crate) struct KeyRead {
    index: Option<u64>,
    scope: Scope,
    /// What Consul was asked for: the scope or an ancestor of it.
    asked: Scope,
    /// The name of the last item.
    last: Option<String>,
    /// Whether anything of the scope was found.
    found: bool,
    body: Option<Box<dyn Body>>,
    /// All of the body has arrived, and it is not known yet whether it is a whole document.
    whole: bool,
    json: JsonStream,
    timeout: Duration,
    endpoint: String,
    permit: Option<OwnedSemaphorePermit>,
}

impl KeyRead {
    /// What they are of.
    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

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
            if self.follows(&kv.key)? {
                return kv.checked().map(Some);
            }
        }
        Ok(None)
    }

    /// The next name, of a query for names.
    pub(crate) async fn next_name(&mut self) -> Result<Option<String>> {
        while let Some(item) = self.item().await? {
            let name: String = from_json(&item)?;
            if self.follows(&name)? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Whether an item is of the scope: a query of an ancestor brings more than was asked for.
    ///
    /// # Errors
    ///
    /// `Protocol` if no Consul would answer it here: nobody asked for it, or it comes twice or too late.
    fn follows(&mut self, name: &str) -> Result<bool> {
        let wrong = match &self.last {
            _ if !self.asked.contains(name) => "the answer has a key that nobody asked for",
            Some(last) if last.as_str() >= name => "the answer has a key twice, or not in its place",
            _ => {
                let last = self.last.get_or_insert_default();
                last.clear();
                last.push_str(name);
                let found = self.scope.contains(name);
                self.found |= found;
                return Ok(found);
            }
        };
        Err(error::protocol(wrong).with_endpoint(&self.endpoint))
    }

    /// Whether Consul hides here what the token may not read. Of what is asked for by its own name it says so.
    pub(crate) fn hides(&self) -> bool {
        matches!(self.asked, Scope::Tree(_))
    }

    /// At the end: whether nothing of the scope was there, which may be because it was hidden.
    pub(crate) fn may_be_hidden(&self) -> bool {
        !self.found && self.hides()
    }

    /// Takes in what is small, so that it costs no connection while nobody reads it.
    async fn gather(&mut self) -> Result<()> {
        let mut size = 0;
        while self.body.is_some() && size < SMALL {
            size += self.more().await?;
        }
        Ok(())
    }

    async fn item(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(item) = self.json.next().map_err(|error| error.with_endpoint(&self.endpoint))? {
                return Ok(Some(item));
            }
            if self.body.is_none() {
                if std::mem::take(&mut self.whole) {
                    self.json.finish().map_err(|error| error.with_endpoint(&self.endpoint))?;
                }
                return Ok(None);
            }
            self.more().await?;
        }
    }

    /// Takes in the next bytes of the body; how many.
    async fn more(&mut self) -> Result<usize> {
        let Some(body) = &mut self.body else { return Ok(0) };
        let endpoint = &self.endpoint;
        let chunk = within(self.timeout, async {
            body.chunk().await.map_err(|failure| error::transport(failure, endpoint))
        });
        let Some(chunk) = chunk.await? else {
            (self.body, self.permit, self.whole) = (None, None, true);
            return Ok(0);
        };
        self.json.push(&chunk);
        Ok(chunk.len())
    }
}
