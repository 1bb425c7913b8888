//! Consul's HTTP API, as far as a store needs it: typed, with deadlines and bounded answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kv_backend::Deadline;
use kv_core::{Applied, Consistency, Error, ErrorKind, Measured, Result};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::client::encode::encode;
use crate::client::error;
use crate::client::error::{Asked, MAX_BODY, protocol};
use crate::client::json_stream::JsonStream;
use crate::client::refusal::{Refusal, refusal};
use crate::client::rights::{Rights, denied};
use crate::client::transport::{Body, Request, Transport};
use crate::client::wire::{
    AgentSelf, Kv, NewSession, Op, SessionId, SessionInfo, TxnAnswer, TxnRefusal, from_json, to_json,
    txn_body,
};

/// Consul cuts an address off at 200 connections, whoever has opened them: these, the calls and the waiting
/// queries are 64 unless configured, so three handles fit.
const MIN_VITAL: usize = 4;
pub(crate) const MAX_STREAMS: usize = 8;

/// The most bytes of an answer that is neither a list nor carries values.
pub(crate) const SMALL: usize = 64 * 1024;

/// The most bytes of one value with its key, in an answer: Consul keeps no value above 512 KiB, and
/// base64 makes a third more of it.
const WITH_VALUE: usize = 768 * 1024;

/// Whose connections a request counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Answered at once.
    Call,
    /// What keeps, watches over and releases locks and session keys: it does not queue behind calls.
    Vital,
    /// A list or first state, read at the pace of whoever asked for it.
    Stream,
    /// A waiting query of the watch hub, which has its own limit.
    Watch,
}

/// The calls on one cluster, through one or several endpoints.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) endpoints: Vec<Arc<dyn Transport>>,
    pub(crate) current: AtomicUsize,
    datacenter: Option<String>,
    calls: Arc<Semaphore>,
    vital: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    /// Told when another endpoint is used from now on, because the one before fell silent.
    pub(crate) moved: Notify,
    /// How many requests were sent.
    pub(crate) sent: AtomicU64,
    /// The highest index any answer had.
    pub(crate) newest: AtomicU64,
    /// Whether the server refused a name in a URL that other servers take.
    pub(crate) refuses_names: AtomicBool,
    pub(crate) rights: Rights,
}

/// What a transaction came to.
#[derive(Debug)]
pub(crate) enum Txn {
    /// Carried out; one slot for each operation, filled where Consul answers something.
    Done(Vec<Option<Kv>>),
    /// Refused, and nothing was changed: which operations, and why.
    Refused(Vec<(usize, Refusal)>),
}

/// An answer with its whole body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
    pub(crate) endpoint: String,
    /// How many bytes the request had.
    sent: usize,
}

impl Answer {
    /// The body of the answer to a request that needs this right.
    fn ok(self, right: &str) -> Result<Bytes> {
        if self.status == 200 { Ok(self.body) } else { Err(self.error(right)) }
    }

    pub(crate) fn error(&self, right: &str) -> Error {
        let asked = Asked { bytes: self.sent, right };
        error::status(self.status, &self.body, asked, &self.endpoint)
    }
}

impl Api {
    /// The cluster behind these endpoints, of which there is at least one.
    pub(crate) fn new(
        endpoints: Vec<Arc<dyn Transport>>,
        datacenter: Option<String>,
        max_calls: usize,
    ) -> Self {
        Self {
            endpoints,
            current: AtomicUsize::new(0),
            datacenter,
            calls: Arc::new(Semaphore::new(max_calls)),
            vital: Arc::new(Semaphore::new((max_calls / 4).max(MIN_VITAL))),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            moved: Notify::new(),
            sent: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            refuses_names: AtomicBool::new(false),
            rights: Rights::default(),
        }
    }

    /// Carries out a transaction; `reading` if it only reads.
    pub(crate) async fn txn(
        &self,
        ops: &[Op],
        reading: Option<Consistency>,
        deadline: &Deadline,
    ) -> Result<Txn> {
        self.txn_in(Lane::Call, ops, reading, deadline).await
    }

