//! Releasing a lock: once for whoever waits for it, and in the background until it is done.

use std::sync::Arc;
use std::time::Duration;

use kv_backend::Deadline;
use kv_core::{Error, LockLoss, Result};

use crate::client::api::{Lane, Txn};
use crate::client::wire::{Content, Op};
use crate::env::backoff::Backoff;
use crate::lock::locks::Locks;
use crate::session::renewed::Renewed;

/// Frees the record of a session, and removes it where it exists for the lock only; then ends the session.
pub(crate) async fn release(
    locks: &Arc<Locks>,
    session: &str,
    record: &str,
    content: &Content,
    deadline: &Deadline,
) -> Result<()> {
    let mut ops = vec![Op::unlock(record, content, session)];
    if !locks.env.names.locks_keys() {
        ops.push(Op::delete(record));
    }
    let freed = locks.env.api.txn_in(Lane::Vital, &ops, None, deadline).await;
    // Ending the session frees the record too if nothing else did.
    let ended = locks.env.api.destroy_session(Lane::Vital, session, deadline).await;
    match freed? {
        Txn::Done(_) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "the session of a released lock stays until it expires");
            }
            Ok(())
        }
        Txn::Refused(_) => Err(Error::not_held(LockLoss::Removed).with_detail("by Consul's account")),
    }
}

/// Gives up, in the background, what a session may hold.
pub(crate) struct GiveUp {
    locks: Arc<Locks>,
    session: String,
    record: String,
    content: Content,
}

impl GiveUp {
    pub(crate) fn new(locks: &Arc<Locks>, renewed: &Renewed, record: &str, content: &Content) -> Self {
        let (locks, session) = (Arc::clone(locks), renewed.id.clone());
        Self { locks, session, record: record.to_owned(), content: content.clone() }
    }

    /// Tries until Consul has answered, however long that takes, or the handle is closed; at least once. No time
    /// ends it: a Consul that comes back with a new leader begins the time of every session anew.
    ///
    /// After the first attempt the locks of a handle take turns, and a turn lasts until the pause is over: many
    /// cost an outage no more requests than one, and follow each other at once when it ends.
    pub(crate) async fn run(self) {
        if self.attempt().await {
            return;
        }
        let closing = &self.locks.env.closing;
        let mut pauses = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let mut pause = || tokio::time::sleep(self.locks.env.jitter(pauses.pause()));
        let mut open = closing.run_until_cancelled(pause()).await;
        while open.is_some() {
            let Some(_turn) = closing.run_until_cancelled(self.locks.releases.lock()).await else { return };
            if self.attempt().await {
                return;
            }
            open = closing.run_until_cancelled(pause()).await;
        }
    }

    /// Whether Consul has answered.
    async fn attempt(&self) -> bool {
        let deadline = Deadline::after(self.locks.env.times.timeout);
        match release(&self.locks, &self.session, &self.record, &self.content, &deadline).await {
            Err(error) if error.is_transient() => {
                tracing::debug!(%error, "a lock that is not needed could not be released yet");
                false
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use bytes::Bytes;
    use kv_core::StoreExt;
    use tokio::task::JoinSet;
    use tokio::time::Instant;

    use super::*;
    use crate::client::transport::Body;
    use crate::client::transport::Failure;
    use crate::client::transport::Reply;
    use crate::client::transport::Request;
    use crate::client::transport::Transport;
    use crate::env::names::LOCK_FLAG;
    use crate::{ConsulConfig, ConsulStore};

    const SECOND: Duration = Duration::from_secs(1);

    /// A Consul that carries out everything, and that cannot be reached for a while.
    #[derive(Debug, Default)]
    struct Outage {
        over: AtomicBool,
        transactions: Mutex<Vec<Request>>,
    }

    struct Text(Option<&'static str>);

    #[async_trait]
    impl Body for Text {
        async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
            Ok(self.0.take().map(|text| Bytes::from_static(text.as_bytes())))
        }
    }

    #[async_trait]
    impl Transport for Arc<Outage> {
        fn endpoint(&self) -> &'static str {
            "http://consul.test:8500"
        }

        async fn exchange(&self, request: Request) -> Result<Reply, Failure> {
            let body = match request.path.as_str() {
                "/v1/status/leader" => "\"127.0.0.1:8300\"",
                "/v1/txn" => {
                    self.transactions.lock().unwrap().push(request);
                    r#"{"Results":[{"KV":{"Key":"l/.lock","Value":"","CreateIndex":1,"ModifyIndex":2}}]}"#
                }
                _ => "true",
            };
            match body.starts_with('"') || self.over.load(Ordering::Relaxed) {
                true => Ok(Reply { status: 200, index: None, body: Box::new(Text(Some(body))) }),
                false => Err(Failure::new("cut off".into(), true, false)),
            }
        }
    }

    fn let_go(store: &ConsulStore, locks: std::ops::Range<usize>) -> JoinSet<()> {
        let give_up = |at| GiveUp {
            locks: Arc::clone(store.locks()),
            session: format!("session-{at}-"),
            record: "l/.lock".to_owned(),
            content: Content::new(b"", LOCK_FLAG),
        };
        locks.map(|at| give_up(at).run()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_let_go_is_released_after_any_outage() {
        const LOCKS: usize = 200;
        let server = Arc::new(Outage::default());
        let transport: Arc<dyn Transport> = Arc::new(Arc::clone(&server));
        let config = ConsulConfig::new(["consul.test"]);
        let store = ConsulStore::open(config, false, |_| Ok(vec![transport])).await.unwrap();
        let sent = || std::mem::take(&mut *server.transactions.lock().unwrap());

        let releasing = let_go(&store, 0..LOCKS);
        tokio::time::sleep(SECOND * 3600).await;
        sent();
        tokio::time::sleep(SECOND * 600).await;
        let attempts = sent().len();
        assert!((600..=1200).contains(&attempts), "one lock's worth, not {attempts}");

        server.over.store(true, Ordering::Relaxed);
        let over = Instant::now();
        releasing.join_all().await;
        assert!(over.elapsed() <= SECOND, "{:?}", over.elapsed());
        let released = sent();
        for at in 0..LOCKS {
            let session = format!("session-{at}-");
            let of_it =
                released.iter().filter(|request| String::from_utf8_lossy(&request.body).contains(&session));
            assert_eq!(of_it.count(), 1, "{session}");
        }

        server.over.store(false, Ordering::Relaxed);
        let mut releasing = let_go(&store, 0..LOCKS);
        let before = tokio::time::timeout(SECOND * 10, releasing.join_next()).await;
        assert!(before.is_err(), "nothing has been released");
        store.close().await.unwrap();
        releasing.join_all().await;
    }
}
