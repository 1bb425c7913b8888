//! Through each layer a store passes the conformance suite, with the declarations it has without.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says what it means.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kv_conformance::{Factory, Outcome, RunOptions, UrlFactory, run};
use kv_core::{Prefix, Result, Store};
use kv_layers::{
    Audit, Call, ConcurrencyLimit, FailFast, Faults, LayerExt, Next, Policy, Retry, Timeout, Trace,
};

/// Does nothing.
#[derive(Debug)]
struct Identity;

impl Policy for Identity {
    async fn around<'a, T: Send + 'a>(&'a self, _: Call<'a>, next: Next<'a, T>) -> Result<T> {
        next().await
    }
}

type Layer = fn(Arc<dyn Store>) -> Arc<dyn Store>;

/// Opens memory stores behind a layer.
struct Behind {
    name: &'static str,
    layer: Layer,
    mem: UrlFactory,
}

#[async_trait]
impl Factory for Behind {
    fn label(&self) -> String {
        self.name.to_owned()
    }

    async fn open(&self, namespace: &Prefix) -> Result<Arc<dyn Store>> {
        Ok((self.layer)(self.mem.open(namespace).await?))
    }
}

const LAYERS: &[(&str, Layer)] = &[
    ("retry", |store| Arc::new(store.layered(Retry::default()))),
    ("timeout", |store| Arc::new(store.layered(Timeout::new(Duration::from_secs(60))))),
    ("limit", |store| Arc::new(store.layered(ConcurrencyLimit::new(64)))),
    ("trace", |store| Arc::new(store.layered(Trace::default().with_keys()))),
    ("audit", |store| Arc::new(store.layered(Audit::new(|_| ())))),
    ("fail_fast", |store| Arc::new(store.layered(FailFast::after(1_000_000)))),
    ("faults", |store| Arc::new(store.layered(Faults::seeded(1)))),
    #[cfg(feature = "metrics")]
    ("metrics", |store| Arc::new(store.layered(kv_layers::Metrics::default()))),
    #[cfg(feature = "rate-limit")]
    ("rate_limit", |store| {
        Arc::new(store.layered(kv_layers::RateLimit::per_second(std::num::NonZeroU32::MAX)))
    }),
];

/// All layers, one around the other.
fn all(store: Arc<dyn Store>) -> Arc<dyn Store> {
    LAYERS.iter().fold(store, |store, (_, layer)| layer(store))
}

#[tokio::test]
async fn each_layer_declares_what_the_store_below_declares() {
    for (name, layer) in LAYERS {
        let bare: Arc<dyn Store> = Arc::new(kv_mem::MemStore::open(kv_mem::MemConfig::default()).unwrap());
        let declared = bare.capabilities().clone();
        let layered = layer(bare);
        assert_eq!(*layered.capabilities(), declared, "{name}");
        assert!(layered.as_transact().is_some() && layered.as_lock_view().is_some(), "{name}");
        assert!(layered.as_history().is_some(), "{name}");
    }
}

async fn suite_passes_behind(name: &'static str, layer: Layer) {
    let mem = UrlFactory::new(kv_mem::DRIVER, format!("mem:layer-{name}"));
    let report = run(Arc::new(Behind { name, layer, mem }), &RunOptions::default(), |_, _| {}).await;
    let failed = report.cases.iter().filter(|case| case.outcome.is_failure());
    let failed: Vec<_> = failed.map(|case| format!("{}: {}", case.name, case.detail)).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(report.count(Outcome::Passed) > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_behind_a_layer_that_does_nothing() {
    suite_passes_behind("identity", |store| Arc::new(store.layered(Identity))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_behind_all_layers_at_once() {
    suite_passes_behind("all", all).await;
}
