//! A server that gives sessions and answers requests as a test tells it to.

#![allow(dead_code)] // Each test uses some of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The server's error codes.
pub(crate) const NO_NODE: i32 = -101;
pub(crate) const UNIMPLEMENTED: i32 = -6;

/// What is asked: the operation's number and, where the request begins with one, the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Which of the server's connections it came by, from 0.
    pub(crate) connection: usize,
    pub(crate) op: i32,
    pub(crate) path: String,
}

pub(crate) const CREATE_TTL: i32 = 21;
pub(crate) const DELETE: i32 = 2;
pub(crate) const EXISTS: i32 = 3;
pub(crate) const GET_DATA: i32 = 4;
pub(crate) const GET_ACL: i32 = 6;
pub(crate) const GET_CHILDREN: i32 = 8;
pub(crate) const SYNC: i32 = 9;
pub(crate) const GET_CHILDREN_STAT: i32 = 12;
pub(crate) const CREATE: i32 = 15;
const PING: i32 = 11;

/// A read of this name is answered by watch events, of nodes nobody watches, and there is no end to them.
pub(crate) const FLOOD: &str = "flood";

/// In the place of an error code: what follows is whole frames, sent as they are and at once.
pub(crate) const RAW: i32 = i32::MIN;

/// How a request is answered: an error code, and what follows the header.
pub(crate) type Answer = (i32, Vec<u8>);

/// What a test says to a request, beyond what a good server with nothing in it would.
type Script = dyn Fn(&Request) -> Option<Vec<Answer>> + Send + Sync;

pub(crate) struct Fake {
    pub(crate) address: String,
    connections: Arc<AtomicUsize>,
    cuts: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

impl Fake {
    pub(crate) async fn start(
        script: impl Fn(&Request) -> Option<Vec<Answer>> + Send + Sync + 'static,
    ) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    pub(crate) fn on(
        listener: TcpListener,
        script: impl Fn(&Request) -> Option<Vec<Answer>> + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap().to_string();
        let connections = Arc::<AtomicUsize>::default();
        let cuts = watch::Sender::new(0);
        let script: Arc<Script> = Arc::new(script);
        let task = tokio::spawn({
            let (connections, cuts) = (Arc::clone(&connections), cuts.clone());
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let serving = serve(stream, Arc::clone(&connections), Arc::clone(&script));
                    let mut cut = cuts.subscribe();
                    tokio::spawn(async move {
                        tokio::select! {
                            _ = serving => {}
                            _ = cut.changed() => {}
                        }
                    });
                }
            }
        });
        Self { address, connections, cuts, task }
    }

    /// How many connections asked for a session.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Ends all there is. When it returns, nothing is answered any more.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.cut();
        // Each connection listens for cuts until it ends.
        self.cuts.closed().await;
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

/// The state of a plain node.
pub(crate) fn stat() -> Vec<u8> {
    let mut stat = Vec::new();
    for _ in 0..4 {
        stat.extend(1_i64.to_be_bytes());
    }
    for version in [1_i32, 1, 0] {
        stat.extend(version.to_be_bytes());
    }
    // No owner, a length, no children, the last change of the children.
    stat.extend(0_i64.to_be_bytes());
    stat.extend(1_i32.to_be_bytes());
    stat.extend(0_i32.to_be_bytes());
    stat.extend(1_i64.to_be_bytes());
    stat
}

/// What a read of a node answers.
pub(crate) fn data(value: &str) -> Vec<u8> {
    let mut answer = i32::try_from(value.len()).unwrap().to_be_bytes().to_vec();
    answer.extend(value.as_bytes());
    answer.extend(stat());
    answer
}

/// What a read of a node answers that was made and written by this transaction.
pub(crate) fn data_at(value: &str, zxid: i64) -> Vec<u8> {
    let mut answer = data(value);
    let stat = 4 + value.len();
    answer[stat..stat + 8].copy_from_slice(&zxid.to_be_bytes());
    answer[stat + 8..stat + 16].copy_from_slice(&zxid.to_be_bytes());
    answer
}

/// What the making of a node answers.
pub(crate) fn made(path: &str) -> Vec<u8> {
    [text(path), stat()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&i32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

/// What a list of children answers.
pub(crate) fn names(names: &[&str]) -> Vec<u8> {
    let count = i32::try_from(names.len()).unwrap().to_be_bytes();
    let names = names.iter().flat_map(|name| text(name));
    count.into_iter().chain(names).collect()
}

/// A whole frame: an answer to some request, for a client that does not look to which.
pub(crate) fn reply(error: i32, body: &[u8]) -> Vec<u8> {
    frame_of(&[&7_i32.to_be_bytes(), &0_i64.to_be_bytes(), &error.to_be_bytes(), body])
}

/// A whole frame: a watch event of this kind.
pub(crate) fn event(kind: i32, path: &str) -> Vec<u8> {
    frame_of(&[&[255; 12], &[0; 4], &kind.to_be_bytes(), &3_i32.to_be_bytes(), &text(path)])
}

fn frame_of(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&i32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
}

async fn frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_i32().await?;
    let mut frame = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

async fn say(stream: &mut TcpStream, parts: &[&[u8]]) -> std::io::Result<()> {
    stream.write_all(&frame_of(parts)).await
}

async fn serve(
    mut stream: TcpStream,
    connections: Arc<AtomicUsize>,
    script: Arc<Script>,
) -> std::io::Result<()> {
    let greeting = frame(&mut stream).await?;
    let connection = connections.fetch_add(1, Ordering::SeqCst);
    // What was asked for, granted; session 7; a password; not read-only.
    let timeout = &greeting[12..16];
    say(&mut stream, &[&[0; 4], timeout, &7_i64.to_be_bytes(), &16_i32.to_be_bytes(), &[9; 16], &[0]])
        .await?;
    let zxid = Mutex::new(0_i64);
    loop {
        let request = frame(&mut stream).await?;
        let (xid, op) = (&request[..4], i32::from_be_bytes(request[4..8].try_into().unwrap()));
        let path = request.get(8..12).map(|length| i32::from_be_bytes(length.try_into().unwrap()));
        let path = path.and_then(|length| request.get(12..12 + usize::try_from(length).ok()?));
        let path = String::from_utf8_lossy(path.unwrap_or_default()).into_owned();
        if path.ends_with(FLOOD) && op == GET_DATA {
            return flood(stream).await;
        }
        let answers = if op == PING { None } else { script(&Request { connection, op, path: path.clone() }) };
        let answers = answers.unwrap_or_else(|| {
            vec![match (op, path.as_str()) {
                (EXISTS | GET_DATA | GET_ACL | GET_CHILDREN | DELETE, path) if path != "/" => {
                    (NO_NODE, Vec::new())
                }
                (EXISTS, _) => (0, stat()),
                (SYNC, _) => (0, [&1_i32.to_be_bytes()[..], b"/"].concat()),
                (CREATE_TTL, _) => (UNIMPLEMENTED, Vec::new()),
                _ => (0, Vec::new()),
            }]
        });
        for (error, body) in answers {
            if error == RAW {
                stream.write_all(&body).await?;
                continue;
            }
            let zxid = {
                let mut zxid = zxid.lock().unwrap();
                *zxid += 1;
                *zxid
            };
            say(&mut stream, &[xid, &zxid.to_be_bytes(), &error.to_be_bytes(), &body]).await?;
        }
    }
}

async fn flood(mut stream: TcpStream) -> std::io::Result<()> {
    // Data that was changed.
    let frames = event(3, "/t/nobody").repeat(2000);
    loop {
        stream.write_all(&frames).await?;
    }
}
