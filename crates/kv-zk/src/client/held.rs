//! Requests that hold a handle of the client crate until they are answered. The crate ends its session
//! when the last of its handles goes, so closing takes them away from whoever does not poll any more.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::client::error::Fault;
use crate::client::wire::Reply;

/// The requests of a session that are under way.
#[derive(Default)]
pub(super) struct Held {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    closed: bool,
    next: u64,
    requests: HashMap<u64, Arc<dyn Cancel>>,
}

impl Held {
    /// The same request, which ends with the session.
    pub(super) fn hold<T: Send + 'static>(
        self: &Arc<Self>,
        request: impl Future<Output = Reply<T>> + Send + 'static,
    ) -> Reply<Holding<T>> {
        let slot = Arc::new(Slot(Mutex::new((Some(Box::pin(request) as Request<T>), None))));
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.closed {
            return Err(Fault::ClientClosed);
        }
        inner.next += 1;
        let id = inner.next;
        inner.requests.insert(id, Arc::clone(&slot) as Arc<dyn Cancel>);
        Ok(Holding { held: Arc::clone(self), id, slot })
    }

    /// Ends all requests, and all that are made from now on.
    pub(super) fn close(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.closed = true;
        let requests = std::mem::take(&mut inner.requests);
        drop(inner);
        for request in requests.into_values() {
            request.cancel();
        }
    }
}

type Request<T> = Pin<Box<dyn Future<Output = Reply<T>> + Send>>;

struct Slot<T>(Mutex<(Option<Request<T>>, Option<Waker>)>);

trait Cancel: Send + Sync {
    fn cancel(&self);
}

impl<T> Cancel for Slot<T> {
    fn cancel(&self) {
        let (request, waker) = {
            let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            (slot.0.take(), slot.1.take())
        };
        drop(request);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// One request under way.
pub(super) struct Holding<T> {
    held: Arc<Held>,
    id: u64,
    slot: Arc<Slot<T>>,
}

impl<T> Future for Holding<T> {
    type Output = Reply<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply<T>> {
        let mut slot = self.slot.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(request) = &mut slot.0 else { return Poll::Ready(Err(Fault::ClientClosed)) };
        match request.as_mut().poll(cx) {
            Poll::Ready(reply) => {
                slot.0 = None;
                Poll::Ready(reply)
            }
            Poll::Pending => {
                slot.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Holding<T> {
    fn drop(&mut self) {
        self.held.inner.lock().unwrap_or_else(PoisonError::into_inner).requests.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn closing_takes_what_nobody_polls_and_wakes_who_waits() {
        let held = Arc::<Held>::default();
        let handle = Arc::new(());
        let endless = |handle: &Arc<()>| {
            let handle = Arc::clone(handle);
            async move {
                std::future::pending::<()>().await;
                drop(handle);
                Ok(())
            }
        };
        let mut idle = Box::pin(held.hold(endless(&handle)).unwrap());
        assert!(futures_util::poll!(&mut idle).is_pending());
        let waiting = tokio::spawn(held.hold(endless(&handle)).unwrap());
        assert_eq!(held.hold(async { Ok(7) }).unwrap().await, Ok(7));
        held.close();
        assert_eq!(Arc::strong_count(&handle), 1);
        assert_eq!(waiting.await.unwrap(), Err(Fault::ClientClosed));
        assert!(held.hold(async { Ok(()) }).is_err());
        assert!(held.inner.lock().unwrap().requests.is_empty());
    }
}
