//! One hold of a lock, as its guard drives it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kv_core::implement::Hold;
use kv_core::{Error, ErrorKind, Fence, LockLoss, Operation, Result};
use tokio::sync::watch;

use crate::client::error::{BACKEND, Fault};
use crate::client::wire::Reply;
use crate::session::grace::Held;

/// What a guard drives.
pub(crate) struct ZkHold {
    pub(crate) fence: Fence,
    pub(crate) held: Arc<Held>,
    /// What came of taking the record away.
    pub(crate) outcome: watch::Receiver<Option<Reply<()>>>,
    pub(crate) timeout: Duration,
}

#[async_trait]
impl Hold for ZkHold {
    fn fence(&self) -> Fence {
        self.fence.clone()
    }

    fn loss(&self) -> Option<LockLoss> {
        let loss = self.held.state.loss();
        if loss.is_some() {
            self.held.tell();
        }
        loss
    }

    async fn lost(&self) -> LockLoss {
        let loss = self.held.state.lost().await;
        self.held.tell();
        loss
    }

    fn grace(&self) -> Duration {
        self.held.state.margin()
    }

    async fn unlock(&self) -> Result<()> {
        let refuse = |error: Error| {
            error.with_operation(Operation::Unlock).with_backend(BACKEND).with_key(self.fence.key().as_str())
        };
        let ours = self.held.state.lose(LockLoss::Released);
        self.held.done();
        if !ours {
            return Err(refuse(Error::not_held(self.held.state.loss())));
        }
        let mut outcome = self.outcome.clone();
        let waiting = outcome.wait_for(Option::is_some);
        let result = match tokio::time::timeout(self.timeout, waiting).await {
            Ok(Ok(result)) => result.clone(),
            Ok(Err(_)) => Some(Err(Fault::ClientClosed)),
            Err(_) => None,
        };
        match result {
            Some(Ok(())) => Ok(()),
            // Gone before we could: with its session, or by another's hand.
            Some(Err(Fault::NoNode)) => Err(refuse(Error::not_held(LockLoss::Removed))),
            Some(Err(Fault::SessionExpired)) => Err(refuse(Error::not_held(LockLoss::SessionLost))),
            Some(Err(fault)) => Err(refuse(fault.into_error().maybe_applied())),
            None => Err(refuse(
                Error::new(ErrorKind::Timeout).with_detail(format!("no answer within {:?}", self.timeout)),
            )),
        }
    }

    fn release(&self) {
        self.held.state.lose(LockLoss::Released);
        self.held.done();
    }
}