    /// The same in another lane.
    pub(crate) async fn txn_in(
        &self,
        lane: Lane,
        ops: &[Op],
        reading: Option<Consistency>,
        deadline: &Deadline,
    ) -> Result<Txn> {
        let body = txn_body(ops)?;
        let sent = body.len();
        if sent > MAX_BODY {
            return Err(Error::too_large(Measured::Request, sent, MAX_BODY)
                .with_detail("the whole transaction, as Consul takes it"));
        }
        let max = ops.iter().map(|op| if op.has_value() { WITH_VALUE } else { 4096 }).sum::<usize>() + SMALL;
        let path = self.path("/v1/txn", reading.map(consistency));
        let request = Request::put(path, body).repeatable(reading.is_some());
        let answer = self.call(lane, request, max, deadline).await?;
        if answer.status == 409 {
            return refusals(&answer.body, ops)
                .map(Txn::Refused)
                .map_err(|error| error.with_endpoint(answer.endpoint));
        }
        let items = from_json::<TxnAnswer>(&answer.ok("key:write")?)?.results.unwrap_or_default();
        let newest = items.iter().map(|item| item.kv.modify_index).max().unwrap_or_default();
        self.newest.fetch_max(newest, Ordering::Relaxed);
        line_up(ops, items.into_iter().map(|item| item.kv), reading.is_some()).map(Txn::Done)
    }

    /// An index that Consul's state has reached, as this handle knows: a state read from now on is one
    /// of this index too.
    pub(crate) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// How many requests were sent, those of tasks in the background included, and without the questions
    /// for rights.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The server lost its state: indexes begin anew.
    pub(crate) fn forget_newest(&self) {
        self.newest.store(0, Ordering::Relaxed);
    }

    /// One key, or `None`.
    pub(crate) async fn get(
        &self,
        lane: Lane,
        native: &str,
        freshness: Consistency,
        deadline: &Deadline,
    ) -> Result<Option<Kv>> {
        match self.txn_in(lane, &[Op::get(native)], Some(freshness), deadline).await? {
            Txn::Done(mut slots) => Ok(slots.pop().flatten()),
            Txn::Refused(refused) if refused.iter().all(|(_, why)| *why == Refusal::Missing) => {
                self.check_readable(lane, native, deadline).await?;
                Ok(None)
            }
            Txn::Refused(_) => Err(protocol("a read was refused as only a write can be")),
        }
    }

    /// Deletes everything there is.
    pub(crate) async fn delete_all(&self, deadline: &Deadline) -> Result<()> {
        let path = self.path("/v1/kv/", Some("recurse"));
        self.call(Lane::Call, Request::delete(path), SMALL, deadline)
            .await?
            .ok("key:write on every key")
            .map(drop)
    }

    /// Makes a session and returns its id.
    pub(crate) async fn create_session(&self, new: &NewSession<'_>, deadline: &Deadline) -> Result<String> {
        let path = self.path("/v1/session/create", None);
        let body = self.call(Lane::Call, Request::put(path, to_json(new)?), SMALL, deadline).await?;
        let id = from_json::<SessionId>(&body.ok("session:write on the agent's node")?)?.id;
        // An empty one would stand for none in what is sent with it.
        if id.is_empty() { Err(protocol("Consul made a session without an id")) } else { Ok(id) }
    }

    /// Renews a session; false if it is gone.
    pub(crate) async fn renew_session(&self, id: &str, deadline: &Deadline) -> Result<bool> {
        let path = self.path(&format!("/v1/session/renew/{}", encode(id)), None);
        let answer = self
            .call(Lane::Vital, Request::put(path, Bytes::new()).repeatable(true), SMALL, deadline)
            .await?;
        if answer.status == 404 {
            return Ok(false);
        }
        answer.ok("session:write on the agent's node").map(|_| true)
    }

    /// Ends a session; that it is gone already is no error.
    pub(crate) async fn destroy_session(&self, lane: Lane, id: &str, deadline: &Deadline) -> Result<()> {
        let path = self.path(&format!("/v1/session/destroy/{}", encode(id)), None);
        let request = Request::put(path, Bytes::new()).repeatable(true);
        let answer = self.call(lane, request, SMALL, deadline).await?;
        answer.ok("session:write on the agent's node").map(drop)
    }

