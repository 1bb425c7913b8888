//! One request and the hosts it may go to: the present one, or the next where that one cannot serve.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::{Applied, Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::client::api::{Api, SMALL, collect};
use crate::client::error;
use crate::client::error::Asked;
use crate::client::transport::{Body, Failure, Reply, Request};

/// A body that has arrived.
struct Whole(Option<Bytes>);

#[async_trait]
impl Body for Whole {
    async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        Ok(self.0.take())
    }
}

impl Api {
    /// Sends a request to the present endpoint, or to the next one that can be reached at all, within
    /// `patience`, of which the server itself may use `wait`. A repeatable one goes on to the next
    /// endpoint also when this one does not answer within its share of the time, and is sent once more
    /// if its connection broke, as an idle one can at any time. What an endpoint turns away because it
    /// cannot serve goes on to the next, a write only if it is certain that nothing was changed. Returns
    /// the answer and whose it is.
    pub(crate) async fn exchange(
        &self,
        request: Request,
        patience: Duration,
        wait: Duration,
    ) -> Result<(Reply, usize)> {
        let begin = Instant::now();
        let (first, hosts) = (self.at(), self.endpoints.len());
        let mut failed: Option<Error> = None;
        let mut turned_away = None;
        for step in 0..hosts + usize::from(request.repeatable) {
            let at = (first + step) % hosts;
            let left = patience.saturating_sub(begin.elapsed());
            if left.is_zero() && (failed.is_some() || turned_away.is_some()) {
                break;
            }
            let sharing = u32::try_from(hosts.saturating_sub(step).max(1)).unwrap_or(1);
            let limit = match request.repeatable {
                true => wait.min(left) + left.saturating_sub(wait) / sharing,
                // It is not sent again once it was sent, so it may have all the time there is. What
                // was not, because there is no connection, fails at the connect timeout.
                false => left,
            };
            let (error, unsent) = match self.try_one(&request, at, limit).await {
                Ok((reply, None)) => return Ok((reply, at)),
                Ok((reply, Some(trouble))) => {
                    // Without a leader here, another server may have one.
                    self.pass_on(at);
                    let harmless = request.repeatable || trouble.applied() == Applied::No;
                    if !trouble.is_transient() || !harmless || step + 1 >= hosts {
                        return Ok((reply, at));
                    }
                    tracing::debug!(error = %trouble, "a host cannot serve: the next is asked");
                    turned_away = Some((reply, at));
                    continue;
                }
                Err(failed) => failed,
            };
            self.rights.forget();
            self.leave(at);
            if !unsent && (!request.repeatable || *error.kind() == ErrorKind::Protocol) {
                return Err(error);
            }
            // That a host cannot be reached is less to know than that its certificate is no good.
            match &failed {
                Some(first) if matches!(first.kind(), ErrorKind::InvalidConfig { .. }) => {}
                _ => failed = Some(error),
            }
        }
        match (turned_away, failed) {
            (Some(answered), _) => Ok(answered),
            (None, Some(error)) => Err(error),
            (None, None) => Err(Error::invalid_config("there is no endpoint")),
        }
    }

    /// Sends a request to one endpoint. An answer that says that it cannot serve comes with what it says.
    ///
    /// # Errors
    ///
    /// Why there is no answer, and whether the request was certainly not sent.
    async fn try_one(
        &self,
        request: &Request,
        at: usize,
        limit: Duration,
    ) -> Result<(Reply, Option<Error>), (Error, bool)> {
        let transport = &self.endpoints[at];
        let endpoint = transport.endpoint();
        self.sent.fetch_add(u64::from(request.counted), Ordering::Relaxed);
        let exchange = async {
            let mut reply = transport.exchange(request.clone()).await.map_err(|failure| {
                let unsent = failure.unsent;
                (error::transport(failure, endpoint), unsent)
            })?;
            if reply.status < 500 && reply.status != 429 {
                return Ok((reply, None));
            }
            let body = collect(&mut *reply.body, SMALL, endpoint).await.map_err(|error| (error, false))?;
            let asked = Asked { bytes: request.body.len(), right: "a right" };
            let trouble = error::status(reply.status, &body, asked, endpoint);
            reply.body = Box::new(Whole(Some(body)));
            Ok((reply, Some(trouble)))
        };
        tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| {
            let silent = Error::new(ErrorKind::Timeout).with_endpoint(endpoint);
            Err((silent.with_detail(format!("no answer within {limit:?}")), false))
        })
    }

    /// An error of a request nobody waits for any longer names the endpoint, which is left.
    pub(crate) fn blame(&self, error: Error) -> Error {
        if *error.kind() != ErrorKind::Timeout || error.endpoint().is_some() {
            return error;
        }
        let at = self.at();
        self.leave(at);
        error.with_endpoint(self.endpoints[at].endpoint())
    }

    /// This endpoint failed: the next one is used from now on, by the waiting queries too.
    pub(crate) fn leave(&self, at: usize) {
        if self.pass_on(at) {
            self.moved.notify_waiters();
        }
    }

    /// Uses the endpoint behind this one, if this is the present one and there is another.
    fn pass_on(&self, at: usize) -> bool {
        let next = (at + 1) % self.endpoints.len().max(1);
        let order = Ordering::Relaxed;
        next != at && self.current.compare_exchange(at, next, order, order).is_ok()
    }

    pub(crate) fn at(&self) -> usize {
        self.current.load(Ordering::Relaxed) % self.endpoints.len().max(1)
    }
}
