//! A server that answers what a test tells it to, in gRPC over one plain TCP port.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use kv_etcd::EtcdStore;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use super::open;

/// What is answered to one message.
pub(crate) enum Reply {
    /// These messages. Behind them a call of one answer ends well, and a stream stays open.
    Messages(Vec<Vec<u8>>),
    /// This gRPC status.
    Fail(u32, String),
}

/// One message.
pub(crate) fn one(message: &impl Message) -> Reply {
    Reply::Messages(vec![message.encode_to_vec()])
}

/// What is answered to a message of this method, as `Range` or `Watch`.
pub(crate) type Script = Arc<dyn Fn(&str, Bytes) -> Reply + Send + Sync>;

/// See the module.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    task: AbortHandle,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    /// A server that follows `script`; what that leaves out is answered as an empty etcd would.
    pub(crate) async fn start(script: impl Fn(&str, Bytes) -> Option<Reply> + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1:0", None, script).await
    }

    /// The same on this address, over TLS if there is a configuration for it.
    pub(crate) async fn start_on(
        address: &str,
        tls: Option<TlsAcceptor>,
        script: impl Fn(&str, Bytes) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let script: Script = Arc::new(move |method, message| {
            script(method, message.clone()).unwrap_or_else(|| honest(method, message))
        });
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (tls, script) = (tls.clone(), Arc::clone(&script));
                tokio::spawn(async move {
                    match tls {
                        None => serve(socket, script).await,
                        Some(tls) => match tls.accept(socket).await {
                            Ok(socket) => serve(socket, script).await,
                            Err(refused) => drop(refused),
                        },
                    }
                });
            }
        });
        Self { address, task: task.abort_handle() }
    }

    /// A store on it in the namespace `ns`.
    pub(crate) async fn store(&self, query: &str) -> EtcdStore {
        open(&format!("etcd://{}/ns{query}", self.address)).await
    }
}

async fn serve(socket: impl AsyncRead + AsyncWrite + Unpin, script: Script) {
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond, Arc::clone(&script)));
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, script: Script) {
    let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
    let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let Ok(mut out) = respond.send_response(response, false) else { return };
    let (mut body, mut read) = (request.into_body(), BytesMut::new());
    let is_stream = matches!(method.as_str(), "Watch" | "LeaseKeepAlive");
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        read.extend_from_slice(&data);
        while let Some(message) = frame(&mut read) {
            match script(&method, message) {
                Reply::Messages(messages) => {
                    for message in messages {
                        let mut frame = BytesMut::new();
                        frame.put_u8(0);
                        frame.put_u32(u32::try_from(message.len()).unwrap());
                        frame.extend_from_slice(&message);
                        let _ = out.send_data(frame.freeze(), false);
                    }
                    if !is_stream {
                        return end(&mut out, 0, "");
                    }
                }
                Reply::Fail(code, text) => return end(&mut out, code, &text),
            }
        }
    }
    end(&mut out, 0, "");
}

/// The next whole message that was read.
fn frame(read: &mut BytesMut) -> Option<Bytes> {
    let length = read.get(1..5)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    (read.len() >= length + 5).then(|| read.split_to(length + 5).split_off(5).freeze())
}

fn end(out: &mut SendStream<Bytes>, code: u32, text: &str) {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    // As gRPC has it, everything but letters is percent-encoded.
    let encoded = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b' ' | b':' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    trailers.insert("grpc-message", encoded.collect::<String>().parse().unwrap());
    let _ = out.send_trailers(trailers);
}

