//! A layer that traces calls.

use kv_core::Result;
use tracing::Instrument;
use tracing::field::Empty;

use crate::kind;
use crate::policy::{Call, Next, Policy};

/// Opens a `tracing` span for each call, with OpenTelemetry's names for databases: `db.system.name`,
/// `db.operation.name`, and `error.type` with the kind of an error where the call failed.
///
/// Keys are added as `kv.key` only when asked for; values never.
///
/// # Examples
///
/// ```
/// use kv_layers::kv_core::{Result, StoreExt};
/// use kv_layers::{LayerExt, Trace};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store = kv_mem::MemStore::open(Default::default())?.layered(Trace::default().with_keys());
/// store.put("a", "x").await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Trace {
    keys: bool,
}

impl Trace {
    /// The same with the key or prefix of each call.
    #[must_use]
    pub const fn with_keys(mut self) -> Self {
        self.keys = true;
        self
    }
}

impl Policy for Trace {
    async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, next: Next<'a, T>) -> Result<T> {
        let span = tracing::info_span!(
            "kv",
            otel.name = call.operation.name(),
            otel.kind = "client",
            db.system.name = call.backend,
            db.operation.name = call.operation.name(),
            kv.key = Empty,
            "error.type" = Empty,
        );
        if self.keys
            && let Some(path) = call.target.path()
        {
            span.record("kv.key", path);
        }
        let answer = next().instrument(span.clone()).await;
        if let Err(error) = &answer {
            span.record("error.type", kind::name(error.kind()));
            span.in_scope(|| tracing::debug!(%error, "the call failed"));
        }
        answer
    }
}
