//! Faults: each breaks one promise in one way, and names the cases that must notice.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use kv_core::{
    Bytes, Capabilities, DeleteOptions, DeleteResult, DeleteTreeOptions, Entry, FencingToken, GetOptions,
    Key, KeyVersion, ListOptions, Listing, LockChanges, LockGuard, LockHolder, LockListing, LockOptions,
    Prefix, PutOptions, PutResult, Result, ServerInfo, SessionState, SessionStates, Store, Txn, TxnResult,
    Version, VersionsOptions, Watch, WatchOptions, WatchTarget,
};

mod expiries;
mod faulty;
mod fences;
mod histories;
mod hot_keys;
mod keys;
mod lifecycles;
mod lists;
mod lock_expiry;
mod lock_views;
mod lock_waits;
mod locks;
mod outages;
mod powers;
mod preconditions;
mod reads;
mod recipes;
mod recipes_of_data;
mod servers;
mod sessions;
mod tools;
mod trees;
mod txns;
mod versions;
mod watch_flows;
mod watch_starts;
mod watches;

pub(crate) use faulty::FaultyFactory;

/// Every fault.
pub(crate) fn all() -> Vec<Fault> {
    let mut faults = Vec::new();
    faults.extend(keys::faults());
    faults.extend(reads::faults());
    faults.extend(versions::faults());
    faults.extend(preconditions::faults());
    faults.extend(hot_keys::faults());
    faults.extend(lists::faults());
    faults.extend(trees::faults());
    faults.extend(expiries::faults());
    faults.extend(sessions::faults());
    faults.extend(watch_starts::faults());
    faults.extend(watches::faults());
    faults.extend(watch_flows::faults());
    faults.extend(locks::faults());
    faults.extend(lock_waits::faults());
    faults.extend(lock_expiry::faults());
    faults.extend(outages::faults());
    faults.extend(fences::faults());
    faults.extend(lock_views::faults());
    faults.extend(histories::faults());
    faults.extend(servers::faults());
    faults.extend(txns::faults());
    faults.extend(lifecycles::faults());
    faults.extend(powers::faults());
    faults.extend(recipes::faults());
    faults.extend(recipes_of_data::faults());
    faults
}

pub(crate) use lock_expiry::honest_expiry;
pub(crate) use outages::Outage;
pub(crate) use powers::honest_refusals;
pub(crate) use servers::sound_servers;

type Answer<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;
type Hook0<T> = Option<Box<dyn Fn(Arc<dyn Store>) -> Answer<T> + Send + Sync>>;
type Hook1<A, T> = Option<Box<dyn Fn(Arc<dyn Store>, A) -> Answer<T> + Send + Sync>>;
type Hook2<A, B, T> = Option<Box<dyn Fn(Arc<dyn Store>, A, B) -> Answer<T> + Send + Sync>>;
type Hook3<A, B, C, T> = Option<Box<dyn Fn(Arc<dyn Store>, A, B, C) -> Answer<T> + Send + Sync>>;
type DropHook = Option<Box<dyn Fn(Arc<dyn Store>) + Send + Sync>>;
type Change<T> = Option<Box<dyn Fn(T) -> T + Send + Sync>>;

/// A broken promise. What it does not take over is the memory store's, which each hook gets first.
#[derive(Default)]
pub(crate) struct Fault {
    /// What is wrong, as one would put it in an issue.
    pub(crate) name: &'static str,
    /// The cases that must notice.
    pub(crate) caught_by: &'static [&'static str],
    /// Whether they must call it dishonest.
    pub(crate) dishonest: bool,
    namespace: Change<Prefix>,
    capabilities: Change<Capabilities>,
    get: Hook2<Key, GetOptions, Option<Entry>>,
    put: Hook3<Key, Bytes, PutOptions, PutResult>,
    delete: Hook2<Key, DeleteOptions, DeleteResult>,
    list: Hook2<Prefix, ListOptions, Listing>,
    delete_tree: Hook2<Prefix, DeleteTreeOptions, u64>,
    watch: Hook2<WatchTarget, WatchOptions, Watch>,
    lock: Hook2<Key, LockOptions, LockGuard>,
    lock_holder: Hook1<Key, Option<LockHolder>>,
    session: Option<SessionState>,
    session_states: Change<SessionStates>,
    server: Hook0<ServerInfo>,
    close: Hook0<()>,
    transact: Hook1<Txn, TxnResult>,
    no_transact: bool,
    outage: Outage,
    watch_lock: Hook1<Key, LockChanges>,
    locks: Hook1<Prefix, LockListing>,
    break_lock: Hook2<Key, FencingToken, bool>,
    no_lock_view: bool,
    get_at: Hook2<Key, Version, Option<Entry>>,
    list_at: Hook3<Prefix, Version, ListOptions, Listing>,
    versions: Hook2<Key, VersionsOptions, Vec<KeyVersion>>,
    compact: Hook1<Version, Version>,
    no_history: bool,
    servers: Option<servers::Servers>,
    drop: DropHook,
}