    /// What Consul knows of a session; `None` if it is gone.
    pub(crate) async fn session_info(&self, id: &str, deadline: &Deadline) -> Result<Option<SessionInfo>> {
        let path = self
            .path(&format!("/v1/session/info/{}", encode(id)), Some(consistency(Consistency::Linearizable)));
        let answer = self.call(Lane::Call, Request::get(path), SMALL, deadline).await?;
        let found = from_json::<Option<Vec<SessionInfo>>>(&answer.ok("session:read")?)?.unwrap_or_default();
        match found.into_iter().next() {
            Some(info) if info.id != id => Err(protocol("Consul tells of another session than asked")),
            info => Ok(info),
        }
    }

    /// Hands over every session that the token may read, as they arrive.
    pub(crate) async fn each_session(
        &self,
        deadline: &Deadline,
        mut each: impl FnMut(SessionInfo) + Send,
    ) -> Result<()> {
        let path = self.path("/v1/session/list", Some(consistency(Consistency::Linearizable)));
        let _permit = deadline.run(self.permit(Lane::Call)).await?;
        let (mut reply, at) =
            self.exchange(Request::get(path), deadline.remaining()?, Duration::ZERO).await?;
        let endpoint = self.endpoints[at].endpoint();
        let read = async {
            if reply.status != 200 {
                let body = collect(&mut *reply.body, SMALL, endpoint).await?;
                let asked = Asked { bytes: 0, right: "session:read" };
                return Err(error::status(reply.status, &body, asked, endpoint));
            }
            let mut json = JsonStream::new(1);
            let broken = |failure| error::transport(failure, endpoint);
            while let Some(chunk) = reply.body.chunk().await.map_err(broken)? {
                json.push(&chunk);
                while let Some(item) = json.next()? {
                    each(from_json(&item)?);
                }
            }
            json.finish()
        };
        deadline.run(read).await.map_err(|error| error.with_endpoint(endpoint))
    }

    /// Makes sure that a Consul answers, with a leader or without.
    pub(crate) async fn probe(&self, deadline: &Deadline) -> Result<()> {
        let path = self.path("/v1/status/leader", None);
        let answer = self.call(Lane::Call, Request::get(path), SMALL, deadline).await.map_err(|error| {
            match (error.kind(), error.endpoint()) {
                // What speaks no HTTP hangs up.
                (ErrorKind::Unavailable, Some(_)) if error.applied() == Applied::Unknown => {
                    error.with_detail("the connection broke: is this a Consul?")
                }
                (ErrorKind::Protocol, _) => error.with_detail("is this a Consul? It answers something else"),
                _ => error,
            }
        })?;
        let other = |answered: &str| {
            protocol(&format!("is this a Consul? It answered {answered}")).with_endpoint(&answer.endpoint)
        };
        if answer.status == 200 {
            return from_json::<String>(&answer.body)
                .map(drop)
                .map_err(|error| other("something else than Consul's JSON").with_source(error));
        }
        let error = answer.error("no right");
        match error.kind() {
            ErrorKind::Protocol => Err(other(&error::shown(answer.status, &answer.body))),
            _ => Err(error),
        }
    }

    /// Makes sure that Consul knows the token, where it has tokens at all.
    pub(crate) async fn check_token(&self, deadline: &Deadline) -> Result<()> {
        let path = self.path("/v1/acl/token/self", None);
        let answer = self.call(Lane::Call, Request::get(path), SMALL, deadline).await?;
        if answer.status == 403 { Err(answer.error("acl:read of itself")) } else { Ok(()) }
    }

