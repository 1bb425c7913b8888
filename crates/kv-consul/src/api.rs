//! Consul's HTTP API, as far as a store needs it: typed, with deadlines and bounded answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kv_backend::{Deadline, within};
use kv_core::{Consistency, Error, ErrorKind, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{self, MAX_BODY, Refusal, protocol, refusal};
use crate::names::{Scope, encode};
use crate::split::Splitter;
use crate::transport::{Body, Method, Reply, Request, Transport};
use crate::wire::{
    AgentSelf, Kv, NewSession, Op, SessionId, SessionInfo, TxnAnswer, from_json, to_json, txn_body,
};

/// Consul cuts a client off at 200 connections. These, and as many again for blocking queries, stay
/// below that.
const MAX_CALLS: usize = 64;
const MAX_STREAMS: usize = 32;

/// The most bytes of an answer that is neither a list nor carries values.
const SMALL: usize = 64 * 1024;

/// The most bytes of one value with its key, in an answer: Consul keeps no value above 512 KiB, and
/// base64 makes a third more of it.
const WITH_VALUE: usize = 768 * 1024;

/// The calls on one cluster, through one or several endpoints.
#[derive(Debug)]
pub(crate) struct Api {
    endpoints: Vec<Arc<dyn Transport>>,
    current: AtomicUsize,
    datacenter: Option<String>,
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    /// Whether the server refused a name in a URL that other servers take.
    refuses_names: AtomicBool,
}

/// What a transaction came to.
#[derive(Debug)]
pub(crate) enum Txn {
    /// Carried out; one slot for each operation, filled where Consul answers something.
    Done(Vec<Option<Kv>>),
    /// Refused, and nothing was changed: which operations, and why.
    Refused(Vec<(usize, Refusal)>),
}

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

struct Answer {
    status: u16,
    body: Bytes,
    endpoint: String,
}

impl Answer {
    fn ok(self, sent: usize) -> Result<Bytes> {
        if self.status == 200 { Ok(self.body) } else { Err(self.error(sent)) }
    }

    fn error(&self, sent: usize) -> Error {
        error::status(self.status, &self.body, sent, &self.endpoint)
    }
}

impl Api {
    /// The cluster behind these endpoints, of which there is at least one.
    pub(crate) fn new(endpoints: Vec<Arc<dyn Transport>>, datacenter: Option<String>) -> Self {
        Self {
            endpoints,
            current: AtomicUsize::new(0),
            datacenter,
            calls: Arc::new(Semaphore::new(MAX_CALLS)),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            refuses_names: AtomicBool::new(false),
        }
    }

    /// Carries out a transaction; `reading` if it only reads.
    pub(crate) async fn txn(
        &self,
        ops: &[Op],
        reading: Option<Consistency>,
        deadline: &Deadline,
    ) -> Result<Txn> {
        let body = txn_body(ops)?;
        let sent = body.len();
        if sent > MAX_BODY {
            return Err(Error::new(ErrorKind::TooLarge { size: sent, max: MAX_BODY })
                .with_detail("bytes of the whole transaction, as Consul takes it"));
        }
        let max = ops.iter().map(|op| if op.has_value() { WITH_VALUE } else { 4096 }).sum::<usize>() + SMALL;
        let path = self.path("/v1/txn", reading.map(consistency));
        let answer = self.call(Method::Put, path, body, max, deadline).await?;
        if answer.status == 409 {
            let refusals = from_json::<TxnAnswer>(&answer.body)?.errors.unwrap_or_default();
            let refused = refusals
                .iter()
                .map(|refused| Ok((refused.op_index, refusal(refused)?)))
                .collect::<Result<Vec<_>>>()
                .map_err(|error| error.with_endpoint(answer.endpoint))?;
            if refused.is_empty() {
                return Err(protocol("a transaction was refused without a reason").not_applied());
            }
            return Ok(Txn::Refused(refused));
        }
        let items = from_json::<TxnAnswer>(&answer.ok(sent)?)?.results.unwrap_or_default();
        line_up(ops, items.into_iter().map(|item| item.kv), reading.is_some()).map(Txn::Done)
    }

    /// One key, or `None`.
    pub(crate) async fn get(
        &self,
        native: &str,
        freshness: Consistency,
        deadline: &Deadline,
    ) -> Result<Option<Kv>> {
        match self.txn(&[Op::get(native)], Some(freshness), deadline).await? {
            Txn::Done(mut slots) => Ok(slots.pop().flatten()),
            Txn::Refused(refused) if refused.iter().all(|(_, why)| *why == Refusal::Missing) => Ok(None),
            Txn::Refused(_) => Err(protocol("a read was refused as only a write can be")),
        }
    }

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
            let (mut reply, endpoint) = within(patience, self.exchange(Method::Get, path, Bytes::new()))
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

    /// Deletes a tree in one step and returns the keys that went, with their flags.
    pub(crate) async fn delete_tree(
        &self,
        prefix: &str,
        deadline: &Deadline,
        mut each: impl FnMut(Kv) + Send,
    ) -> Result<()> {
        let body = txn_body(&[Op::get_tree(prefix), Op::delete_tree(prefix)])?;
        let sent = body.len();
        let path = self.path("/v1/txn", None);
        let _permit = deadline.run(permit(&self.calls)).await?;
        deadline
            .run(async {
                let (mut reply, endpoint) = self.exchange(Method::Put, path, body).await?;
                if reply.status != 200 {
                    let body = collect(&mut *reply.body, SMALL, &endpoint).await?;
                    if let (409, Ok(answer)) = (reply.status, from_json::<TxnAnswer>(&body)) {
                        if let Some(refused) = answer.errors.as_ref().and_then(|errors| errors.first()) {
                            refusal(refused)?;
                        }
                    }
                    return Err(error::status(reply.status, &body, sent, &endpoint));
                }
                let mut splitter = Splitter::new(2);
                while let Some(chunk) =
                    reply.body.chunk().await.map_err(|failure| error::transport(failure, &endpoint))?
                {
                    splitter.push(&chunk);
                    while let Some(item) = splitter.next()? {
                        each(from_json::<crate::wire::TxnItem>(&item)?.kv);
                    }
                }
                splitter.finish()
            })
            .await
    }

    /// Deletes everything there is.
    pub(crate) async fn delete_all(&self, deadline: &Deadline) -> Result<()> {
        let path = self.path("/v1/kv/", Some("recurse"));
        self.call(Method::Delete, path, Bytes::new(), SMALL, deadline).await?.ok(0).map(drop)
    }

    /// Makes a session and returns its id.
    pub(crate) async fn create_session(&self, new: &NewSession<'_>, deadline: &Deadline) -> Result<String> {
        let path = self.path("/v1/session/create", None);
        let body = self.call(Method::Put, path, to_json(new)?, SMALL, deadline).await?.ok(0)?;
        Ok(from_json::<SessionId>(&body)?.id)
    }

    /// Renews a session; false if it is gone.
    pub(crate) async fn renew_session(&self, id: &str, deadline: &Deadline) -> Result<bool> {
        let path = self.path(&format!("/v1/session/renew/{}", encode(id)), None);
        let answer = self.call(Method::Put, path, Bytes::new(), SMALL, deadline).await?;
        if answer.status == 404 {
            return Ok(false);
        }
        answer.ok(0).map(|_| true)
    }

    /// Ends a session; that it is gone already is no error.
    pub(crate) async fn destroy_session(&self, id: &str, deadline: &Deadline) -> Result<()> {
        let path = self.path(&format!("/v1/session/destroy/{}", encode(id)), None);
        self.call(Method::Put, path, Bytes::new(), SMALL, deadline).await?.ok(0).map(drop)
    }

    /// What Consul knows of a session; `None` if it is gone.
    pub(crate) async fn session_info(&self, id: &str, deadline: &Deadline) -> Result<Option<SessionInfo>> {
        let path = self
            .path(&format!("/v1/session/info/{}", encode(id)), Some(consistency(Consistency::Linearizable)));
        let body = self.call(Method::Get, path, Bytes::new(), SMALL, deadline).await?.ok(0)?;
        Ok(from_json::<Option<Vec<SessionInfo>>>(&body)?.unwrap_or_default().pop())
    }

    /// Makes sure that a Consul answers, with a leader or without.
    pub(crate) async fn probe(&self, deadline: &Deadline) -> Result<()> {
        let path = self.path("/v1/status/leader", None);
        let body = self.call(Method::Get, path, Bytes::new(), SMALL, deadline).await?.ok(0)?;
        from_json::<String>(&body).map(drop).map_err(|error| error.with_detail("this is no Consul"))
    }

    /// Makes sure that Consul knows the token, where it has tokens at all.
    pub(crate) async fn check_token(&self, deadline: &Deadline) -> Result<()> {
        let path = self.path("/v1/acl/token/self", None);
        let answer = self.call(Method::Get, path, Bytes::new(), SMALL, deadline).await?;
        if answer.status == 403 { Err(answer.error(0)) } else { Ok(()) }
    }

    /// Consul's version.
    pub(crate) async fn version(&self, deadline: &Deadline) -> Result<String> {
        let path = self.path("/v1/agent/self", None);
        let body = self.call(Method::Get, path, Bytes::new(), 1 << 20, deadline).await?.ok(0)?;
        Ok(from_json::<AgentSelf>(&body)?.config.version)
    }

    async fn call(
        &self,
        method: Method,
        path: String,
        body: Bytes,
        max: usize,
        deadline: &Deadline,
    ) -> Result<Answer> {
        let _permit = deadline.run(permit(&self.calls)).await.map_err(Error::not_applied)?;
        deadline
            .run(async {
                let (mut reply, endpoint) = self.exchange(method, path, body).await?;
                let body = collect(&mut *reply.body, max, &endpoint).await?;
                Ok(Answer { status: reply.status, body, endpoint })
            })
            .await
            .map_err(|error| error.with_endpoint(self.endpoints[self.at()].endpoint()))
    }

    /// Sends a request to the present endpoint, or to the next one that can be reached at all.
    async fn exchange(&self, method: Method, path: String, body: Bytes) -> Result<(Reply, String)> {
        let first = self.at();
        let mut unreachable = None;
        for step in 0..self.endpoints.len() {
            let at = (first + step) % self.endpoints.len();
            let transport = &self.endpoints[at];
            let request = Request { method, path: path.clone(), body: body.clone() };
            match transport.exchange(request).await {
                Ok(reply) => {
                    // Without a leader here, another server may have one.
                    let next = if reply.status >= 500 { at + 1 } else { at };
                    self.current.store(next % self.endpoints.len(), Ordering::Relaxed);
                    return Ok((reply, transport.endpoint().to_owned()));
                }
                Err(failure) if failure.unsent => {
                    unreachable = Some(error::transport(failure, transport.endpoint()));
                }
                Err(failure) => {
                    self.current.store((at + 1) % self.endpoints.len(), Ordering::Relaxed);
                    return Err(error::transport(failure, transport.endpoint()));
                }
            }
        }
        Err(unreachable.unwrap_or_else(|| Error::invalid_config("there is no endpoint")))
    }

    fn at(&self) -> usize {
        self.current.load(Ordering::Relaxed) % self.endpoints.len().max(1)
    }

    fn path(&self, path: &str, flag: Option<&str>) -> String {
        let datacenter = self.datacenter.as_deref().map(|name| format!("dc={}", encode(name)));
        let query: Vec<&str> = flag.into_iter().chain(datacenter.as_deref()).collect();
        if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
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

async fn permit(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
    Arc::clone(semaphore).acquire_owned().await.map_err(|_| Error::new(ErrorKind::Internal))
}

fn consistency(wanted: Consistency) -> &'static str {
    match wanted {
        Consistency::Stale => "stale",
        _ => "consistent",
    }
}

/// Puts the items of an answer beside the operations they belong to.
fn line_up(ops: &[Op], items: impl Iterator<Item = Kv>, reading: bool) -> Result<Vec<Option<Kv>>> {
    let mut items = items.peekable();
    let slots = ops
        .iter()
        .map(|op| {
            if !op.has_result() {
                return Ok(None);
            }
            match items.next_if(|kv| kv.key == op.key()) {
                Some(kv) => Ok(Some(kv)),
                // What the token may not read is silently left out of a read.
                None if reading => Err(Error::new(ErrorKind::PermissionDenied)
                    .with_detail("the token may not read this key")
                    .with_key(op.key())),
                None => Err(protocol("the answer to a transaction lacks an item")),
            }
        })
        .collect::<Result<Vec<_>>>()?;
    if items.next().is_some() {
        return Err(protocol("the answer to a transaction has too many items"));
    }
    Ok(slots)
}

/// The whole of a body, which must not be larger than `max`.
async fn collect(body: &mut dyn Body, max: usize, endpoint: &str) -> Result<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.chunk().await.map_err(|failure| error::transport(failure, endpoint))? {
        if whole.len() + chunk.len() > max {
            return Err(protocol(&format!("the answer is larger than {max} bytes")).with_endpoint(endpoint));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
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