/// Requests, as far as a script needs them.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GrantRequest {
    #[prost(int64, tag = "1")]
    pub(crate) ttl: i64,
    #[prost(int64, tag = "2")]
    pub(crate) id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaseRequest {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) end: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Operation {
    #[prost(message, optional, tag = "1")]
    pub(crate) range: Option<RangeRequest>,
    #[prost(message, optional, tag = "2")]
    pub(crate) put: Option<RangeRequest>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TxnRequest {
    #[prost(message, repeated, tag = "2")]
    pub(crate) then: Vec<Operation>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct WatchCreate {
    #[prost(int64, tag = "7")]
    pub(crate) id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) create: Option<WatchCreate>,
}

/// Answers, in the same few fields.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Header {
    #[prost(uint64, tag = "1")]
    pub(crate) cluster: u64,
    #[prost(int64, tag = "3")]
    pub(crate) revision: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Kv {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(int64, tag = "2")]
    pub(crate) created: i64,
    #[prost(int64, tag = "3")]
    pub(crate) version: i64,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) value: Vec<u8>,
    #[prost(int64, tag = "6")]
    pub(crate) lease: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RangeAnswer {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) kvs: Vec<Kv>,
    #[prost(bool, tag = "3")]
    pub(crate) more: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PutAnswer {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeleteAnswer {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
    #[prost(int64, tag = "2")]
    pub(crate) deleted: i64,
    #[prost(message, repeated, tag = "3")]
    pub(crate) previous: Vec<Kv>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Outcome {
    #[prost(message, optional, tag = "1")]
    pub(crate) range: Option<RangeAnswer>,
    #[prost(message, optional, tag = "2")]
    pub(crate) put: Option<PutAnswer>,
    #[prost(message, optional, tag = "3")]
    pub(crate) delete: Option<DeleteAnswer>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TxnAnswer {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
    #[prost(bool, tag = "2")]
    pub(crate) succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    pub(crate) outcomes: Vec<Outcome>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaseAnswer {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
    #[prost(int64, tag = "2")]
    pub(crate) id: i64,
    #[prost(int64, tag = "3")]
    pub(crate) ttl: i64,
    #[prost(int64, tag = "4")]
    pub(crate) granted: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Event {
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) kv: Option<Kv>,
    #[prost(message, optional, tag = "3")]
    pub(crate) previous: Option<Kv>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct WatchAnswer {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
    #[prost(int64, tag = "2")]
    pub(crate) id: i64,
    #[prost(bool, tag = "3")]
    pub(crate) created: bool,
    #[prost(bool, tag = "4")]
    pub(crate) canceled: bool,
    #[prost(string, tag = "6")]
    pub(crate) reason: String,
    #[prost(message, repeated, tag = "11")]
    pub(crate) events: Vec<Event>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatusAnswer {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
    #[prost(string, tag = "2")]
    pub(crate) version: String,
}

/// The revision an honest answer has.
pub(crate) const REVISION: i64 = 100;

pub(crate) fn header() -> Option<Header> {
    Some(Header { cluster: 1, revision: REVISION })
}

/// A key in the namespace of [`Scripted::store`].
pub(crate) fn kv(key: &str, created: i64, version: i64) -> Kv {
    Kv { key: format!("ns/{key}").into(), created, version, value: b"v".to_vec(), lease: 0 }
}

pub(crate) fn range(kvs: Vec<Kv>) -> RangeAnswer {
    RangeAnswer { header: header(), kvs, more: false }
}

/// The watch a message begins, or 0.
pub(crate) fn watch_id(message: Bytes) -> i64 {
    WatchRequest::decode(message).unwrap().create.map_or(0, |create| create.id)
}

pub(crate) fn watch_answer(id: i64, events: Vec<Event>) -> Vec<u8> {
    WatchAnswer { header: header(), id, events, ..WatchAnswer::default() }.encode_to_vec()
}

pub(crate) fn watch_created(id: i64) -> Vec<u8> {
    WatchAnswer { header: header(), id, created: true, ..WatchAnswer::default() }.encode_to_vec()
}

/// As an etcd without any key answers.
fn honest(method: &str, message: Bytes) -> Reply {
    match method {
        "Status" => one(&StatusAnswer { header: header(), version: "3.5.0".to_owned() }),
        "Range" => one(&range(Vec::new())),
        "Put" => one(&PutAnswer { header: header() }),
        "DeleteRange" => one(&DeleteAnswer { header: header(), ..DeleteAnswer::default() }),
        "Txn" => {
            let outcomes = TxnRequest::decode(message).unwrap().then.into_iter().map(|operation| {
                let read = operation.range.map(|_| RangeAnswer::default());
                let put = operation.put.map(|_| PutAnswer::default());
                Outcome { range: read, put, delete: None }
            });
            one(&TxnAnswer { header: header(), succeeded: true, outcomes: outcomes.collect() })
        }
        "LeaseGrant" => {
            let GrantRequest { ttl, id } = GrantRequest::decode(message).unwrap();
            one(&LeaseAnswer { header: header(), id, ttl, granted: 0 })
        }
        "LeaseKeepAlive" | "LeaseTimeToLive" => {
            let LeaseRequest { id } = LeaseRequest::decode(message).unwrap();
            one(&LeaseAnswer { header: header(), id, ttl: 15, granted: 15 })
        }
        "LeaseRevoke" => one(&PutAnswer { header: header() }),
        "Watch" => match watch_id(message) {
            0 => Reply::Messages(Vec::new()),
            id => Reply::Messages(vec![watch_created(id)]),
        },
        other => Reply::Fail(12, format!("unknown method {other}")),
    }
}
