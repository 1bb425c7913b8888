//! A layer that measures calls.

use std::time::Instant;

use kv_core::Result;

use crate::kind;
use crate::policy::{Call, Next, Policy};

/// Records the duration of each call, in seconds, in the histogram `db.client.operation.duration` of the
/// `metrics` crate's recorder, with OpenTelemetry's labels `db.system.name`, `db.operation.name`, and
/// `error.type` with the kind of an error where the call failed.
///
/// Keys and values are never recorded. A call that is dropped before it ends is not recorded. Needs the
/// feature `metrics`.
///
/// # Examples
///
/// ```
/// use kv_layers::kv_core::{Result, StoreExt};
/// use kv_layers::{LayerExt, Metrics};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store = kv_mem::MemStore::open(Default::default())?.layered(Metrics::default());
/// store.put("a", "x").await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Metrics {}

const DURATION: &str = "db.client.operation.duration";

impl Policy for Metrics {
    async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, next: Next<'a, T>) -> Result<T> {
        let began = Instant::now();
        let answer = next().await;
        let mut labels = vec![
            ("db.system.name", call.backend.to_owned()),
            ("db.operation.name", call.operation.name().to_owned()),
        ];
        if let Err(error) = &answer {
            labels.push(("error.type", kind::name(error.kind())));
        }
        metrics::histogram!(DURATION, &labels).record(began.elapsed());
        answer
    }
}
