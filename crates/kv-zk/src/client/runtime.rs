//! The runtime of one session: a thread of its own, on which its client crate runs. It ends with the
//! session, whatever the crate is doing then.

use tokio::runtime::{Builder, Handle, Runtime};

use crate::client::error::Fault;
use crate::client::wire::Reply;

/// A runtime that may be dropped anywhere, also within another one.
pub(super) struct OwnedRuntime {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl OwnedRuntime {
    pub(super) fn start() -> Reply<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("kv-zk")
            .enable_all()
            .build()
            .map_err(|error| Fault::BadRequest(format!("no thread for the session: {error}")))?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for OwnedRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