/// Setters that box what they are given.
macro_rules! hooks {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        impl Fault {
            $(pub(crate) fn $name<F>(
                mut self,
                hook: impl Fn(Arc<dyn Store>, $($type),*) -> F + Send + Sync + 'static,
            ) -> Self
            where
                F: Future<Output = Result<$answer>> + Send + 'static,
            {
                self.$name = Some(Box::new(move |store, $($arg),*| Box::pin(hook(store, $($arg),*))));
                self
            })*
        }
    };
}

hooks! {
    get(key: Key, options: GetOptions) -> Option<Entry>;
    put(key: Key, value: Bytes, options: PutOptions) -> PutResult;
    delete(key: Key, options: DeleteOptions) -> DeleteResult;
    list(prefix: Prefix, options: ListOptions) -> Listing;
    delete_tree(prefix: Prefix, options: DeleteTreeOptions) -> u64;
    watch(target: WatchTarget, options: WatchOptions) -> Watch;
    lock(key: Key, options: LockOptions) -> LockGuard;
    lock_holder(key: Key) -> Option<LockHolder>;
    server() -> ServerInfo;
    close() -> ();
    transact(txn: Txn) -> TxnResult;
    watch_lock(key: Key) -> LockChanges;
    locks(prefix: Prefix) -> LockListing;
    break_lock(key: Key, token: FencingToken) -> bool;
    get_at(key: Key, at: Version) -> Option<Entry>;
    list_at(prefix: Prefix, at: Version, options: ListOptions) -> Listing;
    versions(key: Key, options: VersionsOptions) -> Vec<KeyVersion>;
    compact(up_to: Version) -> Version;
}

impl Fault {
    pub(crate) fn new(name: &'static str, caught_by: &'static [&'static str]) -> Self {
        Self { name, caught_by, ..Self::default() }
    }

    /// The same, which the cases must call dishonest.
    pub(crate) fn dishonest(mut self) -> Self {
        self.dishonest = true;
        self
    }

    pub(crate) fn namespace(mut self, change: impl Fn(Prefix) -> Prefix + Send + Sync + 'static) -> Self {
        self.namespace = Some(Box::new(change));
        self
    }

    pub(crate) fn capabilities(
        mut self,
        change: impl Fn(Capabilities) -> Capabilities + Send + Sync + 'static,
    ) -> Self {
        self.capabilities = Some(Box::new(change));
        self
    }

    pub(crate) fn session(mut self, state: SessionState) -> Self {
        self.session = Some(state);
        self
    }

    pub(crate) fn session_states(
        mut self,
        change: impl Fn(SessionStates) -> SessionStates + Send + Sync + 'static,
    ) -> Self {
        self.session_states = Some(Box::new(change));
        self
    }

    pub(crate) fn outage(mut self, outage: Outage) -> Self {
        self.outage = outage;
        self
    }

    pub(crate) fn no_transact(mut self) -> Self {
        self.no_transact = true;
        self
    }

    pub(crate) fn no_lock_view(mut self) -> Self {
        self.no_lock_view = true;
        self
    }

    pub(crate) fn servers(mut self, servers: servers::Servers) -> Self {
        self.servers = Some(servers);
        self
    }

    pub(crate) fn no_history(mut self) -> Self {
        self.no_history = true;
        self
    }

    pub(crate) fn on_drop(mut self, hook: impl Fn(Arc<dyn Store>) + Send + Sync + 'static) -> Self {
        self.drop = Some(Box::new(hook));
        self
    }
}