    /// Consul's version; `None` if the token may not ask for it.
    pub(crate) async fn version(&self, deadline: &Deadline) -> Result<Option<String>> {
        let path = self.path("/v1/agent/self", None);
        let answer = self.call(Lane::Call, Request::get(path), 1 << 20, deadline).await?;
        match answer.ok("agent:read") {
            Ok(body) => Ok(Some(from_json::<AgentSelf>(&body)?.config.version)),
            Err(error) if *error.kind() == ErrorKind::PermissionDenied => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn call(
        &self,
        lane: Lane,
        request: Request,
        max: usize,
        deadline: &Deadline,
    ) -> Result<Answer> {
        let _permit = deadline.run(self.permit(lane)).await.map_err(Error::not_applied)?;
        let sent = request.body.len();
        let (mut reply, at) = self.exchange(request, deadline.remaining()?, Duration::ZERO).await?;
        let endpoint = self.endpoints[at].endpoint();
        let body = deadline.run(collect(&mut *reply.body, max, endpoint)).await.map_err(|error| {
            if error.is_transient() {
                self.leave(at);
            }
            error.with_endpoint(endpoint)
        })?;
        Ok(Answer { status: reply.status, body, endpoint: endpoint.to_owned(), sent })
    }

    /// A place in a lane; `None` where it has no limit.
    pub(crate) async fn permit(&self, lane: Lane) -> Result<Option<OwnedSemaphorePermit>> {
        let semaphore = match lane {
            Lane::Call => &self.calls,
            Lane::Vital => &self.vital,
            Lane::Stream => &self.streams,
            Lane::Watch => return Ok(None),
        };
        Arc::clone(semaphore).acquire_owned().await.map(Some).map_err(|_| Error::new(ErrorKind::Internal))
    }

    pub(crate) fn path(&self, path: &str, flag: Option<&str>) -> String {
        let datacenter = self.datacenter.as_deref().map(|name| format!("dc={}", encode(name)));
        let query: Vec<&str> = flag.into_iter().chain(datacenter.as_deref()).collect();
        if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
    }
}

pub(crate) fn consistency(wanted: Consistency) -> &'static str {
    match wanted {
        Consistency::Stale => "stale",
        _ => "consistent",
    }
}

/// Why a transaction was refused: which operations, and what each says.
pub(crate) fn refusals(body: &[u8], ops: &[Op]) -> Result<Vec<(usize, Refusal)>> {
    let refused = from_json::<TxnAnswer>(body)?.errors.unwrap_or_default();
    if refused.is_empty() {
        return Err(protocol("a transaction was refused without a reason").not_applied());
    }
    let refusal = |refused: &TxnRefusal| match ops.get(refused.op_index) {
        Some(op) => Ok((refused.op_index, refusal(refused, op)?)),
        None => Err(protocol("a transaction was refused for an operation it does not have").not_applied()),
    };
    refused.iter().map(refusal).collect()
}

/// Puts the items of an answer beside the operations they belong to.
fn line_up(ops: &[Op], items: impl Iterator<Item = Kv>, reading: bool) -> Result<Vec<Option<Kv>>> {
    let mut items = items.peekable();
    let mut hidden = None;
    let mut slots = Vec::with_capacity(ops.len());
    for op in ops {
        slots.push(match items.next_if(|kv| op.has_result() && kv.key == op.key()) {
            Some(kv) => Some(kv.checked()?),
            None if !op.has_result() => None,
            // What the token may not read is left out of a read without a word.
            None if reading => {
                hidden.get_or_insert(op.key());
                None
            }
            None => return Err(protocol("the answer to a transaction lacks an item, or has another")),
        });
    }
    match (items.next(), hidden) {
        (Some(_), _) => Err(protocol("the answer to a transaction has an item nobody asked for")),
        (None, Some(key)) => Err(denied(key)),
        (None, None) => Ok(slots),
    }
}

/// The key as a write left it.
pub(crate) fn written<'a>(slots: &'a [Option<Kv>], native: &str) -> Result<&'a Kv> {
    slots
        .iter()
        .rev()
        .flatten()
        .find(|kv| kv.key == native)
        .ok_or_else(|| protocol("the answer to a write does not name the key"))
}

/// The whole of a body, which must not be larger than `max`.
pub(crate) async fn collect(body: &mut dyn Body, max: usize, endpoint: &str) -> Result<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.chunk().await.map_err(|failure| error::transport(failure, endpoint))? {
        if whole.len() + chunk.len() > max {
            return Err(protocol(&format!("the answer is larger than {max} bytes")).with_endpoint(endpoint));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}
