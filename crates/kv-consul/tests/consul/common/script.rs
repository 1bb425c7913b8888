//! A server that answers by a script, where a real one would be too well behaved.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kv_consul::ConsulStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{LOCK_FLAG, url};

/// What the server does with one request.
pub(crate) enum Act {
    /// Answers with these bytes and closes.
    Say(Vec<u8>),
    /// Answers with this head and then sends this piece again and again.
    Flood(&'static str, &'static [u8]),
    /// Closes without a word.
    Cut,
    /// Says nothing.
    Silence,
    /// Does this, but not before that is true.
    When(watch::Receiver<bool>, Box<Act>),
}

/// How a question for rights begins.
pub(crate) const RIGHTS: &str = "POST /v1/internal/acl/authorize";

type Script = dyn Fn(&str) -> Act + Send + Sync;

/// A server that answers by a script; it keeps the requests it got.
pub(crate) struct Scripted {
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    /// A server without ACLs.
    pub(crate) async fn start(script: impl Fn(&str) -> Act + Send + Sync + 'static) -> Self {
        Self::start_with_acl(move |request| match request.starts_with(RIGHTS) {
            true => json(401, "ACL support disabled"),
            false => script(request),
        })
        .await
    }

    /// A server whose script answers everything but what opening a store asks.
    pub(crate) async fn start_with_acl(script: impl Fn(&str) -> Act + Send + Sync + 'static) -> Self {
        Self::start_bare(move |request| match request.split(' ').nth(1).unwrap_or_default() {
            path if path.starts_with("/v1/status/leader") => json(200, "\"127.0.0.1:8300\""),
            path if path.starts_with("/v1/acl/token/self") => json(401, "ACL support disabled"),
            _ => script(request),
        })
        .await
    }

    /// A server whose script answers everything.
    pub(crate) async fn start_bare(script: impl Fn(&str) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (script, log): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&log)));
            }
        });
        Self { address, requests }
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) async fn store(&self) -> ConsulStore {
        self.open("timeout=2s").await
    }

    pub(crate) async fn open(&self, query: &str) -> ConsulStore {
        super::open(&url(&self.address, "", &format!("token=canary&{query}"), super::variant())).await
    }

    /// How many requests began so.
    pub(crate) fn count(&self, begin: &str) -> usize {
        self.requests().iter().filter(|request| request.starts_with(begin)).count()
    }
}

/// Answers one request for each connection.
async fn serve(mut stream: TcpStream, script: Arc<Script>, log: Arc<Mutex<Vec<String>>>) {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        text.extend_from_slice(&buffer[..read]);
        let Some(head) = text.windows(4).position(|part| part == b"\r\n\r\n") else {
            if read == 0 {
                return;
            }
            continue;
        };
        let request = String::from_utf8_lossy(&text).into_owned();
        let length = request
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned))
            .map_or(0, |length| length.trim().parse().unwrap());
        if text.len() >= head + 4 + length || read == 0 {
            log.lock().unwrap().push(request);
            break;
        }
    }
    let request = String::from_utf8_lossy(&text).into_owned();
    let act = script(&request);
    perform(stream, act).await;
}

async fn perform(mut stream: TcpStream, act: Act) {
    match act {
        Act::When(mut gate, act) => {
            if gate.wait_for(|open| *open).await.is_ok() {
                Box::pin(perform(stream, *act)).await;
            }
        }
        Act::Say(bytes) => drop(stream.write_all(&bytes).await),
        Act::Flood(head, piece) => {
            drop(stream.write_all(head.as_bytes()).await);
            while stream.write_all(piece).await.is_ok() {}
        }
        Act::Cut => {}
        Act::Silence => tokio::time::sleep(Duration::from_secs(60)).await,
    }
}

pub(crate) fn answer(status: u16, headers: &str, body: &str) -> Act {
    let length = body.len();
    Act::Say(
        format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}"
        )
        .into_bytes(),
    )
}

pub(crate) fn json(status: u16, body: &str) -> Act {
    answer(status, "X-Consul-Index: 5\r\n", body)
}

/// What a Consul answers that carried out a transaction: every key is at this index, bound to this
/// session; empty: to none.
pub(crate) fn applied(request: &str, index: u64, session: &str) -> Act {
    let body = request.split_once("\r\n\r\n").unwrap().1;
    let ops: Vec<serde_json::Value> = serde_json::from_str(body).unwrap();
    let without_result = ["delete", "delete-tree", "check-not-exists"];
    let results: Vec<_> = ops
        .iter()
        .filter(|op| !without_result.contains(&op["KV"]["Verb"].as_str().unwrap()))
        .map(|op| {
            serde_json::json!({"KV": {
                "Key": op["KV"]["Key"], "Value": "dg==", "Flags": LOCK_FLAG, "CreateIndex": 1,
                "ModifyIndex": index, "Session": session,
            }})
        })
        .collect();
    json(200, &serde_json::json!({"Results": results, "Errors": null}).to_string())
}

/// What a Consul answers that is asked for rights: each is there or not.
pub(crate) fn rights(request: &str, allow: bool) -> Act {
    let body = request.split_once("\r\n\r\n").unwrap().1;
    let mut rights: Vec<serde_json::Value> = serde_json::from_str(body).unwrap();
    for right in &mut rights {
        right["Allow"] = allow.into();
    }
    json(200, &serde_json::json!(rights).to_string())
}

/// What a Consul answers that refused a transaction because of its first operation.
pub(crate) fn refused(why: &str) -> Act {
    let errors = serde_json::json!([{"OpIndex": 0, "What": why}]);
    json(409, &serde_json::json!({"Results": null, "Errors": errors}).to_string())
}
