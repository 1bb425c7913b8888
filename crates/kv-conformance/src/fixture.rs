//! What a case gets: a namespace of its own, a store handle on it, and more handles when it asks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::join_all;
use kv_core::{Capabilities, Guarantee, Key, Limits, Prefix, Store, StoreExt};

use crate::factory::Factory;
use crate::line::Line;

/// How long a case waits for what should come at once: generous, because a slow machine is no fault
/// of the store, and only reached when something is wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// What a wait that ends by the clock may be late by on a busy machine.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

pub(crate) struct Fixture {
    /// The handle a case works with in the first place.
    pub(crate) store: Arc<dyn Store>,
    factory: Arc<dyn Factory>,
    namespace: Prefix,
    seed: u64,
    opened: Mutex<Vec<Arc<dyn Store>>>,
    lines: Mutex<Vec<(Arc<dyn Store>, Line)>>,
}

impl Fixture {
    pub(crate) async fn open(factory: Arc<dyn Factory>, namespace: Prefix, seed: u64) -> Result<Self> {
        let store = factory.open(&namespace).await.context("opening a handle")?;
        let opened = Mutex::new(vec![Arc::clone(&store)]);
        Ok(Self { store, factory, namespace, seed, opened, lines: Mutex::default() })
    }

    /// Another, independent handle on the same data; closed when the case is over.
    pub(crate) async fn another(&self) -> Result<Arc<dyn Store>> {
        self.another_below("").await
    }

    /// A handle on the namespace `below` this case's own; closed when the case is over.
    pub(crate) async fn another_below(&self, below: &str) -> Result<Arc<dyn Store>> {
        let store = self.untracked_below(below).await?;
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&store));
        Ok(store)
    }

    /// Another, independent handle, of which the fixture keeps no clone: dropping it drops the last.
    pub(crate) async fn untracked(&self) -> Result<Arc<dyn Store>> {
        self.untracked_below("").await
    }

    async fn untracked_below(&self, below: &str) -> Result<Arc<dyn Store>> {
        let namespace = Prefix::new(&format!("{}/{below}", self.namespace))?;
        self.factory.open(&namespace).await.context("opening another handle")
    }

    /// Another, independent handle and the way to its servers, which the case can cut; closed when the case
    /// is over. `None` where the factory can cut nothing.
    pub(crate) async fn on_a_line(&self) -> Result<Option<(Arc<dyn Store>, Line)>> {
        let opened =
            self.factory.open_on_a_line(&self.namespace).await.context("opening a handle on a line")?;
        if let Some((store, line)) = &opened {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push((Arc::clone(store), line.clone()));
        }
        Ok(opened)
    }

    /// Opens another, independent handle, on whatever runtime that is done.
    pub(crate) fn opening(&self) -> impl Future<Output = Result<Arc<dyn Store>>> + Send + 'static {
        let (factory, namespace) = (Arc::clone(&self.factory), self.namespace.clone());
        async move { factory.open(&namespace).await.context("opening another handle") }
    }

    /// What opening a handle on any namespace answers.
    pub(crate) async fn open_namespace(&self, namespace: &Prefix) -> kv_core::Result<Arc<dyn Store>> {
        self.factory.open(namespace).await
    }

    pub(crate) fn capabilities(&self) -> &Capabilities {
        self.store.capabilities()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.capabilities().limits
    }

    /// The key that a native name within `text` stands for, if it lies in this case's namespace.
    pub(crate) fn key_within(&self, text: &str) -> Option<Key> {
        let (_, below) = text.split_once(&format!("{}/", self.namespace))?;
        Key::new(below).ok()
    }

    /// Whether a read on one handle must see what another handle has written.
    pub(crate) fn reads_are_linearizable(&self) -> bool {
        self.capabilities().guarantees(Guarantee::LinearizableReads)
    }

    /// Random numbers that are the same again for the same seed and case.
    pub(crate) fn random(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed)
    }

    /// A time to live that is short to wait for: a second, or the least the store takes.
    pub(crate) fn short_ttl(&self) -> Duration {
        self.limits().ttl.min.max(Duration::from_secs(1))
    }

    /// A time to live that does not end while a case runs.
    pub(crate) fn long_ttl(&self) -> Duration {
        (self.latest_end(self.short_ttl()) * 10 + Duration::from_secs(300)).min(self.limits().ttl.max)
    }

    /// How long after its put a key with this time to live may still be seen.
    pub(crate) fn latest_end(&self, ttl: Duration) -> Duration {
        let granted = self.limits().ttl.check(ttl).unwrap_or(ttl);
        self.limits().ttl_bound.latest(granted)
    }

    /// How long a case may take: long enough for several waits for an expiry, one after the other.
    pub(crate) fn time_limit(&self) -> Duration {
        let limits = self.limits();
        let session = limits.session_bound.min(Duration::from_secs(60));
        let lock = limits.lock_ttl.min.min(Duration::from_secs(60));
        Duration::from_secs(120) + self.latest_end(self.short_ttl()) * 3 + session + lock * 3
    }

    /// Closes every handle the case was given; returns what went wrong.
    pub(crate) async fn close(&self) -> Vec<String> {
        let mut opened = std::mem::take(&mut *self.opened.lock().unwrap_or_else(PoisonError::into_inner));
        // Kept until their handles are closed.
        let lines = std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner));
        for (store, line) in &lines {
            line.mend();
            opened.push(Arc::clone(store));
        }
        join_all(opened.iter().map(|store| store.close()))
            .await
            .into_iter()
            .filter_map(Result::err)
            .map(|error| format!("closing a handle afterwards: {error}"))
            .collect()
    }
}
